"""Two-pass gradient caching is the plain step: gradients, running statistics, draws."""

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainers.distributed.batch_norm import convert_batch_norm
from trainers.distributed.gradient_cache import backward_in_chunks
from trainers.losses.config import LossConfig
from trainers.losses.objective import ContrastiveLoss
from trainers.losses.projected import Projected

CLIPS, VIEWS, MICRO_CLIPS = 12, 2, 2


class Embedded(nn.Sequential):
    """Returns projections and embeddings, as a projector does; here they are the same."""

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        z_ND: Tensor = super().forward(views)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return z_ND, z_ND


def network(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model = Embedded(
        nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(24, 6)
    )
    return convert_batch_norm(model.double(), "micro", rows=MICRO_CLIPS * VIEWS)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    views = torch.randn(CLIPS * VIEWS, 1, 8, dtype=torch.float64, generator=g)
    labels = torch.rand(CLIPS, 7, generator=g) < 0.2
    return views, torch.randperm(CLIPS, generator=g).repeat(VIEWS), labels.repeat(VIEWS, 1)


def criterion() -> ContrastiveLoss:
    return ContrastiveLoss(LossConfig(learnable=True)).double()


def of(loss: ContrastiveLoss, clip_id: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss as a function of the projections alone."""
    return lambda z_ND: loss(Projected(z_ND=z_ND, clip_id_N=clip_id, labels_NC=labels)).loss


def plain_step() -> tuple[nn.Module, ContrastiveLoss, Tensor]:
    model, loss = network(), criterion()
    views, clip_id, labels = batch()
    value, _ = loss(Projected(z_ND=model(views)[0], clip_id_N=clip_id, labels_NC=labels))
    torch.autograd.backward(value)
    return model, loss, value.detach()


@pytest.mark.parametrize("num_chunks", [1, 2, 3, 6])
def test_chunks_give_the_gradient_and_the_statistics_of_the_whole_batch(num_chunks: int) -> None:
    expected_model, expected_loss, expected = plain_step()
    model, loss = network(), criterion()
    views, clip_id, labels = batch()
    value, z_ND, h_NE = backward_in_chunks(
        model,
        views,
        of(loss, clip_id, labels),
        num_clips=CLIPS,
        num_chunks=num_chunks,
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert not z_ND.requires_grad
    assert torch.equal(z_ND, h_NE)
    with torch.no_grad():
        torch.testing.assert_close(z_ND, network()(views)[0], rtol=1e-12, atol=1e-14)
    for module, wanted in ((model, expected_model), (loss, expected_loss)):
        for a, b in zip(module.parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-13)
        for moved, buffer in zip(module.buffers(), wanted.buffers(), strict=True):
            torch.testing.assert_close(moved, buffer, rtol=1e-12, atol=1e-15)


def test_both_passes_draw_the_same_dropout() -> None:
    views, clip_id, labels = batch()
    loss = criterion()
    seen: list[Tensor] = []
    model = network(dropout=0.5)
    model.register_forward_hook(lambda _module, _input, pair: seen.append(pair[0].detach()))
    torch.manual_seed(5)
    backward_in_chunks(
        model,
        views,
        of(loss, clip_id, labels),
        num_clips=CLIPS,
        num_chunks=3,
    )
    after = torch.rand(3)
    assert len(seen) == 6
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(seen[0], seen[1])
    torch.manual_seed(5)
    for k in range(3):
        model(views[k::3])
    assert torch.equal(after, torch.rand(3)), "the generator ends where a plain step leaves it"


class Shaken(nn.Module):
    """Draws from the generators of Python and NumPy."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 6).double()

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        h = self.layer(views.flatten(1)) * (1 + random.random()) + np.random.rand()
        return h, h


def test_both_passes_draw_the_same_from_any_global_generator() -> None:
    views, clip_id, labels = batch()
    seen: list[Tensor] = []
    model = Shaken()
    model.register_forward_hook(lambda _module, _input, pair: seen.append(pair[0].detach()))
    backward_in_chunks(model, views, of(criterion(), clip_id, labels), num_clips=CLIPS, num_chunks=3)
    assert all(torch.equal(first, second) for first, second in zip(seen[:3], seen[3:], strict=True))


def test_only_one_chunk_of_activations_is_alive() -> None:
    """Every forward that builds a graph sees one chunk, and the one before is gone when the next begins."""
    views, clip_id, labels = batch()
    sizes: list[tuple[int, bool]] = []
    model, loss = network(), criterion()
    model.register_forward_hook(lambda _module, inputs, pair: sizes.append((len(inputs[0]), pair[0].requires_grad)))
    backward_in_chunks(
        model,
        views,
        of(loss, clip_id, labels),
        num_clips=CLIPS,
        num_chunks=6,
    )
    assert sizes == [(4, False)] * 6 + [(4, True)] * 6


def test_gradients_accumulate_on_what_is_there() -> None:
    views, clip_id, labels = batch()
    model, loss = network(), criterion()
    for _ in range(2):
        backward_in_chunks(
            model,
            views,
            of(loss, clip_id, labels),
            num_clips=CLIPS,
            num_chunks=2,
        )
    once = plain_step()[0]
    for a, b in zip(model.parameters(), once.parameters(), strict=True):
        assert b.grad is not None
        torch.testing.assert_close(a.grad, 2 * b.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("num_clips", "num_chunks", "message"),
    [
        (12, 5, "24 rows of 12 clips cannot be split into 5 chunks of whole clips"),
        (12, 0, "cannot be split into 0 chunks"),
        (7, 7, "24 rows of 7 clips"),
    ],
)
def test_refuses_numbers_that_do_not_divide(num_clips: int, num_chunks: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backward_in_chunks(network(), batch()[0], torch.sum, num_clips=num_clips, num_chunks=num_chunks)


def test_refuses_layers_that_mix_chunks() -> None:
    model = Embedded(nn.Linear(8, 3), nn.BatchNorm1d(3))
    for name in ("BatchNorm1d", "SyncBatchNorm"):
        with pytest.raises(ValueError, match=f"only with micro BatchNorm, and 1 is a {name}"):
            backward_in_chunks(model, torch.ones(4, 8), torch.sum, num_clips=2, num_chunks=1)
        convert_batch_norm(model, "sync")
    before = copy.deepcopy(model.state_dict())
    backward_in_chunks(model.eval(), torch.ones(4, 8), torch.sum, num_clips=2, num_chunks=2)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
