"""Heads that leave an effect out, on several ranks: value, gradients after DDP, one exchange for all heads."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cluster.settings import to_tree
from tests.distributed.training import train_rank
from trainers.config import ExperimentConfig
from trainers.distributed import collectives
from trainers.losses.config import LossConfig
from trainers.losses.contrastive.loss import contrastive_loss
from trainers.losses.objective import VariantLoss
from trainers.losses.projected import Projected
from trainers.losses.variants import variant_contrastive_loss
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

Ranks = Callable[..., list[Any]]
MakeConfig = Callable[..., ExperimentConfig]
pytestmark = pytest.mark.dist

NUM_ROWS, WIDTH, TAGS, VIEWS = 24, 7, 11, 4
EFFECTS = ("pitch", "stretch")


class GlobalBatch(NamedTuple):
    features: Tensor
    clip_id: Tensor
    labels: Tensor
    received: Tensor


def global_batch(p: float = 0.4) -> GlobalBatch:
    """Rows in an order that puts the views of nearly every clip on different ranks."""
    g = torch.Generator().manual_seed(3)
    clips = NUM_ROWS // VIEWS
    clip_id = torch.randint(-(2**62), 2**62, (clips,), generator=g)
    labels = (torch.rand(clips, TAGS, generator=g) < 0.25) & (torch.rand(clips, 1, generator=g) < 0.6)
    order = torch.randperm(NUM_ROWS, generator=g)
    features = torch.randn(NUM_ROWS, 5, generator=g, dtype=torch.float64)
    received = torch.rand(NUM_ROWS, len(EFFECTS), generator=g) < p
    return GlobalBatch(features, clip_id.repeat(VIEWS)[order], labels.repeat(VIEWS, 1)[order], received)


def share(batch: GlobalBatch) -> GlobalBatch:
    """The rows of this rank."""
    rank, world = collectives.rank(), collectives.world_size()
    return GlobalBatch(*(part[rank * NUM_ROWS // world : (rank + 1) * NUM_ROWS // world] for part in batch))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3 * WIDTH)).double()


def learn(config: LossConfig, p: float = 0.4) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Figures, and the gradients of network and temperature after real DDP."""
    mine = share(global_batch(p))
    model, loss = network(), VariantLoss(config, EFFECTS).double()
    wrapped = collectives.data_parallel(model)  # a temporary would take its hooks with it before backward
    received = dict(zip(EFFECTS, mine.received.T, strict=True))
    rows = Projected(z_ND=wrapped(mine.features), clip_id_N=mine.clip_id, labels_NC=mine.labels, received=received)
    value, metrics = loss(rows)
    torch.autograd.backward(value)
    collectives.average_gradients(loss.parameters())
    gradients = [p.grad for p in (*model.parameters(), *loss.parameters()) if p.grad is not None]
    return {"loss": value.detach()} | metrics, gradients


def error(got: list[Tensor], expected: list[Tensor]) -> float:
    a, b = (torch.cat([g.flatten() for g in grads]) for grads in (got, expected))
    return float((a - b).norm() / b.norm())


CONFIGS = {
    "released": LossConfig(learnable=True, epsilon=1e-2, tile=5),
    "positive-anchors": LossConfig(learnable=True, variant_anchors="positive", tile=3),
    "alike": LossConfig(learnable=True, variant_positives="alike", tile=512),
    "all": LossConfig(learnable=True, variant_positives="all", tile=5),
    "sharp": LossConfig(learnable=True, temperature=0.003, tile=5),
}


@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_ranks_learn_what_one_process_learns(ranks: Ranks, name: str, world_size: int, exchange: Any) -> None:
    config = CONFIGS[name]
    expected, gradients = learn(config)
    found = ranks(world_size, learn, LossConfig(**{**vars(config), "exchange": exchange}))
    for figures, got in found:
        for head in ("loss", "loss/invariant", "loss/pitch", "loss/stretch"):
            assert figures[head].item() == pytest.approx(expected[head].item(), rel=1e-12)
        assert error(got, gradients) < 1e-12
    for effect in EFFECTS:
        mean = sum(figures[f"anchors/{effect}"].item() for figures, _ in found) / world_size
        assert mean == pytest.approx(expected[f"anchors/{effect}"].item(), rel=1e-12)
    assert len({figures["loss"].item() for figures, _ in found}) == 1, "the same bits on every rank"


@pytest.mark.parametrize("exchange", ["gather", "ring"])
def test_heads_without_any_positive_neither_learn_nor_hang(ranks: Ranks, exchange: Any) -> None:
    for figures, gradients in ranks(2, learn, LossConfig(exchange=exchange), 1.0, timeout_s=30.0):
        assert figures["loss/pitch"] == figures["loss/stretch"] == 0
        assert figures["loss"].item() == pytest.approx(figures["loss/invariant"].item() / 3, rel=1e-15)
        *_, weight, bias = gradients
        assert weight[WIDTH:].abs().max() == bias[WIDTH:].abs().max() == 0
        assert weight[:WIDTH].abs().max() > 0


def calls(exchange: Any) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Kind and bytes of every collective of a plain loss, and of three heads."""
    mine = share(global_batch())
    z = torch.randn(len(mine.features), 3, 4, dtype=torch.float64, requires_grad=True)
    sent: list[tuple[str, int]] = []
    found = []
    count = collectives._count
    collectives._count = lambda kind, num_bytes: sent.append((kind, num_bytes))
    try:
        for heads in (False, True):
            if heads:
                variant_contrastive_loss(z, mine.clip_id, mine.received, mine.labels, exchange=exchange)
            else:
                contrastive_loss(z[:, 0], mine.clip_id, mine.labels, exchange=exchange)
            found.append(sent.copy())
            sent.clear()
    finally:
        collectives._count = count
    return found[0], found[1]


@pytest.mark.parametrize("world_size", [2, 4])
def test_three_heads_take_one_agreement_and_one_gather(ranks: Ranks, world_size: int) -> None:
    n, others = NUM_ROWS // world_size, world_size - 1
    for plain, heads in ranks(world_size, calls, "gather"):
        assert [kind for kind, _ in heads] == [kind for kind, _ in plain] + ["all_gather"], "one more, for the flags"
        z, clip_id, tags, flags, scalars = 3 * 4 * 8, 8, math.ceil(TAGS / 8), 1, 3 * 3 * 8
        agreement, losses = 6 * 8, 3 * 8
        assert sum(size for _, size in heads) == others * (
            n * (z + clip_id + tags + flags + scalars) + agreement + losses
        )


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_three_heads_send_one_block_around_the_ring(ranks: Ranks, world_size: int) -> None:
    for plain, heads in ranks(world_size, calls, "ring"):
        assert [kind for kind, _ in heads] == [kind for kind, _ in plain]


def refusal(effects_by_rank: list[int]) -> str:
    effects = effects_by_rank[collectives.rank()]
    try:
        variant_contrastive_loss(torch.ones(4, 3, 2), torch.arange(4), torch.zeros(4, effects, dtype=torch.bool))
    except ValueError as error:
        return str(error)
    return "accepted"


def test_what_one_rank_refuses_all_refuse(ranks: Ranks) -> None:
    first, second = ranks(2, refusal, [2, 1], timeout_s=20.0)
    assert first == "rank 1 refused its rows; its own message names the reason"
    assert second.startswith("received must be bool of shape (4, 2)")


def released(rows: GlobalBatch, ranks_of: list[Tensor]) -> Tensor:
    """Head 1 as the released code gathers it: block-diagonal masks, for the positives and for the negatives.

    docs/numerics.md, "What the released code of LOEV gathers".
    """
    z = rows.features
    unit = normalize(z, dim=1)
    exps = (unit @ unit.T / 0.1).exp()
    total = z.new_zeros(())
    for mine in ranks_of:
        block = exps[mine][:, mine].fill_diagonal_(0)
        got, clip = rows.received[mine, 0], rows.clip_id[mine]
        pairs = ((clip[:, None] == clip) & ~got[:, None] & ~got).fill_diagonal_(False)
        terms = -(block / block.sum(1, keepdim=True)).log().where(pairs, 0).sum(1) / pairs.sum(1).clamp(min=1)
        total += terms.sum() / len(z)
    return total


def own_head() -> Tensor:
    mine = share(by_clips())
    z = mine.features[:, None].repeat(1, 2, 1)
    both = variant_contrastive_loss(z, mine.clip_id, mine.received[:, :1])
    return 2 * both - contrastive_loss(mine.features, mine.clip_id, None)


def by_clips() -> GlobalBatch:
    """Whole clips on a rank, as loaders give them."""
    batch = global_batch()
    order = batch.clip_id.argsort(stable=True)
    return GlobalBatch(*(part[order] for part in batch))


def test_the_released_gather_is_the_mean_of_local_losses_and_not_the_loss_of_the_global_batch(ranks: Ranks) -> None:
    batch = by_clips()
    halves = [torch.arange(NUM_ROWS // 2), torch.arange(NUM_ROWS // 2, NUM_ROWS)]
    gathered = released(batch, halves)
    local = [released(GlobalBatch(*(part[half] for part in batch)), [torch.arange(len(half))]) for half in halves]
    whole = released(batch, [torch.arange(NUM_ROWS)])
    assert gathered.item() == pytest.approx((local[0] + local[1]).item() / 2, rel=1e-12)
    assert abs(gathered.item() / whole.item() - 1) > 0.1, "half of the negatives are missing"
    for ours in ranks(2, own_head):
        assert ours.item() == pytest.approx(whole.item(), rel=1e-12)


def run(ranks: Ranks, world: int, config: ExperimentConfig, folder: Path, steps: int) -> list[dict[str, Any]]:
    changed = replace(
        config, optim=replace(config.optim, steps=steps), run=replace(config.run, dir=str(folder), snapshot_every=1)
    )
    assert ranks(world, train_rank, to_tree(changed), timeout_s=120) == [0] * world
    return list(read_metrics(folder / "metrics.jsonl"))


METRICS = ("loss", "loss/invariant", "loss/pitch", "loss/stretch", "anchors/pitch", "alignment/pitch")


@pytest.mark.parametrize("own_blocks", [0, 2])
def test_any_number_of_ranks_trains_the_heads_of_one_and_a_resumed_run_keeps_its_bits(
    ranks: Ranks, make_config: MakeConfig, tmp_path: Path, own_blocks: int
) -> None:
    config = make_config(
        data__batch=8,
        views__count=3,
        head__variant=EFFECTS,
        augment__preset="loev",
        encoder__own_blocks=own_blocks,
        loss__variant_anchors="positive",
    )
    one, two = (run(ranks, world, config, tmp_path / str(world), 3) for world in (1, 2))
    for name in METRICS:
        assert two[0][name] == pytest.approx(one[0][name], rel=5e-6), name
        # Later steps differ by how floating-point sums were ordered, which Adam's division amplifies.
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-2), name
    for steps in (1, 3):
        parts = run(ranks, 2, config, tmp_path / "parts", steps)
    assert [[row[name] for name in METRICS] for row in parts] == [[row[name] for name in METRICS] for row in two]
    files = [(open_snapshot(tmp_path / name).path / "model.safetensors").read_bytes() for name in ("parts", "2")]
    assert files[0] == files[1]
