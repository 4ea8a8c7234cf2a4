"""BatchNorm and gradient caching across ranks: the same as one process, whatever W and K."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.distributed import collectives
from trainers.distributed.batch_norm import convert_batch_norm
from trainers.distributed.gradient_cache import backward_in_chunks
from trainers.losses.contrastive.loss import contrastive_loss

Ranks = Callable[..., list[Any]]
pytestmark = pytest.mark.dist

CLIPS, VIEWS = 24, 2


class Embedded(nn.Sequential):
    """Returns projections and embeddings, as a projector does; here they are the same."""

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        z_ND: Tensor = super().forward(views)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return z_ND, z_ND


def network(kind: Any, dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Embedded(
            nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 6), nn.BatchNorm1d(6)
        ).to(dtype)
    return convert_batch_norm(model, kind, rows=2 * VIEWS if kind == "micro" else None)


def my_slots() -> tuple[Tensor, Tensor, Tensor]:
    """Slots r::W with all their views, view-major: the rows r::W."""
    g = torch.Generator().manual_seed(1)
    views = torch.randn(CLIPS * VIEWS, 1, 8, dtype=torch.float64, generator=g) * 2 + 1
    labels = (torch.rand(CLIPS, 7, generator=g) < 0.2).repeat(VIEWS, 1)
    clip_id = torch.arange(CLIPS).repeat(VIEWS)
    mine = slice(collectives.rank(), None, collectives.world_size())
    return views[mine], clip_id[mine], labels[mine]


def step(kind: str, num_chunks: int, dtype: torch.dtype) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Loss, gradients after DDP and running statistics; 0 chunks is the plain step."""
    views, clip_id, labels = my_slots()
    views = views.to(dtype)
    model = network(kind, dtype)
    wrapped = collectives.data_parallel(model)

    def loss(z: Tensor) -> Tensor:
        return contrastive_loss(z, clip_id, labels)

    if num_chunks:
        value, _, _ = backward_in_chunks(
            wrapped, views, loss, num_clips=CLIPS // collectives.world_size(), num_chunks=num_chunks
        )
    else:
        value = loss(wrapped(views)[0])
        torch.autograd.backward(value)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return value.detach(), gradients, [buffer.double() for buffer in model.buffers()]


def error(got: list[Tensor], expected: list[Tensor]) -> float:
    a, b = (torch.cat([t.double().flatten() for t in tensors]) for tensors in (got, expected))
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("kind", ["sync", "micro"])
def test_ranks_normalise_as_one_process(ranks: Ranks, kind: str, world_size: int, dtype: torch.dtype) -> None:
    expected, gradients, buffers = step(kind, 0, dtype)
    double = dtype == torch.float64
    for value, got, moved in ranks(world_size, step, kind, 0, dtype):
        assert value.item() == pytest.approx(expected.item(), rel=1e-12 if double else 2e-6)
        assert error(got, gradients) < (1e-12 if double else 2e-5)
        assert error(moved, buffers) < (1e-14 if double else 1e-6)


@pytest.mark.parametrize(("world_size", "num_chunks"), [(1, 6), (2, 1), (2, 3), (3, 2), (6, 1)])
def test_chunks_on_a_rank_are_ranks_with_a_chunk(ranks: Ranks, world_size: int, num_chunks: int) -> None:
    expected, gradients, buffers = step("micro", 0, torch.float64)
    for value, got, moved in ranks(world_size, step, "micro", num_chunks, torch.float64):
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        assert error(got, gradients) < 1e-12
        assert error(moved, buffers) < 1e-14


def moments() -> tuple[Tensor, Tensor]:
    """Ranks with unequal rows, and values whose mean dwarfs their spread."""
    rank = collectives.rank()
    x = 1e4 + torch.randn(3 + rank, 2, 5, generator=torch.Generator().manual_seed(rank))
    model = convert_batch_norm(nn.Sequential(nn.BatchNorm1d(2)), "sync")
    return x, model(x).detach()


def test_sync_is_exact_for_unequal_shares_and_stable_far_from_zero(ranks: Ranks) -> None:
    results = ranks(3, moments)
    whole = torch.cat([x for x, _ in results]).double()
    expected = nn.BatchNorm1d(2).double()(whole)
    torch.testing.assert_close(torch.cat([y for _, y in results]).double(), expected, rtol=0, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["sync", "micro"])
def test_a_gpu_normalises_as_the_cpu(kind: str) -> None:
    views, _, _ = my_slots()
    host, device = network(kind, torch.float64), network(kind, torch.float64).cuda()
    torch.testing.assert_close(device(views.cuda()).cpu(), host(views), rtol=1e-11, atol=1e-13)
