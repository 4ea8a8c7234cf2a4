"""The fused kernels against the tiles in float64, on whatever runs Triton here.

`test_fused.py` runs this file under Triton's interpreter, in a process of its own, because the interpreter has to be
chosen before Triton is imported; on a machine with a GPU it runs it on that:

    PYTHONPATH=. python -m pytest -c /dev/null --noconftest --import-mode=importlib \\
        tests/trainers/losses/contrastive/triton/fused_cases.py
"""

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from trainers.losses.contrastive import loss as loss_module
from trainers.losses.contrastive.agreement import Rows, Variants
from trainers.losses.contrastive.loss import HeadsContrast, contrast, contrast_heads, contrastive_loss
from trainers.losses.contrastive.settings import ContrastSettings, VariantSettings
from trainers.losses.contrastive.triton import launch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU or TRITON_INTERPRET=1"),
    # Of numbers that are masked a line later; a GPU does not warn.
    pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning"),
]


def make_rows(num_rows: int = 70, *, tags: int = 50, labelled: float = 0.5, clips: int | None = None) -> Rows:
    """Float32 rows in no order: views of ``clips`` clips (half as many as rows), some of them labelled."""
    g = torch.Generator().manual_seed(num_rows + tags)
    clips = clips or max(1, num_rows // 2)
    place = torch.arange(num_rows) % clips
    clip_id = torch.randint(-(2**62), 2**62, (clips,), generator=g)[place]
    labels = (torch.rand(clips, tags, generator=g) < 0.1) & (torch.rand(clips, 1, generator=g) < labelled)
    z = torch.randn(num_rows, 20, generator=g) * torch.rand(num_rows, 1, generator=g).add(0.1)
    order = torch.randperm(num_rows, generator=g)
    return Rows(z[order].to(DEVICE), clip_id[order].to(DEVICE), labels[place][order].to(DEVICE))


class Found(NamedTuple):
    loss: Tensor
    positives: Tensor
    gradient: Tensor
    gradient_tau: Tensor


def learn(rows: Rows, kernel: Any, temperature: float = 0.1, dtype: torch.dtype = torch.float32, **how: Any) -> Found:
    z = rows.z.to(dtype).requires_grad_()
    tau = torch.tensor(temperature, dtype=dtype, requires_grad=True)
    loss, positives, _ = contrast(rows._replace(z=z), tau, ContrastSettings(tile=32, kernel=kernel, **how))
    return Found(loss.detach(), positives, *torch.autograd.grad(loss, (z, tau)))


@pytest.fixture(autouse=True)
def few_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes as long for a large tile as for a small one."""
    for kernel in ("sums", "gradient") if INTERPRETED else ():
        monkeypatch.setitem(launch.TILINGS, (kernel, torch.float32), launch.Tiling(64, 64, 4, 2, 2))


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def assert_equal_to_tiles(rows: Rows, temperature: float = 0.1, **how: Any) -> None:
    ours, exact = learn(rows, "fused", temperature, **how), learn(rows, "tiles", temperature, torch.float64, **how)
    assert torch.equal(ours.positives, exact.positives), "counts are whole numbers"
    assert ours.loss.item() == pytest.approx(exact.loss.item(), rel=2e-6, abs=1e-7)
    for got, wanted in ((ours.gradient, exact.gradient), (ours.gradient_tau, exact.gradient_tau)):
        # A batch of one clip has no gradient but rounding.
        assert (got - wanted).norm() <= 2e-5 * wanted.norm() + 1e-6


ALL_POSITIVES = [{"criterion": 1}, {"criterion": 3}, {"positives": "weighing"}]


@pytest.mark.parametrize("normaliser", ["mass", "count"])
@pytest.mark.parametrize("positives", ALL_POSITIVES, ids=str)
def test_value_gradients_and_counts_are_those_of_the_tiles(positives: dict[str, Any], normaliser: str) -> None:
    assert_equal_to_tiles(make_rows(150), **positives, normaliser=normaliser)


@pytest.mark.parametrize("positives", ALL_POSITIVES, ids=str)
def test_so_they_are_with_the_running_maximum(positives: dict[str, Any]) -> None:
    assert_equal_to_tiles(make_rows(), temperature=0.01, **positives)


@pytest.mark.parametrize(
    ("num_rows", "temperature"), [(1, 0.1), (1, 0.01), (2, 0.01), (63, 0.1), (64, 0.1), (65, 0.01)]
)
def test_any_number_of_rows(num_rows: int, temperature: float) -> None:
    assert_equal_to_tiles(make_rows(num_rows, tags=3, labelled=0.9), temperature)


@pytest.mark.parametrize(
    "rows",
    [
        make_rows(tags=188),
        make_rows(tags=1, labelled=1.0),
        make_rows()._replace(labels=None),
        make_rows(labelled=0.0),
        make_rows(tags=0),
        make_rows()._replace(labels=torch.ones(70, 3, dtype=torch.bool, device=DEVICE)),
        make_rows()._replace(labels=(torch.arange(70, device=DEVICE) == 40)[:, None]),
        make_rows(clips=4),
        make_rows(clips=1),
        make_rows(clips=70),
    ],
    ids=["188-tags", "one-tag", "None", "unlabelled", "no-tags", "all-one-label", "one-row", "many", "one", "alone"],
)
def test_any_labels_and_clips(rows: Rows) -> None:
    assert_equal_to_tiles(rows)


@pytest.mark.parametrize("rule", ["untreated", "alike", "all"])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_heads_that_leave_an_effect_out_are_those_of_the_tiles(rule: Any, temperature: float) -> None:
    rows = make_rows(150, tags=5, clips=40)
    g = torch.Generator().manual_seed(1)
    heads = torch.randn(150, 3, 20, generator=g).to(DEVICE)
    variants = Variants((torch.rand(150, 2, generator=g) < 0.4).to(DEVICE), VariantSettings(positives=rule))

    def learn_heads(kernel: Any, dtype: torch.dtype) -> tuple[HeadsContrast, Tensor]:
        z = heads.to(dtype).requires_grad_()
        settings = ContrastSettings(tile=32, kernel=kernel)
        result = contrast_heads(rows._replace(z=z), variants, temperature, settings)
        (gradient,) = torch.autograd.grad(result.loss_H.mean(), z)
        return result, gradient

    (ours, gradient), (exact, expected) = learn_heads("fused", torch.float32), learn_heads("tiles", torch.float64)
    assert torch.equal(ours.positives_Hn, exact.positives_Hn), "counts are whole numbers"
    torch.testing.assert_close(ours.loss_H.double(), exact.loss_H, rtol=2e-6, atol=1e-7)
    assert error(gradient, expected) < 2e-5


def test_one_program_a_row_tile_finds_what_several_find(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows()
    several = learn(rows, "fused")
    splits: list[int] = []

    def alone(*_: int) -> int:
        splits.append(1)
        return 1

    monkeypatch.setattr(launch, "even_splits", alone)
    one = learn(rows, "fused")
    assert len(splits) == 2
    assert error(one.gradient, several.gradient) < 2e-6
    assert one.loss.item() == pytest.approx(several.loss.item(), rel=1e-6)


def test_a_row_that_is_not_finite_makes_the_loss_nan() -> None:
    for value in (math.nan, math.inf):
        rows = make_rows(34, tags=0)
        rows.z[3, 1] = value
        for temperature in (0.1, 0.01):
            assert learn(rows, "fused", temperature).loss.isnan()


def test_a_zero_norm_row_gets_no_gradient() -> None:
    rows = make_rows(34, tags=5)
    rows.z[[0, 9]] = 0
    found = learn(rows, "fused")
    assert found.loss.isfinite()
    assert found.gradient.isfinite().all()
    assert found.gradient[[0, 9]].abs().max() == 0
    assert error(found.gradient, learn(rows, "tiles", dtype=torch.float64).gradient) < 2e-5


def test_the_same_rows_give_the_same_bits() -> None:
    first, second = learn(make_rows(66), "fused"), learn(make_rows(66), "fused")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of bfloat16 rows; Triton's interpreter takes bfloat16 for whole numbers in products, so it is helped."""
    monkeypatch.setattr(loss_module, "_wants_half", lambda _z: True)
    if not INTERPRETED:
        return
    from triton.runtime import interpreter

    multiply: Callable[..., Any] = interpreter.InterpreterBuilder.create_dot
    language = interpreter.tl

    def widened(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = [
            interpreter.TensorHandle((x.data.astype("uint32") << 16).view("float32"), language.float32)
            if x.dtype == language.bfloat16
            else x
            for x in (a, b)
        ]
        return multiply(builder, *wide, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", widened)


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("positives", [{"criterion": 1}, {"positives": "weighing"}], ids=str)
def test_bfloat16_products_are_those_of_the_tiles(positives: dict[str, Any], temperature: float) -> None:
    rows = make_rows(140)
    ours, tiles = learn(rows, "fused", temperature, **positives), learn(rows, "tiles", temperature, **positives)
    assert torch.equal(ours.positives, tiles.positives)
    assert ours.loss.item() == pytest.approx(tiles.loss.item(), rel=2e-6)
    # Both round the same numbers, but for those that a last digit sends the other way; the interpreter cuts off.
    assert error(ours.gradient, tiles.gradient) < (5e-3 if INTERPRETED else 2e-3)
    exact = learn(rows, "tiles", temperature, torch.float64, **positives)
    assert 1e-5 < error(ours.gradient, exact.gradient) < 2e-2


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
@pytest.mark.parametrize("num_rows", [1_000, 12_345])
def test_auto_takes_the_kernels_for_bfloat16_on_a_gpu(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(num_rows)
    launched: list[bool] = []
    run = launch.Launch.run

    def counted(*given: Any, **named: Any) -> None:
        launched.append(True)
        run(*given, **named)

    monkeypatch.setattr(launch.Launch, "run", counted)
    with torch.autocast("cuda", torch.bfloat16):
        ours = contrastive_loss(*rows)
        tiles = contrastive_loss(*rows, kernel="tiles")
    assert launched == [True], "one launch of the sums, and the tiles launch none"
    assert ours.item() == pytest.approx(tiles.item(), rel=1e-5)
