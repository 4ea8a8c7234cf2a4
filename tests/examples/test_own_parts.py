"""The examples for own parts run as they stand in examples/."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cluster import entry_points
from cluster.settings import ROOT
from trainers.config import ExperimentConfig
from trainers.losses.projected import Projected
from trainers.pretrain import pretrain
from trainers.state.metrics_log import read_metrics

EXAMPLES = ROOT / "examples"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(entry_points, "_imported", {})
    yield
    for name in ("own_encoder", "own_loss", "own_augmentation"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize(
    ("keys", "metric"),
    [
        (
            {"encoder__name": "own_encoder:TinyNet", "encoder__settings": {"hidden": 32}, "encoder__channels": None},
            "loss",
        ),
        ({"loss__objective": "own_loss:VicReg", "loss__settings": {"variance": 25.0}}, "vicreg/covariance"),
        ({"augment__extra": [{"name": "own_augmentation:SpecAugment", "settings": {"frames": 9}}]}, "loss"),
    ],
    ids=["encoder", "loss", "augmentation"],
)
def test_an_example_trains(make_config: Callable[..., ExperimentConfig], keys: dict[str, object], metric: str) -> None:
    config = make_config(optim__steps=2, **keys)
    assert pretrain(config) == 0
    rows = list(read_metrics(Path(config.run.dir) / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row[metric] > 0 for row in rows)


@pytest.mark.usefixtures("examples")
def test_vicreg_is_the_papers_formula() -> None:
    vicreg = entry_points.create("own_loss:VicReg", {}, "loss.objective")
    first, second = (torch.randn(16, 5, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    result = vicreg(Projected(z_ND=torch.cat([first, second]), clip_id_N=torch.arange(16).repeat(2), num_views=2))
    invariance = ((first - second) ** 2).mean()
    variance = sum(torch.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (first, second)) / 2
    off_diagonal = 1 - torch.eye(5, dtype=torch.float64)
    covariance = sum(((z.T.cov() * off_diagonal) ** 2).sum() / 5 for z in (first, second))
    assert result.loss.item() == pytest.approx(float(25 * invariance + 25 * variance + covariance), rel=1e-12)


@pytest.mark.usefixtures("examples")
def test_masks_are_no_wider_than_asked_and_depend_on_their_numbers_alone() -> None:
    mask = entry_points.create("own_augmentation:SpecAugment", {"frames": 5, "bands": 3}, "augment.extra.0.name")
    uniform = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
    hidden = mask(torch.ones(32, 64, 40), uniform) == 0
    assert torch.equal(hidden, mask(torch.ones(32, 64, 40), uniform) == 0)
    assert hidden.all(1).sum(1).max() <= 5
    assert hidden.all(2).sum(1).max() <= 3
    assert hidden.any()


def test_the_loop_of_one_s_own_is_short_and_trains(tiny_sets: tuple[Path, Path]) -> None:
    lines = (EXAMPLES / "own_loop.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 30
    command = [sys.executable, str(EXAMPLES / "own_loop.py"), str(tiny_sets[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    losses = json.loads(done.stdout)
    assert len(losses) == 10
    assert min(losses[5:]) < losses[0]
