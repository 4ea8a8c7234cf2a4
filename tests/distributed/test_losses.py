"""The loss on several ranks is the loss of the global batch: value, gradients after DDP, bytes, refusals."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.distributed import collectives
from trainers.losses.config import LossConfig
from trainers.losses.contrastive.loss import contrastive_loss
from trainers.losses.contrastive.schedule import RowShape, gather_cost, ring_cost, ring_hops
from trainers.losses.objective import ContrastiveLoss
from trainers.losses.projected import Projected

Ranks = Callable[..., list[Any]]
pytestmark = pytest.mark.dist

NUM_ROWS, WIDTH, TAGS = 24, 7, 11


class GlobalBatch(NamedTuple):
    features: Tensor
    clip_id: Tensor
    labels: Tensor


def global_batch(dtype: torch.dtype = torch.float64, num_rows: int = NUM_ROWS) -> GlobalBatch:
    """Rows in an order that puts the two views of nearly every clip on different ranks."""
    g = torch.Generator().manual_seed(3)
    clips = num_rows // 2
    clip_id = torch.randint(-(2**62), 2**62, (clips,), generator=g)
    labels = (torch.rand(clips, TAGS, generator=g) < 0.25) & (torch.rand(clips, 1, generator=g) < 0.6)
    order = torch.randperm(num_rows, generator=g)
    features = torch.randn(num_rows, 5, generator=g, dtype=torch.float64).to(dtype)
    return GlobalBatch(features, clip_id.repeat(2)[order], labels.repeat(2, 1)[order])


def network(dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, WIDTH)).to(dtype)


def learn(config: LossConfig, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Loss, and the gradients of network and temperature after real DDP."""
    rank, world = collectives.rank(), collectives.world_size()
    mine = [part[rank * NUM_ROWS // world : (rank + 1) * NUM_ROWS // world] for part in global_batch(dtype)]
    model, loss = network(dtype), ContrastiveLoss(config).to(dtype)
    wrapped = collectives.data_parallel(model)  # a temporary would take its hooks with it before backward
    value, _ = loss(Projected(z_ND=wrapped(mine[0]), clip_id_N=mine[1], labels_NC=mine[2]))
    torch.autograd.backward(value)
    collectives.average_gradients(loss.parameters())
    return value.detach(), [p.grad for p in (*model.parameters(), *loss.parameters()) if p.grad is not None]


def error(got: list[Tensor], expected: list[Tensor]) -> float:
    a, b = (torch.cat([g.double().flatten() for g in grads]) for grads in (got, expected))
    return float((a - b).norm() / b.norm())


CONFIGS = {
    "paper": LossConfig(learnable=True, tile=5),
    "as_released": LossConfig(learnable=True, epsilon=1e-2, tile=5),
    "alpha-count": LossConfig(learnable=True, positives="weighing", normaliser="count", tile=3),
    "three-tags": LossConfig(learnable=True, criterion=3, tile=512),
    "sharp": LossConfig(learnable=True, temperature=0.003, tile=5),
}


@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_ranks_learn_what_one_process_learns(ranks: Ranks, name: str, world_size: int, exchange: Any) -> None:
    config = CONFIGS[name]
    expected, gradients = learn(config, torch.float64)
    ours = LossConfig(**{**vars(config), "exchange": exchange})
    results = ranks(world_size, learn, ours, torch.float64)
    for value, got in results:
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        assert error(got, gradients) < 1e-12
    assert len({value.item() for value, _ in results}) == 1, "the same bits on every rank"


@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_float32_ranks_stay_close_to_one_process(ranks: Ranks, world_size: int, exchange: Any) -> None:
    config = LossConfig(learnable=True, exchange=exchange)
    expected, gradients = learn(config, torch.float32)
    for value, got in ranks(world_size, learn, config, torch.float32):
        assert value.item() == pytest.approx(expected.item(), rel=2e-6)
        assert error(got, gradients) < 2e-5


@pytest.mark.parametrize("exchange", ["gather", "ring"])
def test_the_same_ranks_repeat_the_same_bits(ranks: Ranks, exchange: Any) -> None:
    config = LossConfig(learnable=True, exchange=exchange)
    first, second = (ranks(3, learn, config, torch.float32) for _ in range(2))
    for (value, gradients), (again, repeated) in zip(first, second, strict=True):
        assert value.item() == again.item()
        assert all(torch.equal(a, b) for a, b in zip(gradients, repeated, strict=True))


def odd_share(exchange: Any) -> tuple[Tensor, Tensor]:
    """One row, then three, on each rank: halves of the ring's last hop are then empty or unequal."""
    rank, world = collectives.rank(), collectives.world_size()
    batch = global_batch()
    share = 3 if exchange.endswith("3") else 1
    rows = slice(rank * share, (rank + 1) * share)
    z = batch.features[rows].clone().requires_grad_()
    loss = contrastive_loss(z, batch.clip_id[rows], batch.labels[rows], exchange=exchange[:4], tile=2)
    (gradient,) = torch.autograd.grad(loss, z)
    return loss.detach(), gradient / world


@pytest.mark.parametrize("share", [1, 3])
@pytest.mark.parametrize("world_size", [2, 4])
def test_a_ring_of_odd_shares_covers_every_pair_once(ranks: Ranks, share: int, world_size: int) -> None:
    batch = GlobalBatch(*(part[: share * world_size] for part in global_batch()))
    z = batch.features.clone().requires_grad_()
    expected = contrastive_loss(z, batch.clip_id, batch.labels)
    (gradient,) = torch.autograd.grad(expected, z)
    results = ranks(world_size, odd_share, f"ring{share}")
    assert results[0][0].item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(torch.cat([g for _, g in results]), gradient, rtol=1e-11, atol=1e-15)


def bytes_sent(exchange: Any) -> tuple[int, int]:
    mine = [part[: NUM_ROWS // 4].contiguous() for part in global_batch(torch.float32)]
    z = mine[0].requires_grad_()
    with collectives.counted() as forward:
        loss = contrastive_loss(z, mine[1], mine[2], exchange=exchange)
    with collectives.counted() as backward:
        torch.autograd.grad(loss, z)
    return forward.total, backward.total


@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_bytes_sent_are_the_formula(ranks: Ranks, world_size: int, exchange: str) -> None:
    rows, width = NUM_ROWS // 4, 5
    block = rows * (4 * width + 8 + math.ceil(TAGS / 8))  # z, clip id, label bits
    agreement = 6 * 8 + 8  # shapes before, the partial sum of the loss after
    if exchange == "gather":
        expected = (world_size - 1) * (block + rows * 3 * 4 + agreement)
    else:
        sums, scalars, gradient = rows * 4 * 8, rows * 3 * 4, rows * 4 * width
        hops = world_size // 2
        expected = hops * (block + sums + block + scalars + gradient) + (world_size - 1) * agreement
    for forward, backward in ranks(world_size, bytes_sent, exchange):
        assert forward == expected
        assert backward == 0


@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_the_simulated_schedule_sends_what_ranks_send(ranks: Ranks, world_size: int, exchange: str) -> None:
    rows = NUM_ROWS // 4 if world_size <= 4 else NUM_ROWS // 8
    shape = RowShape(rows=rows, width=5, tags=TAGS)
    costs = [gather_cost(shape, world_size)] * world_size
    if exchange == "ring":
        costs = [ring_cost(shape, rank, world_size) for rank in range(world_size)]
    for cost, (sent, messages) in zip(costs, ranks(world_size, sent_in_a_step, exchange, rows), strict=True):
        assert sent == cost.bytes_sent
        if exchange == "ring":  # of an all-gather torch alone sees the messages
            assert messages == cost.messages - 2 * (world_size - 1)


def sent_in_a_step(exchange: Any, rows: int) -> tuple[int, int]:
    mine = [part[:rows].contiguous() for part in global_batch(torch.float32)]
    z, messages = mine[0].requires_grad_(), []
    plain = dist.batch_isend_irecv

    def counted(works: Any) -> Any:
        messages.append(len(works) // 2)
        return plain(works)

    dist.batch_isend_irecv = counted  # type: ignore[assignment]
    try:
        with collectives.counted() as traffic:
            torch.autograd.backward(contrastive_loss(z, mine[1], mine[2], exchange=exchange))
    finally:
        dist.batch_isend_irecv = plain
    return traffic.total, sum(messages)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7, 8, 64, 257, 512])
def test_a_ring_of_any_size_computes_every_pair_of_ranks_once(world: int) -> None:
    computed: Counter[frozenset[int]] = Counter()
    for rank in range(world):
        for hop in ring_hops(rank, world):
            computed[frozenset((rank, hop.home))] += 1 if hop.shared else 2  # two ranks share one, half of it each
    assert len(computed) == world * (world - 1) // 2
    assert set(computed.values()) <= {2}


def refusal(rows_by_rank: list[int], tags_by_rank: list[int], exchange: Any) -> str:
    rank = collectives.rank()
    rows, tags = rows_by_rank[rank], tags_by_rank[rank]
    labels = torch.zeros(rows, tags, dtype=torch.bool)
    try:
        contrastive_loss(torch.ones(rows, 3), torch.arange(rows), labels, exchange=exchange)
    except ValueError as error:
        return str(error)
    return "accepted"


@pytest.mark.parametrize("exchange", ["gather", "ring"])
def test_unequal_rows_are_refused_on_every_rank(ranks: Ranks, exchange: str) -> None:
    messages = ranks(3, refusal, [4, 4, 6], [2, 2, 2], exchange, timeout_s=20.0)
    shape = "every rank must bring the same shape (rows, width, tags): rank {} has {}, rank {} has {}"
    assert messages[0] == shape.format(0, (4, 3, 2), 2, (6, 3, 2))
    assert messages[1] == shape.format(1, (4, 3, 2), 2, (6, 3, 2))
    assert messages[2] == shape.format(2, (6, 3, 2), 0, (4, 3, 2))


def test_unequal_vocabularies_are_refused_on_every_rank(ranks: Ranks) -> None:
    messages = ranks(2, refusal, [4, 4], [5, 0], "gather", timeout_s=20.0)
    assert all("every rank must bring the same shape" in message for message in messages)


def one_rank_errs() -> str:
    clip_id = torch.arange(4 if collectives.rank() != 1 else 3)
    try:
        contrastive_loss(torch.ones(4, 3), clip_id, None)
    except ValueError as error:
        return str(error)
    return "accepted"


def test_what_one_rank_refuses_all_refuse(ranks: Ranks) -> None:
    messages = ranks(3, one_rank_errs, timeout_s=20.0)
    assert messages[0] == messages[2] == "rank 1 refused its rows; its own message names the reason"
    assert messages[1].startswith("clip_id must be int64 of shape (4,)")


def nan_on_rank_one() -> Tensor:
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(collectives.rank()))
    if collectives.rank() == 1:
        z[2, 0] = math.nan
    clip_id = torch.arange(4) + 4 * collectives.rank()
    return contrastive_loss(z, clip_id, None)


def test_a_nan_row_makes_the_loss_nan_on_every_rank(ranks: Ranks) -> None:
    assert all(loss.isnan() for loss in ranks(2, nan_on_rank_one))


def one_rank_wants_a_gradient() -> tuple[float, int]:
    mine = [part[: NUM_ROWS // 4] for part in global_batch()]
    z = mine[0].clone().requires_grad_(collectives.rank() == 0)
    loss = contrastive_loss(z, mine[1], mine[2])
    return loss.item(), sum(g.numel() for g in torch.autograd.grad(loss, z)) if z.requires_grad else 0


def test_a_rank_without_gradients_does_not_block_one_that_wants_them(ranks: Ranks) -> None:
    (first, size), (second, none) = ranks(2, one_rank_wants_a_gradient, timeout_s=20.0)
    assert first == second
    assert (size, none) == (NUM_ROWS // 4 * 5, 0)


def in_pairs() -> float:
    """Two groups of two ranks: each is a global batch of its own."""
    rank = collectives.rank()
    groups = [torch.distributed.new_group([0, 1]), torch.distributed.new_group([2, 3])]
    group = groups[rank // 2]
    assert isinstance(group, torch.distributed.ProcessGroup)
    mine = [part[(rank % 2) * 12 : (rank % 2 + 1) * 12] for part in global_batch()]
    return contrastive_loss(*mine, group=group, exchange="ring").item()


def test_a_group_is_its_own_global_batch(ranks: Ranks) -> None:
    expected = contrastive_loss(*global_batch()).item()
    assert ranks(4, in_pairs) == [pytest.approx(expected, rel=1e-12)] * 4
