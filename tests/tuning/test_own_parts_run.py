"""A whole sweep and a whole study with the user's own encoder, loss and augmentation, as commands started in a folder
outside the checkout: training, evaluation, MLflow and report, not the plan alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from cluster.settings import ROOT
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PARTS = {
    "data.batch": 8,
    "data.b_s": 0.0,
    "views.samples": 16_384,
    "encoder.name": "users_encoder:TinyNet",
    "encoder.channels": None,
    "loss.objective": "users_loss:VicReg",
    "augment.extra": [{"name": "users_augmentation:SpecAugment", "p": 0.7, "settings": {"frames": 9}}],
    "optim.steps": 4,
    "optim.warmup_steps": 0,
    "run.snapshot_every": 2,
}
QUICK = {"tasks.tags.max_epochs": 2, "confidence.resamples": 100}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with copies of the examples under names that the checkout does not have."""
    for part in ("encoder", "loss", "augmentation"):
        shutil.copy(ROOT / "examples" / f"own_{part}.py", tmp_path / f"users_{part}.py")
    return tmp_path


def command(folder: Path, *words: str) -> None:
    """Run ``counterpoint`` in a folder, which is where it looks for the modules of own parts."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", "from commands.app import main; main()", *words],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def nested(keys: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as the tree of a YAML file."""
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


def check_run(run: Path, hidden: int) -> None:
    """The run used all three parts: the loss's own metrics, the encoder's width, the steps of the augmentation."""
    rows = list(read_metrics(run / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["vicreg/variance"] > 0 for row in rows)
    experiment = open_snapshot(run).config
    assert experiment["encoder"]["settings"]["hidden"] == hidden
    assert experiment["augment"]["extra"][0]["name"] == "users_augmentation:SpecAugment"


@pytest.mark.ray
def test_a_whole_sweep_searches_over_own_parts(outside: Path, evaluation_set: Path) -> None:
    sets = {"data.labelled": str(evaluation_set), "data.unlabelled": str(evaluation_set)}
    tree = {
        "preset": "conf/pretrain/tiny.yaml",
        "experiment": nested(PARTS | sets),
        "space": {"encoder.settings.hidden": {"choice": [6, 10]}, "loss.settings.variance": {"uniform": [5.0, 30.0]}},
        "objective": {"evaluation": "conf/evaluation/tiny.yaml", "metrics": ["tags/ap"]},
        "stop": {"rule": "none"},
        "sweep": {"dir": str(outside / "sweep"), "trials": 2, "confirm_seeds": 1},
    }
    (outside / "mine.yaml").write_text(yaml.safe_dump(tree))
    command(outside, "sweep", "mine.yaml")
    rows = pq.read_table(outside / "sweep/trials.parquet").to_pylist()
    assert [row["state"] for row in rows] == ["done", "done"]
    assert all(0 < row["tags/ap"] < 1 for row in rows)
    for row in rows:
        check_run(outside / f"sweep/trials/{row['number']:03d}", row["encoder.settings.hidden"])
    best = yaml.safe_load((outside / "sweep/best.yaml").read_text())
    assert best["encoder"]["name"] == "users_encoder:TinyNet"


def test_a_whole_study_has_rows_of_own_parts(outside: Path) -> None:
    tree = {
        "title": "own parts", "source": "a test", "pretrain": "conf/pretrain/tiny.yaml", "set": PARTS,
        "rows": {"narrow": {"encoder.settings.hidden": 6}, "wide": {"encoder.settings.hidden": 10}},
        "evaluations": [{"preset": "conf/evaluation/tiny.yaml", "set": QUICK, "metrics": {"AP": "tags/ap"}}],
        "metrics": {"variance": "vicreg/variance"},
        "scales": {"paper": {"about": "all there is", "corpora": {
            "labelled": {"tracks": 40, "seconds": 5.0, "valid_share": 0.2, "test_share": 0.3},
            "unlabelled": {"tracks": 12, "seconds": 5.0, "valid_share": 0.0, "test_share": 0.0, "seed": 1},
        }}},
    }  # fmt: skip
    (outside / "mine.yaml").write_text(yaml.safe_dump(tree))
    command(outside, "study", "mine.yaml", f"study.dir={outside / 'study'}", "study.seeds=2")
    found = json.loads((outside / "study/study.json").read_text())
    assert not found["failed"]
    assert not found["missing"]
    values = {row["name"]: row["values"] for row in found["rows"]}
    assert set(values) >= {"narrow", "wide", "untrained", "constant"}
    for name, hidden in (("narrow", 6), ("wide", 10)):
        assert 0 < values[name]["AP"]["value"] < 1
        assert values[name]["variance"]["value"] > 0
        for seed in (0, 1):
            check_run(outside / f"study/rows/{name}/seed-{seed}", hidden)
