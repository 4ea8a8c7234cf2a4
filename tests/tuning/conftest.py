"""A set with all three splits, and sweeps on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_shards.build.build import BuildConfig, build
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from tuning.sweep.config import load_sweep
from tuning.sweep.plan import SweepPlan, plan_sweep

MakePlan = Callable[..., SweepPlan]


@pytest.fixture(scope="session")
def evaluation_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen tracks of six seconds in all three splits."""
    folder = tmp_path_factory.mktemp("sweep") / "shards"
    build(
        corpus(SyntheticConfig(tracks=24, seconds=6.0, valid_share=0.25, test_share=0.25)),
        folder,
        BuildConfig(workers=1),
    )
    return folder


@pytest.fixture
def make_plan(evaluation_set: Path, tiny_sets: tuple[Path, Path], tmp_path: Path) -> MakePlan:
    """A plan from the tree of a sweep, or its refusal."""

    def make(*overrides: str, **tree: Any) -> SweepPlan:
        space = {"loss.temperature": {"log_uniform": [0.05, 0.5]}, "data.b_s": {"uniform": [0.25, 0.75]}}
        whole = {
            "preset": "conf/pretrain/quickstart.yaml",
            "experiment": {
                "data": {"batch": 8, "labelled": str(evaluation_set), "unlabelled": str(tiny_sets[1])},
                "encoder": {"channels": 2},
                "optim": {"steps": 4, "warmup_steps": 0},
                "resources": {"num_workers": 0},
                "run": {"quick_every": 2, "snapshot_every": 2},
            },
            "space": space,
            "sweep": {"dir": str(tmp_path / "sweep"), "trials": 3},
        }
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(whole | tree))
        return plan_sweep(load_sweep(file, overrides), str(file))

    return make
