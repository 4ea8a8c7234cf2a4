"""Sweeps and studies over parts of the user's own, in a module outside the checkout."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.machine.placement import Bundle
from cluster.settings import UserError
from tuning.placement import Need
from tuning.study.plan import plan_study
from tuning.sweep.plan import SweepPlan

MODULE = "parts_of_a_search"
SOURCE = """
import torch
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    hidden: int = 4

    def __post_init__(self):
        if self.hidden < 2:
            raise ValueError(f"hidden must be >= 2, got {self.hidden}")


class TinyNet(torch.nn.Module):
    reads = "wave"

    def __init__(self, settings: Settings):
        super().__init__()
        self.width = settings.hidden
        self.layer = torch.nn.Linear(1, settings.hidden)

    def forward(self, wave_BT):
        return self.layer(wave_BT.abs().mean(1, keepdim=True))


class Wide(TinyNet):
    pass
"""
NET = {"encoder.name": f"{MODULE}:TinyNet", "encoder.channels": None}


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    yield
    sys.modules.pop(MODULE, None)


def own(make_plan: Callable[..., SweepPlan], space: dict[str, Any], evaluation_set: Path) -> SweepPlan:
    experiment = {
        "data": {"batch": 8, "b_s": 1, "labelled": str(evaluation_set), "unlabelled": str(evaluation_set)},
        "encoder": {"name": NET["encoder.name"], "channels": None},
        "frontend": {"kind": "wave"},
        "optim": {"steps": 4, "warmup_steps": 0},
        "resources": {"num_workers": 0},
        "run": {"quick_every": 2, "snapshot_every": 2},
    }
    return make_plan(space=space, experiment=experiment, preset="conf/pretrain/tiny.yaml")


@pytest.mark.parametrize(
    "space",
    [
        {"encoder.settings.hidden": {"int": [2, 8]}},
        {"encoder.settings.hidden": {"choice": [4, 8]}, "loss.temperature": {"log_uniform": [0.05, 0.5]}},
        {"encoder.name": {"choice": [f"{MODULE}:TinyNet", f"{MODULE}:Wide"]}},
    ],
)
def test_a_sweep_searches_over_the_settings_of_an_own_encoder(
    make_plan: Callable[..., SweepPlan], evaluation_set: Path, tmp_path: Path, space: dict[str, Any]
) -> None:
    plan = own(make_plan, space, evaluation_set)
    path, spec = next(iter(space.items()))
    value = next(iter(spec.values()))[-1]
    tree = plan.job("one", tmp_path / "run", {path: value}, one=Need(bundles=(Bundle(cpus=1),), alone=True)).experiment
    section, *rest = path.split(".")
    node = tree[section]
    for part in rest:
        node = node[part]
    assert node == value


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            {"encoder.settings.hiden": {"int": [2, 8]}},
            r"encoder\.settings\.hiden; did you mean encoder\.settings\.hidden",
        ),
        ({"encoder.settings.hidden": {"int": [1, 8]}}, r"encoder\.settings\.hidden = 1 .*hidden must be >= 2, got 1"),
        ({"encoder.settings.hidden": {"uniform": [2, 8]}}, r"encoder\.settings\.hidden.* valid integer"),
        ({"encoder.name": {"choice": [f"{MODULE}:TinyNt", f"{MODULE}:Wide"]}}, rf"did you mean {MODULE}:TinyNet"),
    ],
)
def test_a_sweep_refuses_settings_that_the_own_encoder_has_not(
    make_plan: Callable[..., SweepPlan], evaluation_set: Path, tmp_path: Path, space: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        own(make_plan, space, evaluation_set)
    assert not (tmp_path / "sweep").exists()


def study(tmp_path: Path, rows: dict[str, Any]) -> Any:
    tree = {
        "title": "own encoders", "source": "a test", "pretrain": "conf/pretrain/tiny.yaml",
        "set": {**NET, "frontend.kind": "wave"}, "rows": rows, "metrics": {"loss": "loss"},
        "scales": {"paper": {"about": "all"}},
    }  # fmt: skip
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(tree))
    sets = {f"study.sets.{name}": "/sets/one" for name in ("labelled", "unlabelled")}
    return plan_study(str(file), "paper", {"study.dir": str(tmp_path / "study"), **sets})


def test_a_study_has_rows_of_an_own_encoders_settings(tmp_path: Path) -> None:
    plan, _ = study(tmp_path, {"narrow": {"encoder.settings.hidden": 2}, "wide": {"encoder.settings.hidden": 16}})
    assert [run.experiment.encoder.settings for run in plan.runs] == [{"hidden": 2}, {"hidden": 16}]
    assert len({run.fingerprint for run in plan.runs}) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"encoder.settings.hiden": 4}, r"encoder\.settings\.hiden; did you mean encoder\.settings\.hidden"),
        ({"encoder.settings.hidden": 1}, r"hidden must be >= 2, got 1"),
        ({"encoder.settings.hidden": "four"}, r"encoder\.settings\.hidden: .*valid integer.*'four'"),
        ({"encoder.name": "parts_of_nobody:Net"}, r"no module parts_of_nobody in"),
    ],
)
def test_a_study_refuses_settings_that_the_own_encoder_has_not(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        study(tmp_path, {"right": {"encoder.settings.hidden": 4}, "wrong": row})
    assert not (tmp_path / "study").exists()
