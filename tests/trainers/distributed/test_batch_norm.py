"""Laws of `sync` and `micro` BatchNorm in one process; tests/distributed has those of several ranks."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.distributed.batch_norm import (
    GlobalNorm,
    MicroBatchNorm,
    SyncBatchNorm,
    convert_batch_norm,
    running_statistics,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3), nn.BatchNorm1d(3)
    ).double()


def rows(num: int, seed: int = 0) -> Tensor:
    return torch.randn(num, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def layers(model: nn.Module) -> list[GlobalNorm]:
    return [module for module in model.modules() if isinstance(module, GlobalNorm)]


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(model(x).sin().sum(), list(model.parameters()))


@pytest.mark.parametrize(("kind", "size"), [("sync", None), ("micro", None), ("micro", 12)])
def test_one_batch_alone_is_torchs_batch_norm(kind: Any, size: int | None) -> None:
    theirs = network()
    ours = convert_batch_norm(copy.deepcopy(theirs), kind, rows=size)
    x = rows(12)
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x), rtol=1e-12, atol=1e-14)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer, rtol=1e-12, atol=1e-15)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-14)


def test_conversion_keeps_state_names_mode_and_type() -> None:
    model = network().eval()
    model.load_state_dict({"1.running_mean": torch.full((4,), 0.5)}, strict=False)
    before = copy.deepcopy(model.state_dict())
    after = convert_batch_norm(model, "micro", rows=4).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(layer.training for layer in layers(model))
    assert repr(layers(model)[0]) == "MicroBatchNorm(4, eps=1e-05, momentum=0.1, rows=4)"


@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
def test_micro_batch_k_is_the_rows_k_of_k(num_groups: int) -> None:
    x = rows(12)
    model = convert_batch_norm(network(), "micro", rows=12 // num_groups)
    whole = model(x)
    for k in range(num_groups):
        torch.testing.assert_close(whole[k::num_groups], network()(x[k::num_groups]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("num_chunks", [1, 2, 3, 6])
def test_micro_statistics_do_not_depend_on_how_the_batch_is_cut_into_calls(num_chunks: int) -> None:
    x = rows(24)
    whole, cut = (convert_batch_norm(network(), "micro", rows=4) for _ in range(2))
    expected = gradients(whole, x)
    with running_statistics(cut, "collect"):
        parts = [gradients(cut, x[k::num_chunks]) for k in range(num_chunks)]
    got = tuple(torch.stack(grads).sum(0) for grads in zip(*parts, strict=True))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)
    for (name, a), (_, b) in zip(whole.named_buffers(), cut.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15, msg=name)


def test_running_statistics_of_micro_are_the_mean_over_micro_batches() -> None:
    x = rows(12)[:, 0, :3]
    norm = MicroBatchNorm(3, rows=6, momentum=0.25).double()
    norm(x)
    groups = [x[k::2] for k in range(2)]
    mean = torch.stack([g.mean(0) for g in groups]).mean(0)
    variance = torch.stack([g.var(0) for g in groups]).mean(0)
    torch.testing.assert_close(norm.running_mean, 0.25 * mean)
    torch.testing.assert_close(norm.running_var, 0.75 + 0.25 * variance)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("kind", ["sync", "micro"])
def test_held_statistics_do_not_move(kind: Any) -> None:
    model = convert_batch_norm(network(), kind)
    before = copy.deepcopy(model.state_dict())
    with running_statistics(model, "hold"):
        model(rows(6))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model(rows(6))
    assert not torch.equal(before["1.running_mean"], model.state_dict()["1.running_mean"])


def test_an_error_drops_what_was_collected() -> None:
    model = convert_batch_norm(network(), "micro")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="expects"), running_statistics(model, "collect"):
        model(torch.zeros(6, 1, 8, dtype=torch.float64)).add(layers(model)[0](torch.zeros(1, 9)))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(layer.running == "update" and layer.collected is None for layer in layers(model))


@pytest.mark.parametrize("kind", ["sync", "micro"])
def test_a_batch_that_is_not_finite_leaves_running_statistics_alone(kind: Any) -> None:
    norm = nn.Sequential(nn.BatchNorm1d(3))
    convert_batch_norm(norm, kind)
    bad = torch.randn(4, 3)
    bad[1, 2] = torch.nan
    norm(bad)
    (layer,) = layers(norm)
    assert layer.running_mean.tolist() == [0, 0, 0]
    assert layer.running_var.tolist() == [1, 1, 1]
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("affine", [True, False])
def test_images_and_layers_without_scale_are_normalised_too(affine: bool) -> None:
    x = torch.randn(6, 5, 3, 2, generator=torch.Generator().manual_seed(0))
    for kind in ("sync", "micro"):
        model = convert_batch_norm(nn.Sequential(nn.BatchNorm2d(5, affine=affine)), kind)
        torch.testing.assert_close(model(x), nn.BatchNorm2d(5)(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: convert_batch_norm(network(), "local"), "batch_norm must be sync or micro, got 'local'"),  # type: ignore[arg-type]
        (
            lambda: convert_batch_norm(network(), "sync", rows=4),
            "leave it out for sync, got 4",
        ),
        (lambda: MicroBatchNorm(3, rows=0), "rows of a micro-batch must be >= 1, got 0"),
        (lambda: SyncBatchNorm(3, momentum=0.0), r"momentum must be in \(0, 1\], got 0.0"),
        (lambda: MicroBatchNorm(3, rows=5)(torch.ones(12, 3)), "12 rows cannot be split into micro-batches of 5"),
        (lambda: MicroBatchNorm(3, rows=1)(torch.ones(12, 3)), "more than one value per channel and micro-batch"),
        (lambda: SyncBatchNorm(3)(torch.ones(1, 3)), "more than one value per channel in training mode"),
        (lambda: SyncBatchNorm(3)(torch.ones(4, 2)), r"BatchNorm expects \(rows, 3, …\), got \(4, 2\)"),
        (
            lambda: convert_batch_norm(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), "sync"),
            "without momentum or running statistics cannot be converted",
        ),
    ],
)
def test_refuses(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
