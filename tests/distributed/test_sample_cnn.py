"""SampleCNN's CPU kernels across ranks: the step of one process, and of the layers as they are written out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.distributed import collectives
from trainers.distributed.batch_norm import convert_batch_norm
from trainers.encoders.sample_cnn import SampleCnn

Ranks = Callable[..., list[Any]]
Step = tuple[Tensor, list[Tensor], list[Tensor]]
pytestmark = pytest.mark.dist

ROWS, FRAMES = 11, 3 * 250 + 2
"""Eleven rows: ranks have unequal shares. The last two frames are seen by no pool."""


def layers(place: int, *, plain: bool) -> nn.Module:
    """The stem, or a block, with scales of both signs; plain keeps torch's own BatchNorm."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = SampleCnn()
        for name, p in encoder.named_parameters():
            if p.ndim == 1:
                nn.init.normal_(p, mean=0.3 if name.endswith("weight") else 0.0)
    model = nn.Sequential(encoder.stem, *encoder.blocks)[place]
    return model if plain else convert_batch_norm(model, "sync")


def step(place: int, dtype: torch.dtype, plain: bool) -> Step:
    """Outputs of this rank's rows, gradients of Σ output · above over all rows, running statistics."""
    g = torch.Generator().manual_seed(1)
    x = 0.2 + torch.randn(ROWS, *((128, FRAMES) if place else (1, 3 * FRAMES)), generator=g)
    above = torch.randn(ROWS, 128, FRAMES // 3 if place else FRAMES, generator=g)
    mine = slice(collectives.rank(), None, collectives.world_size())
    model = layers(place, plain=plain).to(dtype)
    wrapped = collectives.data_parallel(model)
    out = wrapped(x[mine].to(dtype))
    assert out.mT.is_contiguous() != plain  # one by the CPU kernels, one by the plain layers
    torch.autograd.backward((out * above[mine].to(dtype)).sum() * collectives.world_size())  # DDP takes the mean
    # BatchNorm takes a convolution's bias away again: its gradient is rounding.
    gradients = [p.grad for name, p in model.named_parameters() if p.grad is not None and name != "0.bias"]
    return out.detach(), gradients, [buffer.double() for buffer in model.buffers()]


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The greatest of the tensors' errors, each relative to its norm."""
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True)]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("place", "near_ties"), [(0, 2e-5), (1, 5e-3)], ids=["stem", "block"])
def test_ranks_on_the_cpu_road_are_one_process_and_the_plain_layers(
    ranks: Ranks, world_size: int, place: int, near_ties: float
) -> None:
    exact, alone = step(place, torch.float64, True), step(place, torch.float32, False)
    results = ranks(world_size, step, place, torch.float32, False)
    whole = torch.empty_like(alone[0])
    for rank, (out, gradients, buffers) in enumerate(results):
        whole[rank::world_size] = out
        assert error(buffers, alone[2]) < 1e-6
        assert error(buffers, exact[2]) < 1e-6
        assert error(gradients, alone[1]) < 2e-5
        # Where two frames of a pool tie up to rounding the other one may take the gradient.
        assert error(gradients, exact[1]) < near_ties
    assert error([whole], [alone[0]]) < 1e-6
    assert error([whole], [exact[0]]) < 1e-5
