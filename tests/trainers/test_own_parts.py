"""Users' own encoders, front-ends, losses and augmentations, from a folder outside the checkout."""

import json
import random
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cluster import entry_points
from cluster.settings import UserError, load_config
from commands.app import app
from trainers.augment.own import OwnAugmentations
from trainers.checks.own_parts import check_own_parts
from trainers.config import ExperimentConfig
from trainers.inference.frozen import load_encoder
from trainers.loop import QUICK
from trainers.losses.own import RESERVED_GROUPS, RESERVED_METRICS
from trainers.pretrain import pretrain
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

MakeConfig = Callable[..., ExperimentConfig]

PARTS = """
import random
import numpy as np
import torch
from torch import nn
from trainers.losses.projected import LossResult

class Net(nn.Module):
    reads = "mel"
    def __init__(self, hidden: int = 8, claimed: int | None = None) -> None:
        super().__init__()
        self.width = claimed or hidden
        self.conv = nn.Conv1d(64, hidden, 3)
    def forward(self, mel):
        return self.conv(mel).mean(2)

class Drops(Net):
    def forward(self, mel):
        h = torch.nn.functional.dropout(super().forward(mel), 0.3, self.training)
        return h * (1 + random.random()) + np.random.rand() if self.training else h

class Loss(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
    def forward(self, batch):
        first, second = torch.nn.functional.normalize(batch.z_ND).chunk(2)
        distance = (first - second).square().sum(1).mean()
        shares = {f"masked/{name}": rows.double().mean() for name, rows in batch.received.items() if name == "Mask"}
        return LossResult(self.scale * distance, {"distance": distance} | shares)

class Mask:
    reads, num_draws = "spectrogram", 1
    def __init__(self, width: int = 4) -> None:
        self.width = width
    def __call__(self, mel, uniform):
        start = (uniform[:, 0] * (mel.shape[2] - self.width)).long()
        place = torch.arange(mel.shape[2])[None]
        hidden = (place >= start[:, None]) & (place < start[:, None] + self.width)
        return mel.masked_fill(hidden[:, None], 0.0)

class Louder(Mask):
    reads = "wave"
    def __call__(self, wave, uniform):
        return wave * (1 + uniform)

class Shorter(Mask):
    def __call__(self, mel, uniform):
        return mel[:, :, 1:]

class Random(Mask):
    def __call__(self, mel, uniform):
        return mel + torch.rand_like(mel)

class NotANumber(Mask):
    def __call__(self, mel, uniform):
        return mel / 0 * 0

class Wrong(nn.Module):
    def forward(self, batch):
        return batch.z_ND

def bands(rate: int, num_bands: int = 64):
    def transform(wave):
        return torch.nn.functional.adaptive_avg_pool1d(wave[:, None], 32).expand(-1, num_bands, -1) * (rate / 22050)
    return transform

def flat():
    return lambda wave: wave
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "own_parts_of_a_test.py").write_text(textwrap.dedent(PARTS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(entry_points, "_imported", {})
    yield "own_parts_of_a_test"
    sys.modules.pop("own_parts_of_a_test", None)


@pytest.fixture
def make_own(make_config: MakeConfig, own: str) -> MakeConfig:
    """A run whose encoder, loss and augmentations are the user's."""

    def make(**overrides: object) -> ExperimentConfig:
        extra = [{"name": f"{own}:Mask", "p": 0.5, "settings": {"width": 6}}, {"name": f"{own}:Louder", "p": 1.0}]
        keys = {
            "encoder__name": f"{own}:Net",
            "encoder__channels": None,
            "encoder__settings": {"hidden": 12},
            "loss__objective": f"{own}:Loss",
            "loss__settings": {"scale": 2.0},
            "augment__extra": extra,
        }
        return make_config(**(keys | overrides))

    return make


def test_a_run_of_own_parts_trains_logs_its_metrics_and_resumes_bit_for_bit(
    make_own: MakeConfig, tmp_path: Path
) -> None:
    unbroken, broken = (make_own(run__dir=str(tmp_path / name)) for name in ("unbroken", "broken"))
    assert pretrain(unbroken) == 0
    assert pretrain(make_own(run__dir=broken.run.dir, optim__steps=4)) == 0
    assert pretrain(broken) == 0
    rows = [list(read_metrics(Path(config.run.dir) / "metrics.jsonl")) for config in (unbroken, broken)]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert all(row["loss"] == pytest.approx(2 * row["distance"]) for row in rows[0])
    assert 0 < sum(row["masked/Mask"] for row in rows[0]) / len(rows[0]) < 1


@pytest.mark.parametrize("micro", [{}, {"optim__micro_batch": 2, "encoder__batch_norm": "micro"}])
def test_what_an_own_encoder_draws_at_random_depends_on_the_step_and_a_resumed_run_has_the_bits_of_an_unbroken_one(
    make_own: MakeConfig, own: str, tmp_path: Path, micro: dict[str, object]
) -> None:
    losses = {}
    for name, steps in (("unbroken", [6]), ("broken", [2, 3, 6])):
        for count in steps:
            torch.manual_seed(count)  # another process finds the generators in another state
            random.seed(count)
            np.random.seed(count)
            keys = {"encoder__name": f"{own}:Drops", "run__dir": str(tmp_path / name), "optim__steps": count}
            assert pretrain(make_own(**keys, **micro)) == 0
            assert random.random() == random.Random(count).random(), "the caller's generators are as they were"
        losses[name] = [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")]
    assert losses["unbroken"] == losses["broken"]
    assert len(set(losses["unbroken"])) == 6
    one, other = (open_snapshot(tmp_path / name).path / "model.safetensors" for name in losses)
    assert one.read_bytes() == other.read_bytes()


def test_a_snapshot_of_own_code_waits_for_trust_and_then_computes_what_the_network_does(
    make_own: MakeConfig,
) -> None:
    config = make_own(optim__steps=2)
    pretrain(config)
    with pytest.raises(UserError, match=r"encoder\.name=own_parts_of_a_test:Net.*--trust-code"):
        load_encoder(config.run.dir)
    encoder = load_encoder(config.run.dir, trust_code=True)
    assert encoder(torch.zeros(3, config.views.samples)).shape == (3, 12)
    Path("own_parts_of_a_test.py").write_text(textwrap.dedent(PARTS).replace("self.conv =", "self.other = self.conv ="))
    sys.modules.pop("own_parts_of_a_test")
    with pytest.raises(UserError, match=r"\(Error.*Missing key.*\); it needs the code .*: encoder\.name=own"):
        load_encoder(config.run.dir, trust_code=True)


def test_an_export_names_the_code_that_it_needs_and_states_that_it_is_not_included(
    make_own: MakeConfig, tmp_path: Path
) -> None:
    config = make_own(optim__steps=1)
    pretrain(config)
    out = tmp_path / "out"
    command = ["export", config.run.dir, "--out", str(out)]
    refused = CliRunner().invoke(app, command).exception
    assert isinstance(refused, UserError)
    assert "encoder.name=own_parts_of_a_test:Net" in str(refused)
    assert not out.exists()
    assert CliRunner().invoke(app, [*command, "--trust-code"], catch_exceptions=False).exit_code == 0
    net = {"entry_point": "own_parts_of_a_test:Net", "settings": {"hidden": 12}}
    assert json.loads((out / "encoder.json").read_text())["own_code"] == {
        "included": False,
        "parts": {"encoder.name": net},
    }
    card = (out / "README.md").read_text()
    for fact in (
        "**not included**",
        '- `encoder.name`: `own_parts_of_a_test:Net`, settings `{"hidden": 12}`',
        "trust_code=True",
        'Mask (p = 0.5): own code `own_parts_of_a_test:Mask`, settings `{"width": 6}`',
    ):
        assert fact in card, fact
    with pytest.raises(UserError, match=r"encoder\.name=own_parts_of_a_test:Net.*--trust-code"):
        load_encoder(out)
    wave_NT = 0.1 * torch.randn(2, config.views.samples, generator=torch.Generator().manual_seed(1))
    first, second = (load_encoder(source, trust_code=True)(wave_NT) for source in (config.run.dir, out))
    assert torch.equal(first, second)


def test_an_own_front_end_gets_the_rate_and_its_settings(make_own: MakeConfig, own: str) -> None:
    encoder = {"encoder__name": f"{own}:Net", "encoder__settings": {}}
    config = make_own(**encoder, frontend__kind=f"{own}:bands", frontend__settings={"num_bands": 64})
    with pytest.raises(UserError, match=f"reads mel, frontend.kind is {own}:bands; set frontend.kind=mel"):
        check_own_parts(config)
    built_in = make_own(
        encoder__name="mel_cnn", encoder__settings={}, frontend__kind=f"{own}:bands", optim__steps=1, augment__extra=[]
    )
    assert pretrain(built_in) == 0


def test_own_draws_depend_on_the_slot_and_not_on_the_rows_beside_it(make_own: MakeConfig) -> None:
    augmentations = OwnAugmentations(make_own().augment.extra)
    slots = torch.arange(64).numpy()
    whole = augmentations.draw(slots, step=3, seed=1, view=0)
    halves = [augmentations.draw(slots[part::2], step=3, seed=1, view=0) for part in (0, 1)]
    for part, half in enumerate(halves):
        assert torch.equal(whole.received_nE[part::2], half.received_nE)
        assert torch.equal(whole.uniform_nK[part::2], half.uniform_nK)
    other = augmentations.draw(slots, step=4, seed=1, view=0)
    assert not torch.equal(whole.uniform_nK, other.uniform_nK)
    assert 0.2 < float(whole.received_nE[:, 0].double().mean()) < 0.8
    assert whole.received_nE[:, 1].all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"encoder__settings": {"hiden": 1}}, r"unknown key encoder\.settings\.hiden; did you mean encoder\.settings"),
        ({"encoder__settings": {"hidden": 8, "claimed": 9}}, r"returned shape \(2, 8\).*must return \(2, 9\)"),
        ({"encoder__name": "{own}:Missing"}, "has no Missing"),
        ({"encoder__name": "no_such_module:Net"}, "no module no_such_module"),
        ({"loss__settings": {"scale": "large"}}, r"loss\.settings\.scale: Input should be a valid number"),
        ({"augment__extra": [{"name": "{own}:Shorter"}]}, r"augment\.extra\.0=.*it returned .*shape \(2, 64, "),
        ({"augment__extra": [{"name": "{own}:Random"}]}, "draws numbers of its own"),
        ({"augment__extra": [{"name": "{own}:NotANumber"}]}, "turned finite spectrograms into NaN or Inf"),
        ({"frontend__kind": "{own}:flat"}, r"frontend\.kind=.*returned shape \(2, 16384\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_starts(
    make_own: MakeConfig, own: str, keys: dict[str, object], message: str, tmp_path: Path
) -> None:
    filled = {
        key: value.format(own=own)
        if isinstance(value, str)
        else [{"name": item["name"].format(own=own)} for item in value]
        if isinstance(value, list)
        else value
        for key, value in keys.items()
    }
    with pytest.raises(UserError, match=message):
        pretrain(make_own(**filled))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_returns_something_else_is_named_on_its_rank(make_own: MakeConfig, own: str) -> None:
    with pytest.raises(UserError, match=r"loss\.objective=.*:Wrong: on rank 0, returned a Tensor, not a LossResult"):
        pretrain(make_own(loss__objective=f"{own}:Wrong", loss__settings={}))


def test_the_names_that_an_own_metric_cannot_have_are_those_of_a_step(make_own: MakeConfig, tmp_path: Path) -> None:
    config = make_own(optim__steps=2, run__report_every=1, run__snapshot_every=1)
    assert pretrain(config) == 0
    rows = list(read_metrics(Path(config.run.dir) / "metrics.jsonl"))
    written = set().union(*rows) - {"distance", "masked/Mask"}
    alone = {name for name in written if "/" not in name}
    assert alone | {"gpu_memory_gib", "finite"} == RESERVED_METRICS  # of a GPU, and what ends a run
    grouped = {name.partition("/")[0] for name in (*written, QUICK, "system/cpu") if "/" in name}
    assert grouped == RESERVED_GROUPS


def test_a_configuration_names_own_parts_without_importing_them() -> None:
    keys = {"encoder.name": "nowhere_to_be_found:Net", "loss.objective": "nor_this:Loss"}
    config = load_config(ExperimentConfig, None, keys)
    assert config.own_parts() == keys
    assert "nowhere_to_be_found" not in sys.modules
