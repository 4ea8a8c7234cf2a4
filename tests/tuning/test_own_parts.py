"""Sweeps and studies over parts of the user's own, in a module outside the checkout."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.machine.placement import Bundle
from cluster.progress import SILENT
from cluster.settings import UserError
from data_shards.read.stores import open_index
from tuning.placement import Need
from tuning.quickstart import run_quickstart
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


def distance(margin: float = 0.1, tags: int = 0):
    from counterpoint import LossResult

    def loss(batch):
        if margin > 1:
            raise ValueError("margin is too wide")
        if tags and batch.labels_NC.shape[1] != tags:
            raise ValueError(f"{batch.labels_NC.shape[1]} tags for {tags} weights")
        first, second = batch.z_ND.chunk(2)
        return LossResult((first - second).square().mean(), {})

    return loss


class Texts(torch.nn.Module):
    width = 4

    def __init__(self, deep: int = 1):
        super().__init__()
        self.table, self.deep = torch.nn.Embedding(8, 4), deep

    def tokenize(self, texts):
        ids = torch.tensor([[len(text) % 8] for text in texts])
        return ids, torch.ones_like(ids)

    def forward(self, ids, mask):
        return self.table(ids).mean(1)[:, : 4 - self.deep // 9]


class Kind:
    probe_metrics = {}


def encoder():
    return TinyNet(Settings())
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


LOSS = {"objective": f"{MODULE}:distance"}
TEXT = {"loss": {"objective": "music_text"}, "text": {"encoder": f"{MODULE}:Texts"}}


def own(make_plan: Callable[..., SweepPlan], space: dict[str, Any], evaluation_set: Path, **sections: Any) -> SweepPlan:
    experiment = {
        "data": {"batch": 8, "b_s": 1, "labelled": str(evaluation_set), "unlabelled": str(evaluation_set)},
        "encoder": {"name": NET["encoder.name"], "channels": None},
        "frontend": {"kind": "wave"},
        "optim": {"steps": 4, "warmup_steps": 0},
        "resources": {"num_workers": 0},
        "run": {"quick_every": 2, "snapshot_every": 2},
        **sections,
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


@pytest.mark.parametrize(
    ("space", "sections", "words"),
    [
        (
            {"loss.settings.margin": {"uniform": [0.1, 2.0]}},
            {"loss": LOSS},
            r"loss\.settings\.margin = 2\.0 is in the space, but loss\.objective=.*margin is too wide",
        ),
        (
            {"optim.weight_decay": {"uniform": [0.0, 0.1]}},
            {"loss": LOSS | {"settings": {"tags": 50}}},
            r"distance.*\d+ tags for 50",
        ),
        (
            {"text.settings.deep": {"int": [1, 9]}},
            TEXT,
            rf"text\.settings\.deep = 9 .*text\.encoder={MODULE}:Texts: .*returned shape \(\d, 3\)",
        ),
    ],
)
def test_a_sweep_tries_own_losses_and_text_encoders_before_anything_starts(
    make_plan: Callable[..., SweepPlan],
    evaluation_set: Path,
    tmp_path: Path,
    space: dict[str, Any],
    sections: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(UserError, match=words):
        own(make_plan, space, evaluation_set, **sections)
    assert not (tmp_path / "sweep").exists()


def test_an_own_part_that_fails_in_the_preset_is_one_line_whatever_the_space(
    make_plan: Callable[..., SweepPlan], evaluation_set: Path
) -> None:
    space = {"optim.weight_decay": {"uniform": [0.0, 0.1]}, "augment.gain.p": {"uniform": [0.0, 1.0]}}
    with pytest.raises(UserError) as caught:
        own(make_plan, space, evaluation_set, loss=LOSS | {"settings": {"margin": 2}})
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"loss.objective={MODULE}:distance: ")


def test_a_sweep_takes_a_loss_for_the_tags_of_its_set(
    make_plan: Callable[..., SweepPlan], evaluation_set: Path
) -> None:
    tags = len(open_index(str(evaluation_set)).vocabularies["tags"])
    space = {"loss.settings.margin": {"uniform": [0.1, 1.0]}}
    plan = own(make_plan, space, evaluation_set, loss=LOSS | {"settings": {"tags": tags}})
    assert plan.experiment.loss.settings == {"tags": tags}


def study(tmp_path: Path, rows: dict[str, Any], **more: Any) -> Any:
    tree = {
        "title": "own encoders", "source": "a test", "pretrain": "conf/pretrain/tiny.yaml",
        "set": {**NET, "frontend.kind": "wave"}, "rows": rows, "metrics": {"loss": "loss"},
        "scales": {"paper": {"about": "all"}},
        **more,
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


def evaluated(**keys: Any) -> dict[str, Any]:
    one = {"preset": "conf/evaluation/tiny.yaml", "shards": "/sets/one", "metrics": {"AP": "tags/ap"}, "set": keys}
    return {"evaluations": [one]}


@pytest.mark.parametrize(
    ("row", "more", "words"),
    [
        ({"loss.objective": LOSS["objective"], "loss.settings.margin": 2}, {}, r"loss\.objective=.*margin is too wide"),
        (
            {"loss.objective": LOSS["objective"], "loss.settings.tags": 50},
            {},
            r"tags for 50 weights.*data\.labelled is not there yet",
        ),
        (
            {"loss.objective": "music_text", "text.encoder": f"{MODULE}:Texts", "text.settings.deep": 9},
            {},
            rf"text\.encoder={MODULE}:Texts: .*returned shape \(\d, 3\)",
        ),
        (
            {},
            {"starts": {"first": {"pretrain": "conf/pretrain/tiny.yaml", "set": {"augment.extra": [
                {"name": f"{MODULE}:Missing"}]}}}},
            rf"augment\.extra\.0.*={MODULE}:Missing: .*has no Missing",
        ),
        ({}, evaluated(**{"tasks.tags.kind": f"{MODULE}:Kind"}), rf"kind={MODULE}:Kind: gives a Kind, not a kind of"),
        ({}, evaluated(**{"against.other": f"{MODULE}:encoder"}), rf"{MODULE}:encoder: .*without rate, samples"),
    ],
)  # fmt: skip
def test_a_study_tries_every_own_part_before_anything_starts(
    tmp_path: Path, row: dict[str, Any], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        study(tmp_path, {"right": {"encoder.settings.hidden": 4}, "wrong": row}, **more)
    assert not (tmp_path / "study").exists()


def test_the_quickstart_tries_own_parts_before_it_composes_anything(tmp_path: Path) -> None:
    keys = {"loss.objective": LOSS["objective"], "loss.settings.margin": 2}
    with pytest.raises(UserError, match="margin is too wide"):
        run_quickstart(tmp_path / "first", keys, progress=SILENT)
    assert not (tmp_path / "first").exists()
