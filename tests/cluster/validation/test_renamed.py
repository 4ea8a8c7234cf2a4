"""An unknown key of 0.1 is answered with its new name, and every new name exists."""

from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from cluster.settings import UserError, validate
from cluster.validation.messages import RENAMED
from data_shards.build.build import BuildConfig
from evaluation.config import EvaluationConfig
from trainers.config import ExperimentConfig
from tuning.study.config import Study, StudySettings
from tuning.study.plan import plan_study
from tuning.sweep.config import SweepConfig

ROOTS: dict[str, type] = {
    kind.__name__: kind for kind in (BuildConfig, EvaluationConfig, ExperimentConfig, Study, StudySettings, SweepConfig)
}


@pytest.mark.parametrize("schema", RENAMED)
def test_a_renamed_key_has_a_new_name_that_exists_and_an_old_one_that_does_not(schema: str) -> None:
    root = ROOTS[schema]
    for old, new in RENAMED[schema].items():
        assert _exists(root, new.split(".")), new
        assert not _exists(root, old.split(".")) or old == "sets.judged", old  # sets have any names


def _exists(kind: Any, parts: list[str]) -> bool:
    """Whether a dotted key fits a dataclass; through mappings by any name, through tuples without a place."""
    if not parts:
        return True
    if get_origin(kind) in (Union, UnionType):
        return any(_exists(one, parts) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return _exists(get_args(kind)[0], parts)
    if get_origin(kind) is dict:
        return _exists(get_args(kind)[1], parts[1:])
    hints = get_type_hints(kind) if is_dataclass(kind) else {}
    return parts[0] in hints and _exists(hints[parts[0]], parts[1:])


def test_an_old_key_is_answered_with_its_new_name() -> None:
    study = {
        "title": "t", "source": "s", "pretrain": "conf/pretrain/tiny.yaml", "rows": {"one": {}},
        "judges": [{"preset": "conf/evaluation/tiny.yaml", "metrics": {"AP": "tags/ap"}}],
        "claims": [{"says": "x", "metric": "AP", "row": "one", "over": "untrained", "sign": "higher"}],
        "scales": {"paper": {"about": "all"}, "tiny": {"about": "less", "judges": []}},
    }  # fmt: skip
    with pytest.raises(UserError) as refused:
        validate(Study, study, "mine.yaml")
    words = str(refused.value)
    assert "mine.yaml: unknown key judges; it is called evaluations now" in words
    assert "unknown key claims.0.says; it is called claims.statement now" in words
    assert "unknown key scales.tiny.judges; it is called scales.tiny.evaluations now" in words
    with pytest.raises(UserError, match=r"unknown key stop\.figure; it is called stop\.metric now"):
        validate(SweepConfig, {"stop": {"figure": "loss"}}, "sweep.yaml")
    with pytest.raises(UserError, match="unknown key judged; it is called split now"):
        validate(EvaluationConfig, {"judged": "valid"}, "tasks.yaml")


def test_a_set_of_shards_under_its_old_name_is_refused(tmp_path: Path) -> None:
    keys = {"study.dir": str(tmp_path / "out"), "study.sets.judged": "/sets/mtat"}
    with pytest.raises(UserError, match=r"unknown key study\.sets\.judged; it is called study\.sets\.evaluation now"):
        plan_study("world_size", "tiny", keys)
