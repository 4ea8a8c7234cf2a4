"""The fused kernels on several ranks: `test_fused.py` of trainers runs this file under Triton's interpreter."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.distributed import collectives
from trainers.losses.contrastive.loss import contrastive_loss

Ranks = Callable[..., list[Any]]
pytestmark = [
    pytest.mark.dist,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1"),
]


def global_batch(num_rows: int) -> list[Tensor]:
    """Rows in an order that puts the views of nearly every clip on different ranks."""
    g = torch.Generator().manual_seed(3)
    clips = num_rows // 3
    clip_id = torch.randint(-(2**62), 2**62, (clips,), generator=g)
    labels = (torch.rand(clips, 11, generator=g) < 0.25) & (torch.rand(clips, 1, generator=g) < 0.6)
    order = torch.randperm(3 * clips, generator=g)
    z = torch.randn(3 * clips, 7, generator=g)
    return [z, clip_id.repeat(3)[order], labels.repeat(3, 1)[order]]


def learn(num_rows: int, settings: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Loss, own part of the gradient, and bytes sent."""
    rank, world = collectives.rank(), collectives.world_size()
    mine = [part[rank * len(part) // world : (rank + 1) * len(part) // world] for part in global_batch(num_rows)]
    z = mine[0].to(dtype, copy=True).requires_grad_()
    with collectives.counted() as traffic:
        loss = contrastive_loss(z, *mine[1:], **settings)
        (gradient,) = torch.autograd.grad(loss, z)
    return loss.detach(), gradient / world, traffic.total


@pytest.mark.parametrize(
    ("world_size", "settings"),
    [
        (2, {"exchange": "gather", "positives": "weighing"}),
        (3, {"exchange": "gather", "criterion": 2}),
        (3, {"exchange": "gather", "temperature": 0.01}),
        (2, {"exchange": "ring", "positives": "weighing"}),
        (3, {"exchange": "ring", "criterion": 2}),
        (2, {"exchange": "ring", "temperature": 0.01}),
    ],
    ids=str,
)
def test_ranks_find_what_one_process_finds(ranks: Ranks, world_size: int, settings: dict[str, Any]) -> None:
    expected, gradient, _ = learn(66, settings, torch.float64)
    found = ranks(world_size, learn, 66, settings | {"kernel": "fused"}, torch.float32)
    tiles = ranks(world_size, learn, 66, settings | {"kernel": "tiles"}, torch.float32)
    assert len({loss.item() for loss, _, _ in found}) == 1, "the same bits on every rank"
    assert found[0][0].item() == pytest.approx(expected.item(), rel=2e-6)
    whole = torch.cat([part for _, part, _ in found]).double()
    assert (whole - gradient).norm() < 2e-5 * gradient.norm()
    assert [sent for *_, sent in found] == [sent for *_, sent in tiles], "the same bytes"
