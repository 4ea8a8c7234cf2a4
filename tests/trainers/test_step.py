import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from cluster.settings import UserError
from trainers.config import ExperimentConfig
from trainers.loop import World, train
from trainers.monitor.metrics import alignment_and_uniformity, watched
from trainers.state.optim import learning_rate
from trainers.state.optim_config import OptimConfig
from trainers.state.snapshot import open_snapshot
from trainers.step import StepTrainer
from trainers.views.views import Views

MakeConfig = Callable[..., ExperimentConfig]


class Quiet:
    def report(self, metrics: Any) -> None:
        pass


def test_the_rate_warms_up_linearly_then_falls_along_a_cosine_to_nothing() -> None:
    config = OptimConfig(steps=100, learning_rate=1.0, warmup_steps=10, schedule="cosine")
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_weight_decay_spares_the_temperature_and_all_that_scales_and_shifts(make_config: MakeConfig) -> None:
    config = make_config(optim__weight_decay=0.5, optim__learning_rate=0.1, loss__learnable=True)
    trainer = StepTrainer(config, num_tags=3, device=torch.device("cpu"))
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name] * (0.95 if parameter.ndim >= 2 else 1)), name
    assert {"loss.log_temperature"} < {name for name, old in before.items() if old.ndim < 2}


def test_alignment_and_uniformity_equal_their_definitions() -> None:
    z = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    alignment, uniformity = alignment_and_uniformity(watched(z, 2))
    unit = normalize(z, dim=1)
    first, second = unit[:5], unit[5:]
    pairs = [math.exp(-2 * float((first[i] - first[j]).square().sum())) for i in range(5) for j in range(5) if i != j]
    assert float(alignment) == pytest.approx(
        sum(float((a - b).square().sum()) for a, b in zip(first, second, strict=True)) / 5
    )
    assert float(uniformity) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)


def test_equal_views_are_aligned_and_one_point_is_not_uniform() -> None:
    z = torch.ones(8, 3)
    alignment, uniformity = alignment_and_uniformity(watched(z, 2))
    assert float(alignment) == pytest.approx(0, abs=1e-6)
    assert float(uniformity) == pytest.approx(0, abs=1e-5)


def noise_views(clips: int = 8) -> Views:
    g = torch.Generator().manual_seed(0)
    labels = torch.rand(clips, 3, generator=g) < 0.4
    mel = torch.randn(2 * clips, 64, 32, generator=g)
    return Views(mel, torch.arange(clips).repeat(2), labels.repeat(2, 1), None, {})  # type: ignore[arg-type]  # unused here


def steps(config: ExperimentConfig, num: int = 3) -> tuple[StepTrainer, list[float]]:
    trainer = StepTrainer(config, num_tags=3, device=torch.device("cpu"))
    return trainer, [float(trainer.train_step(noise_views(), step).metrics["loss"]) for step in range(num)]


@pytest.mark.parametrize("norm", [{}, {"encoder__batch_norm": "micro", "optim__micro_batch": 4}])
def test_bfloat16_products_leave_the_loss_close_and_the_weights_float32(
    make_config: MakeConfig, norm: dict[str, object]
) -> None:
    trainer, expected = steps(make_config(**norm))
    half, found = steps(make_config(optim__precision="bfloat16", **norm))
    assert found == pytest.approx(expected, rel=0.02)
    assert found != expected
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    h = half.network(noise_views().input_N).h_NE
    assert h.dtype == torch.float32
    torch.testing.assert_close(h, trainer.network(noise_views().input_N).h_NE, rtol=0.2, atol=0.2)


def test_channels_last_changes_the_order_of_sums_and_nothing_else(make_config: MakeConfig) -> None:
    expected = steps(make_config())[1]
    last, found = steps(make_config(optim__channels_last=True))
    assert found == pytest.approx(expected, rel=1e-4)
    kernels = [p for p in last.model.projector.encoder.parameters() if p.ndim == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    with pytest.raises(UserError, match=r"encoder.name=sample_cnn has none, leave it out"):
        make_config(
            encoder__name="sample_cnn", encoder__channels=None, frontend__kind="wave", optim__channels_last=True
        )
    assert steps(make_config(optim__channels_last="auto"))[1] == found
    wave = {"encoder__name": "sample_cnn", "encoder__channels": None, "frontend__kind": "wave"}
    assert make_config(**wave, views__samples=59_049, optim__channels_last="auto").optim.channels_last == "auto"


def test_a_resumed_run_with_channels_last_keeps_its_bits(make_config: MakeConfig, tmp_path: Path) -> None:
    folders = []
    for name, parts in (("whole", [4]), ("parts", [2, 4])):
        for num in parts:
            config = make_config(optim__channels_last=True, optim__steps=num, run__dir=str(tmp_path / name))
            train(config, World(), Quiet())
        folders.append(open_snapshot(tmp_path / name).path)
    files = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert files[0] == files[1]


def test_checkpointed_blocks_leave_every_bit(make_config: MakeConfig) -> None:
    assert steps(make_config(optim__checkpoint_blocks=2))[1] == steps(make_config())[1]
    with pytest.raises(UserError, match=r"optim.checkpoint_blocks=9: the encoder has 4 blocks"):
        steps(make_config(optim__checkpoint_blocks=9))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # inductor compiles C++
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_a_compiled_step_is_the_eager_one(make_config: MakeConfig) -> None:
    assert steps(make_config(optim__compile=True))[1] == pytest.approx(steps(make_config())[1], rel=1e-4)


def test_compiling_without_a_compiler_names_what_is_missing(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, and g\+\+ or clang\+\+ is not on PATH"):
        steps(make_config(optim__compile=True))


def test_compiling_an_encoder_with_a_cpu_road_of_its_own_is_refused_on_a_cpu(make_config: MakeConfig) -> None:
    config = make_config(
        encoder__name="sample_cnn",
        encoder__channels=None,
        frontend__kind="wave",
        views__samples=59_049,
        optim__compile=True,
    )
    with pytest.raises(UserError, match="on a CPU SampleCnn has operations of its own"):
        StepTrainer(config, num_tags=3, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ema_decay": 1.0}, r"ema_decay must be in \(0, 1\), got 1.0"),
        ({"checkpoint_blocks": -1}, "checkpoint_blocks must be >= 0"),
        ({"compile": True, "checkpoint_blocks": 1}, "leave checkpoint_blocks out"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimConfig(**change)


def test_phases_and_metrics_of_a_step_are_named(make_config: MakeConfig) -> None:
    trainer = StepTrainer(make_config(), num_tags=3, device=torch.device("cpu"))
    result = trainer.train_step(noise_views(), 0, log_details=True)
    assert list(result.clock.seconds()) == ["encoder", "loss", "optimiser", "metrics"]
    assert min(result.clock.seconds().values()) > 0
    expected = {"loss", "grad_norm", "alignment", "uniformity", "effective_rank", "finite", "positives", "sparsity"}
    assert expected <= result.metrics.keys()
    assert "effective_rank" not in trainer.train_step(noise_views(), 1).metrics
