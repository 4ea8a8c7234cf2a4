"""Kernels that cannot be trusted never end a run: compared in the first batch, replaced with a warning, recorded."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.settings import UserError
from data_shards.format.records import Batch
from trainers.augment.chain import AugmentChain
from trainers.augment.parameters import PRESETS
from trainers.augment.passes import Rows
from trainers.checks.start_up import check
from trainers.config import ExperimentConfig
from trainers.frontends.config import FrontendConfig
from trainers.kernel_choice import KernelChoice
from trainers.loop import World, train
from trainers.losses.config import LossConfig
from trainers.losses.contrastive import loss as loss_module
from trainers.losses.contrastive.pairs import Pair, tiled
from trainers.losses.contrastive.tiles import Gradient, Sums
from trainers.losses.contrastive.triton import fused
from trainers.losses.objective import ContrastiveLoss
from trainers.losses.projected import Projected
from trainers.state.snapshot import open_snapshot
from trainers.views.config import ViewsConfig
from trainers.views.views import ViewMaker, window_frames

MakeConfig = Callable[..., ExperimentConfig]
PAPER, T = PRESETS["paper"], 3000


class Quiet:
    def report(self, metrics: Any) -> None:
        pass


def make_batch(clips: int = 6) -> Batch:
    frames = window_frames(ViewsConfig(samples=T), PAPER)
    wave = (3000 * torch.randn(clips, frames, generator=torch.Generator().manual_seed(0))).to(torch.int16)
    slots = torch.arange(clips)
    return Batch(wave, torch.full((clips,), frames), slots, torch.zeros(clips, 1, dtype=torch.bool), slots)


class Kernels:
    """Stand for the chain's kernels: the tensor code with an error of our own, and a count of launches."""

    def __init__(self, broken: Callable[[Tensor], Tensor] = lambda wave: wave) -> None:
        self.broken, self.launches = broken, 0

    def apply(self, chain: AugmentChain, rows: Rows, drawn: Any, num_samples: int) -> Tensor:
        self.launches += 1
        index = rows.start_n[:, None] + torch.arange(rows.length) % rows.frames_n[:, None]
        wave = rows.wave_BW[rows.row_n[:, None], index.clamp(max=rows.wave_BW.shape[1] - 1)].float() * rows.scale
        return self.broken(chain.apply_plain(wave, drawn, num_samples))


def maker_with(monkeypatch: pytest.MonkeyPatch, kernels: Kernels, *, chunk: int = 5) -> ViewMaker:
    """A maker of views on a CPU that takes itself for a GPU with these kernels."""
    maker = ViewMaker(ViewsConfig(samples=T, chunk=chunk), PAPER, FrontendConfig())
    monkeypatch.setattr(AugmentChain, "is_fused", lambda self, _: not self.choice.fell_back)
    monkeypatch.setattr(AugmentChain, "apply_fused", lambda *given: kernels.apply(*given))
    return maker


def plain_views(step: int) -> Tensor:
    config = replace(PAPER, kernel="torch")
    return ViewMaker(ViewsConfig(samples=T, chunk=5), config, FrontendConfig()).make(make_batch(), step=step, seed=0)[0]


def fails(_: Tensor) -> Tensor:
    raise RuntimeError("out of resource: shared memory\nmore")


def one_wrong(wave: Tensor) -> Tensor:
    wave[-1] = wave[-1].flip(0)
    return wave


def not_finite(wave: Tensor) -> Tensor:
    wave[0, 0] = torch.nan
    return wave


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (fails, r"RuntimeError: out of resource: shared memory"),
        (one_wrong, r"1 of 5 views differ"),
        (not_finite, r"1 of 5 views differ"),
        (lambda wave: wave[:, 1:], r"views of shape \(5, 2999\), not \(5, 3000\)"),
    ],
)
def test_views_of_bad_kernels_are_those_of_the_tensor_code_after_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: Callable[[Tensor], Tensor], why: str
) -> None:
    expected = [plain_views(step) for step in range(3)]
    kernels = Kernels(broken)
    maker = maker_with(monkeypatch, kernels)
    for step in range(3):
        assert torch.equal(maker.make(make_batch(), step=step, seed=0).input_N, expected[step])
    (line,) = caplog.messages
    assert line.startswith("augment.kernel=auto: the kernels for views do not work on this device (")
    assert "the tensor code goes on (augment.kernel=torch)" in line
    assert re.search(why, line)
    assert kernels.launches == 1
    assert maker.chain.choice.name == "torch"


def test_kernels_that_agree_are_compared_in_the_first_batch_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = plain_views(4)
    kernels = Kernels(lambda wave: wave * (1 + 1e-4))
    maker = maker_with(monkeypatch, kernels)
    calls: list[int] = []
    plain = AugmentChain.apply_plain

    def counted(*given: Any) -> Tensor:
        calls.append(1)
        return plain(*given)

    for step in range(3):
        maker.make(make_batch(), step=step, seed=0)
    assert maker.chain.choice.name == "fused"
    assert not caplog.messages
    monkeypatch.setattr(AugmentChain, "apply_plain", counted)
    launches = kernels.launches
    maker.make(make_batch(), step=3, seed=0)
    assert len(calls) == kernels.launches - launches  # each call is from within a kernel: none compares
    kernels.broken = fails  # a shape that the first batch did not have
    assert torch.equal(maker.make(make_batch(), step=4, seed=0).input_N, expected)
    assert len(caplog.messages) == 1


def test_kernels_asked_for_by_name_are_refused_where_they_cannot_run(make_config: MakeConfig) -> None:
    message = r"augment.kernel=fused cannot run: .*; set augment.kernel to auto or torch"
    with pytest.raises(ValueError, match=message):
        AugmentChain(replace(PAPER, kernel="fused"), 22_050).is_fused(torch.zeros(1, 10, dtype=torch.float64))
    for change, refusal in (
        ({"augment__kernel": "fused"}, message),
        ({"loss__kernel": "fused"}, r"loss.kernel=fused cannot run: .*; set loss.kernel to auto or tiles"),
    ):
        config = make_config(**change)
        with pytest.raises(UserError, match=refusal):
            check(config)
        with pytest.raises(UserError, match=refusal):
            train(config, World(), Quiet())


# --- the loss ---


def rows() -> Projected:
    g = torch.Generator().manual_seed(1)
    z = torch.randn(24, 8, generator=g)
    labels = torch.rand(12, 5, generator=g) < 0.3
    labels[8:] = False
    return Projected(z_ND=z, clip_id_N=torch.arange(12).repeat(2), labels_NC=labels.repeat(2, 1))


def value_and_gradient(loss: ContrastiveLoss) -> tuple[Tensor, Tensor]:
    batch = rows()
    batch.z_ND.requires_grad_()
    value, _ = loss(batch)
    (gradient,) = torch.autograd.grad(value, batch.z_ND)
    return value.detach(), gradient


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The loss takes its rows for ones of the kernels, which are the tiles on blocks made for kernels."""
    monkeypatch.setattr(loss_module, "obstacle", lambda *_: None)
    monkeypatch.setattr(loss_module, "_wants_half", lambda _: True)

    def launch(tiles: type[Any]) -> Callable[..., None]:
        return lambda self, pair, scalars, rows, cols: tiles.accumulate(
            self, tiled(pair, self.settings.tile), scalars, rows, cols
        )

    monkeypatch.setattr(fused.FusedSums, "_launch", launch(Sums))
    monkeypatch.setattr(fused.FusedGradient, "_launch", launch(Gradient))
    return monkeypatch


def half_way(tiles: type[Any]) -> Callable[..., None]:
    """A launch that fails when the table is already half filled."""

    def launch(self: Any, pair: Pair, scalars: Any, table: Tensor, _cols: Any) -> None:
        del pair, scalars
        table += 7
        raise OSError("ptxas is not there")

    return launch


def wrong(tiles: type[Any]) -> Callable[..., None]:
    def launch(self: Any, pair: Pair, scalars: Any, table: Tensor, cols: Any) -> None:
        tiles.accumulate(self, tiled(pair, self.settings.tile), scalars, table, cols)
        table[1, 0] += 1

    return launch


@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize(("name", "plain"), [("FusedSums", Sums), ("FusedGradient", Gradient)])
@pytest.mark.parametrize(("bad", "why"), [(half_way, "OSError: ptxas is not there"), (wrong, "numbers differ")])
def test_a_loss_with_bad_kernels_is_that_of_the_tiles_after_one_warning(
    fake_gpu: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    exchange: Any,
    name: str,
    plain: type[Any],
    bad: Callable[[type[Any]], Callable[..., None]],
    why: str,
) -> None:
    tiles = value_and_gradient(ContrastiveLoss(LossConfig(kernel="tiles", exchange=exchange)))
    fake_gpu.setattr(getattr(fused, name), "_launch", bad(plain))
    loss = ContrastiveLoss(LossConfig(exchange=exchange))
    for _ in range(3):
        value, gradient = value_and_gradient(loss)
        torch.testing.assert_close(value, tiles[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient, tiles[1], rtol=1e-4, atol=1e-7)
    (line,) = caplog.messages
    assert line.startswith("loss.kernel=auto: the kernels for ")
    assert why in line
    assert loss.choice.name == "tiles"


def test_good_kernels_of_the_loss_are_kept(fake_gpu: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    loss = ContrastiveLoss(LossConfig())
    with torch.no_grad():
        loss(rows())  # no gradient: its kernels are compared when they are first wanted
    value_and_gradient(loss)
    assert loss.choice.name == "fused"
    assert not caplog.messages
    fake_gpu.setattr(fused.FusedGradient, "_launch", wrong(Gradient))
    value_and_gradient(loss)  # trusted from the first batch on
    assert loss.choice.name == "fused"


# --- resuming ---


def test_a_resumed_choice_is_the_recorded_one() -> None:
    choice = KernelChoice("loss.kernel", "tiles")
    assert choice.name is None
    choice.resume("tiles")
    assert choice.run("sums", lambda: 1 / 0, lambda: 2.0, lambda *_: None) == 2
    other = KernelChoice("loss.kernel", "tiles")
    other.resume("fused")
    assert not other.fell_back


def test_a_fallback_is_reported_when_the_steps_before_were_of_the_kernels(caplog: pytest.LogCaptureFixture) -> None:
    choice = KernelChoice("loss.kernel", "tiles")
    choice.resume("fused")
    assert choice.run("sums", lambda: 1.0, lambda: 2.0, lambda *_: "they differ") == 2
    assert "the steps before this resume were computed by the kernels" in caplog.messages[0]


def test_a_run_that_fell_back_goes_on_with_the_tensor_code_after_a_restart(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_config(run__dir=make_config().run.dir + "-whole", optim__steps=4)
    assert train(whole, World(), Quiet()) == 0
    kernels = Kernels(fails)
    monkeypatch.setattr(AugmentChain, "is_fused", lambda self, _: not self.choice.fell_back)
    monkeypatch.setattr(AugmentChain, "apply_fused", lambda *given: kernels.apply(*given))
    assert train(make_config(optim__steps=2), World(), Quiet()) == 0
    recorded = open_snapshot(make_config().run.dir).provenance["kernels"]
    assert recorded == [{"augment.kernel": "torch", "loss.kernel": None}]
    kernels.broken = lambda wave: wave * (1 + 1e-4)  # would be trusted now, and would change the bits
    assert train(make_config(optim__steps=4), World(), Quiet()) == 0
    assert kernels.launches == 1
    assert len(caplog.messages) == 1
    files = [open_snapshot(config.run.dir).path / "model.safetensors" for config in (whole, make_config())]
    assert files[0].read_bytes() == files[1].read_bytes()
