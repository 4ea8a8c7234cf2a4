"""Published splits, pinned: what ships are facts of the real lists, and a report says how a task stands to them."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cluster.settings import ROOT, read_yaml
from data_shards.read.reader import ShardSet
from evaluation.config import ConfidenceConfig, EvaluationConfig, EvaluationData, Task
from evaluation.evaluate import evaluate_encoders
from evaluation.report.published import VALUES, differences
from evaluation.runnable import read_target
from evaluation.targets import splits as pinned
from evaluation.targets.splits import PINS, SPLITS, FrozenSplit, compare, facts, freeze
from evaluation.tasks.tags import Tags

MakeShards = Callable[..., Path]
SPLIT = FrozenSplit("tags", ("a", "b"), {"train": ("1", "2", "3"), "valid": ("4",), "test": ("5", "6")})
PIN = {"source": "nowhere", "variants": {"as published": facts(SPLIT)}, "classes": ["a", "b"]}


def script() -> ModuleType:
    path = ROOT / "tests/golden/published_splits.py"
    spec = importlib.util.spec_from_file_location("golden_published_splits", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    known: dict[str, Any] = {"mine": PIN}
    monkeypatch.setattr(pinned, "read_yaml", lambda _: known)
    return known


@pytest.mark.timeout(900)  # 20 CPU-seconds of tables
def test_what_ships_is_what_the_real_lists_give(tmp_path: Path) -> None:
    golden = script()
    metadata = golden.metadata_folder()
    if not metadata.is_dir():
        pytest.skip(f"{metadata} is not here; COUNTERPOINT_DATA names its parent")
    assert golden.dump(golden.pinned(metadata, tmp_path)) == PINS.read_text(encoding="utf-8")


def test_every_published_protocol_is_pinned_or_says_why_not_and_the_counts_are_the_papers() -> None:
    known, protocols = read_yaml(PINS), read_yaml(VALUES)["protocols"]
    assert set(protocols) <= set(known)
    for name, protocol in protocols.items():
        if "unpinned" in known[name] or "instead" in known[name]:
            continue
        variant = known[name]["variants"]["as published"]
        assert [variant[split]["clips"] for split in SPLITS] == protocol["clips"], name
        assert len(known[name]["classes"]) == protocol["classes"], name
    assert known["giantsteps_key"]["instead"].startswith("which is 923 / 236 where the paper has 961 / 198")


@pytest.mark.parametrize(
    ("change", "words", "missing"),
    [
        ({}, f"as published ({SPLIT.split_hash[:12]})", {}),
        ({"vocabulary": ("b", "a")}, f"as published ({SPLIT.split_hash[:12]})", {}),
        ({"ids": {**SPLIT.ids, "train": ("1", "3")}}, "differs: train: 1 of 3 clips missing", {"train": 1}),
        ({"ids": {**SPLIT.ids, "valid": ("4", "7")}}, "differs: valid: 1 clips more than the 1", {}),
        ({"ids": {**SPLIT.ids, "test": ("5", "7")}}, "differs: test: as many clips, but others", {}),
        ({"vocabulary": ("a", "c")}, "differs: without 1 classes: b; 1 classes more: c", {}),
    ],
)
def test_what_differs_from_a_published_split_is_named(
    pins: dict[str, Any], change: dict[str, Any], words: str, missing: dict[str, int]
) -> None:
    found = compare("mine", replace(SPLIT, **change))
    assert found == {"same": not words.startswith("differs"), "missing": missing, "words": words}


def test_a_variant_is_named_and_so_is_a_stand_in(pins: dict[str, Any]) -> None:
    whole = replace(SPLIT, ids={**SPLIT.ids, "train": ("1", "2")})
    pins["mine"] = PIN | {"variants": {"as published": facts(SPLIT), "without 3": facts(whole)}, "instead": "not ours"}
    assert compare("mine", whole)["words"] == f"without 3 ({whole.split_hash[:12]}), not ours"
    nearest = compare("mine", replace(whole, ids={**whole.ids, "train": ("1", "2", "8")}))
    assert nearest["words"] == "differs: train: as many clips, but others"
    pins["mine"] = {"unpinned": "no list was published"}
    assert compare("mine", SPLIT)["words"] == "unknown: no list was published"


def test_a_report_tells_how_its_split_stands_and_marks_published_values(
    make_shards: MakeShards, lookup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = make_shards(72)
    encoder = lookup(np.random.default_rng(0).normal(size=(72, 4)).astype(np.float32))
    task = Task(column="tags", kind="tags", probe=True, hidden=8, max_epochs=2, published="gtzan_genre")
    config = EvaluationConfig(
        data=EvaluationData(shards=str(shards)),
        tasks={"tags": task},
        seeds=1,
        confidence=ConfidenceConfig(resamples=100),
    )
    report = evaluate_encoders({"trained": encoder}, config, tmp_path / "one", about={})
    words = report.tree["tasks"]["tags"]["published_split"]["words"]
    assert words.startswith("differs: train: ")
    for form in ("report.md", "report.html"):
        assert "published split" in (report.folder / form).read_text()
    with ShardSet.open(shards) as opened:
        frozen = freeze(opened.index, "tags", read_target(opened.index, "tags", task))
    mine = PIN | {"variants": {"as published": facts(frozen)}, "classes": list(frozen.vocabulary)}
    monkeypatch.setattr(pinned, "read_yaml", lambda _: {"gtzan_genre": mine})
    again = evaluate_encoders({"trained": encoder}, config, tmp_path / "two", about={})
    assert again.tree["tasks"]["tags"]["published_split"] == {
        "same": True,
        "missing": {},
        "words": f"as published ({frozen.split_hash[:12]})",
    }


def test_as_many_clips_of_other_ids_are_another_protocol() -> None:
    protocol = {"clips": [3, 1, 2], "classes": 2, "head": "mlp", "seconds": 2.7}
    tree: dict[str, Any] = {"num_train": 3, "num_valid": 1, "num_test": 2, "classes": ["a", "b"], "epochs": {}}
    task = Task(column="tags", kind="tags", probe=True)
    assert differences(protocol, task, tree, EvaluationConfig(), seconds=2.7) == ()
    tree["published_split"] = {"same": False, "words": "differs: test: as many clips, but others"}
    found = differences(protocol, task, tree, EvaluationConfig(), seconds=2.7)
    assert found == ("split differs: test: as many clips, but others",)


def test_clips_of_no_tag_count_only_where_a_task_says_so(make_shards: MakeShards) -> None:
    shards = make_shards(24)
    task = Task(column="tags", kind="tags", probe=True)
    with ShardSet.open(shards) as opened:
        flat, ends = opened.index.targets["multilabel.tags"]
        bare = (flat[ends[8] :], np.maximum(ends - ends[8], 0))  # the first eight clips lose their tags
        index = replace(opened.index, columns={**opened.index.columns, "multilabel.tags": bare})
        assert len(read_target(index, "tags", task)) == 16
        every = read_target(index, "tags", replace(task, untagged=True))
    assert len(every) == 24
    assert np.any(Tags().best_constant(every))  # not the clip without a tag, which shares none with anyone
    with pytest.raises(ValueError, match="untagged is for probes"):
        Task(column="tags", kind="tags", probe=True, retrieval=True, untagged=True)
