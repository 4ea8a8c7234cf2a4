"""What users' parts may get wrong: one message names the part and what is wrong, before a run makes its folder."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import entry_points
from cluster.settings import UserError
from commands.app import describe_error
from trainers.config import ExperimentConfig
from trainers.pretrain import pretrain

MakeConfig = Callable[..., ExperimentConfig]
MODULE = "own_contracts_of_a_test"

PARTS = """
import random
import sys
import numpy as np
import torch
from torch import nn
from counterpoint import LossResult

class Net(nn.Module):
    reads = "mel"
    def __init__(self) -> None:
        super().__init__()
        self.width, self.conv = np.int64(8), nn.Conv1d(64, 8, 3)
    def forward(self, mel):
        return self.conv(mel).mean(2)

class Double(Net):
    def forward(self, mel):
        return super().forward(mel).double()
class InPlace(Net):
    def forward(self, mel):
        return super().forward(mel.mul_(0.5))
class Detached(Net):
    def forward(self, mel):
        return super().forward(mel).detach()
class Lazy(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv1d(8, 3)
class Misread(Net):
    reads = "mell"
class NoWidthYet(Net):
    def __init__(self) -> None:
        nn.Module.__init__(self)
    @property
    def width(self):
        raise RuntimeError("no width yet")
class Leaves(Net):
    def forward(self, mel):
        sys.exit(0)
class OnlyTwo(Net):
    def forward(self, mel):
        if len(mel) > 2:
            raise ValueError("two rows, please")
        return super().forward(mel)

def distance(batch):
    first, second = nn.functional.normalize(batch.z_ND).chunk(2)
    return (first - second).square().sum(1).mean()
def loss_of(function):
    return lambda: function
Plain = loss_of(lambda batch: LossResult(distance(batch), {"my distance/mean": distance(batch)}))
Raises = loss_of(lambda batch: LossResult(batch.labels.sum(), {}))
Exits = loss_of(lambda batch: sys.exit(0))
NoGradient = loss_of(lambda batch: LossResult(distance(batch).detach(), {}))
NotFinite = loss_of(lambda batch: LossResult(distance(batch) * torch.nan, {}))
NoMetrics = loss_of(lambda batch: LossResult(distance(batch), None))
Complex = loss_of(lambda batch: LossResult(distance(batch) * 1j, {}))
Slashes = loss_of(lambda batch: LossResult(distance(batch), {"/a//b": distance(batch)}))
Number = loss_of(lambda batch: LossResult(distance(batch), {3: distance(batch)}))
Speed = loss_of(lambda batch: LossResult(distance(batch), {"clips_per_s": distance(batch)}))
Changes = loss_of(lambda batch: (batch.z_ND.mul_(2), LossResult(distance(batch), {}))[1])

class Augmentation:
    reads, num_draws = "wave", 1
    def __call__(self, wave, uniform):
        return wave
class AtTheEnd(Augmentation):
    def __call__(self, wave, uniform):
        return torch.where(uniform > 0.99, torch.nan, wave)
class Seeds(Augmentation):
    def __call__(self, wave, uniform):
        torch.manual_seed(0)
        return wave + torch.randn_like(wave)
class SeedsNumpy(Augmentation):
    def __call__(self, wave, uniform):
        np.random.seed(3)
        return wave * np.float32(np.random.rand())
class SeedsPython(Augmentation):
    def __call__(self, wave, uniform):
        random.seed(3)
        return wave * random.random()
class Mixes(Augmentation):
    def __call__(self, wave, uniform):
        return wave - wave.mean(0)
class TooMany(Augmentation):
    num_draws = 10**9
class NotYet(Augmentation):
    @property
    def num_draws(self):
        raise RuntimeError("later")

def pooled(wave):
    return nn.functional.adaptive_avg_pool1d(wave[:, None], 32).expand(-1, 64, -1)
def doubled():
    return lambda wave: pooled(wave).double()
def noisy():
    return lambda wave: pooled(wave) + torch.rand(1)
def no_frames():
    return lambda wave: pooled(wave)[:, :, :0]
def in_place():
    return lambda wave: pooled(wave.mul_(2))
"""


@pytest.fixture(autouse=True)
def _parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{MODULE}.py").write_text(textwrap.dedent(PARTS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(entry_points, "_imported", {})
    yield
    sys.modules.pop(MODULE, None)


def keys_for(part: str, name: str) -> dict[str, object]:
    entry = f"{MODULE}:{name}"
    if part == "encoder":
        return {"encoder__name": entry, "encoder__channels": None}
    if part == "augmentation":
        return {"augment__extra": [{"name": entry}]}
    return {"loss__objective": entry} if part == "loss" else {"frontend__kind": entry}


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("encoder", "Double", r"returned torch\.float64 .* for views of torch\.float32"),
        ("encoder", "InPlace", "changes its views in place"),
        ("encoder", "Detached", "no parameter gets a gradient; take detach and no_grad out"),
        ("encoder", "Lazy", r"its parameter conv\.weight has no shape"),
        ("encoder", "Misread", r"reads names mell; front-ends are .*did you mean mel\?"),
        ("encoder", "NoWidthYet", r"its attribute width failed \(RuntimeError: no width yet\)"),
        ("encoder", "Leaves", r"its forward failed on views of shape .* \(SystemExit: 0\)"),
        ("loss", "Raises", r"failed on projections of shape \(16, 16\) \(AttributeError: .* 'labels'\)"),
        ("loss", "Exits", r"failed on projections .*\(SystemExit: 0\)"),
        ("loss", "NoGradient", "does not depend on the projections"),
        ("loss", "NotFinite", "its loss of finite projections is nan"),
        ("loss", "NoMetrics", "its metrics must be a dictionary"),
        ("loss", "Complex", r"must be a real number, got torch\.complex64"),
        ("loss", "Slashes", r"its metric '/a//b' must be named in letters"),
        ("loss", "Number", r"its metric 3 must be named in letters"),
        ("loss", "Speed", "clips_per_s has the name of a metric of every step"),
        ("loss", "Changes", "changes the projections that it is given in place"),
        ("augmentation", "AtTheEnd", "turned finite waves into NaN or Inf"),
        ("augmentation", "Seeds", "from a global generator"),
        ("augmentation", "SeedsNumpy", "from a global generator"),
        ("augmentation", "SeedsPython", "from a global generator"),
        ("augmentation", "Mixes", "a row's result depends on the rows beside it"),
        ("augmentation", "TooMany", r"whole number from 0 to 1,048,576, got 1000000000"),
        ("augmentation", "NotYet", r"reads and num_draws failed \(RuntimeError: later\)"),
        ("frontend", "doubled", r"returned torch\.float64"),
        ("frontend", "noisy", r"two calls with the same waves differ"),
        ("frontend", "no_frames", r"returned shape \(2, 64, 0\)"),
        ("frontend", "in_place", "changes its waves in place"),
    ],
)
def test_a_part_that_breaks_its_contract_is_refused_before_anything_starts(
    make_config: MakeConfig, part: str, name: str, message: str
) -> None:
    config = make_config(**keys_for(part, name))
    key = {"encoder": "encoder.name", "loss": "loss.objective", "augmentation": "augment.extra.0"}
    with pytest.raises(UserError, match=f"(?s){key.get(part, 'frontend.kind')}={MODULE}:{name}.*{message}"):
        pretrain(config)
    assert not Path(config.run.dir).exists()


@pytest.mark.parametrize(("part", "name"), [("encoder", "Net"), ("loss", "Plain"), ("augmentation", "Augmentation")])
def test_a_part_that_keeps_its_contract_trains(make_config: MakeConfig, part: str, name: str) -> None:
    assert pretrain(make_config(**keys_for(part, name), optim__steps=1)) == 0


def test_what_fails_in_the_middle_of_a_run_is_described_by_its_line_and_not_as_an_internal_error(
    make_config: MakeConfig,
) -> None:
    with pytest.raises(ValueError, match="two rows") as caught:
        pretrain(make_config(**keys_for("encoder", "OnlyTwo")))
    message, code = describe_error(caught.value)
    line = next(n for n, text in enumerate(PARTS.splitlines(), 1) if "two rows, please" in text)
    assert f"{MODULE}.py, line {line}, in OnlyTwo.forward (ValueError: two rows, please)" in message
    assert "internal error" not in message
    assert code == 1
