"""Frozen splits, vocabularies that travel with their vectors, and published values beside one's own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.settings import ROOT, UserError, load_config, read_yaml
from data_shards.read.reader import ShardSet
from evaluation.config import Chunking, ConfidenceConfig, EvaluationConfig, EvaluationData, Task
from evaluation.evaluate import evaluate_encoders
from evaluation.report.published import VALUES, beside, differences
from evaluation.report.write import Report
from evaluation.targets.splits import FrozenSplit, load_split, save_split

MakeShards = Callable[..., Path]
PRESETS = sorted((ROOT / "conf" / "evaluation").glob("*.yaml"))
TASK = Task(column="tags", kind="tags", probe=True, retrieval=True, hidden=8, max_epochs=2)
PROTOCOL: dict[str, Any] = {
    **{"clips": [10, 5, 6], "classes": 3, "seconds": 2.7, "head": "mlp", "hidden": 8, "patience": 15, "dropout": 0.1},
    **{"weight_decay": 1e-6, "learning_rate": 3e-4, "batch": 64, "standardise": False},
}
TREE: dict[str, Any] = {"num_train": 10, "num_valid": 5, "num_test": 6, "classes": ["a", "b", "c"], "epochs": {}}


def config_for(shards: Path, task: Task = TASK) -> EvaluationConfig:
    quick = ConfidenceConfig(resamples=100)
    return EvaluationConfig(
        data=EvaluationData(shards=str(shards)), tasks={"tags": task}, seeds=1, ks=(1,), confidence=quick
    )


@pytest.fixture
def evaluated(make_shards: MakeShards, lookup: Any, tmp_path: Path) -> tuple[Path, Any, Report]:
    shards = make_shards(72)
    encoder = lookup(np.random.default_rng(0).normal(size=(72, 4)).astype(np.float32))
    return shards, encoder, evaluate_encoders({"trained": encoder}, config_for(shards), tmp_path / "one", about={})


def test_a_report_names_its_split_its_vocabulary_and_its_masked_tags(evaluated: tuple[Path, Any, Report]) -> None:
    shards, _, report = evaluated
    task = report.tree["tasks"]["tags"]
    frozen = load_split(report.folder / task["split_file"])
    assert (task["split_hash"], task["vocabulary_hash"]) == (frozen.split_hash, frozen.vocabulary_hash)
    with ShardSet.open(shards) as opened:
        assert frozen.vocabulary == opened.index.vocabularies["tags"]
        assert set(frozen.ids["test"]) == set(opened.index.key[opened.index.rows("test")])
    for form in ("report.md", "report.html", "report.tex"):
        assert task["split_hash"][:12] in (report.folder / form).read_text()
    assert task["masked"] == []


def test_a_task_held_to_its_frozen_split_gives_the_same_report(
    evaluated: tuple[Path, Any, Report], tmp_path: Path
) -> None:
    shards, encoder, report = evaluated
    task = replace(TASK, frozen=str(report.folder / "splits" / "tags.json"))
    again = evaluate_encoders({"trained": encoder}, config_for(shards, task), tmp_path / "two", about={})
    assert again.tree["metrics"] == report.tree["metrics"]
    assert again.tree["tasks"] == report.tree["tasks"]


def frozen_with(path: Path, source: FrozenSplit, **changes: Any) -> Task:
    save_split(replace(source, **changes), path)
    return replace(TASK, frozen=str(path))


@pytest.mark.medium
def test_another_split_vocabulary_or_column_than_the_frozen_one_is_refused(
    evaluated: tuple[Path, Any, Report], tmp_path: Path
) -> None:
    shards, encoder, report = evaluated
    frozen, path = load_split(report.folder / "splits" / "tags.json"), tmp_path / "frozen.json"
    ids, names = frozen.ids, frozen.vocabulary
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"vocabulary": (*names[:-1], "metal")}, "has another vocabulary than the task: missing"),
        ({"column": "moods"}, "freezes column moods"),
        ({"ids": ids | {"test": (*ids["test"], "clip9999")}}, "1 clips of its frozen split are not in the shards"),
        (
            {"ids": ids | {"train": ids["train"][1:], "test": (*ids["test"], ids["train"][0])}},
            r"task tags: 1 tracks are in more than one split: track0 \(test and train\)",
        ),
    ]
    for changes, words in wrong:
        task = frozen_with(path, frozen, **changes)
        with pytest.raises(UserError, match=words):
            evaluate_encoders({"trained": encoder}, config_for(shards, task), tmp_path / "no", about={})
    swapped = frozen_with(path, frozen, vocabulary=names[::-1])
    other = evaluate_encoders({"trained": encoder}, config_for(shards, swapped), tmp_path / "swapped", about={})
    assert other.tree["tasks"]["tags"]["classes"] == list(names[::-1])  # another order is no error: the names travel
    assert other.tree["tasks"]["tags"]["vocabulary_hash"] != frozen.vocabulary_hash
    assert other.tree["tasks"]["tags"]["split_hash"] == frozen.split_hash


def test_an_edited_split_file_is_refused(evaluated: tuple[Path, Any, Report]) -> None:
    _, _, report = evaluated
    path = report.folder / "splits" / "tags.json"
    tree = json.loads(path.read_text())
    tree["ids"]["test"] = tree["ids"]["test"][1:]
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match="its content does not fit its hashes: edited or damaged"):
        load_split(path)


@pytest.mark.parametrize(
    ("change", "task", "words"),
    [
        ({}, TASK, None),
        ({"num_test": 7}, TASK, "clips 10/5/7, published 10/5/6"),
        ({"classes": ["a"]}, TASK, "1 classes, published 3"),
        ({}, replace(TASK, head="linear"), "head linear, published mlp"),
        ({}, replace(TASK, hidden=2), "hidden 2, published 8"),
        ({}, replace(TASK, patience=1), "patience 1, published 15"),
        ({}, replace(TASK, dropout=0.9), "dropout 0.9, published 0.1"),
        ({}, replace(TASK, learning_rate=1.0), "learning rate 1, published 0.0003"),
        ({}, replace(TASK, weight_decay=0.0), "weight decay 0, published 1e-06"),
        ({}, replace(TASK, batch=32), "batch 32, published 64"),
        ({}, replace(TASK, standardise=True), "standardise true, published false"),
        ({"epochs": {"trained": {"best": [5, 20], "last": [20, 35]}}}, replace(TASK, max_epochs=35), None),
        (
            {"epochs": {"trained": {"best": [5, 20], "last": [20, 34]}}},
            replace(TASK, max_epochs=34),
            "max_epochs stopped 1 heads, published early stop alone",
        ),
    ],
)
def test_a_protocol_is_the_same_only_when_all_of_it_is(change: dict[str, Any], task: Task, words: str | None) -> None:
    found = differences(PROTOCOL, task, TREE | change, EvaluationConfig(), seconds=2.678)
    assert found == (() if words is None else (words,))


def test_what_is_not_published_cannot_differ() -> None:
    protocol = {key: PROTOCOL[key] for key in ("clips", "classes", "seconds", "head")}
    assert differences(protocol, replace(TASK, patience=1), TREE, EvaluationConfig(), seconds=2.7) == ()


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_has_the_head_of_the_protocol_that_it_names(preset: Path) -> None:
    known = read_yaml(VALUES)
    for name, task in load_config(EvaluationConfig, preset).tasks.items():
        if task.published is not None:
            protocol = known["probe"] | known["protocols"][task.published]
            counts = zip(("train", "valid", "test"), protocol["clips"], strict=True)
            tree = {f"num_{split}": count for split, count in counts} | {"epochs": {}}
            found = tree | {"classes": list(range(protocol["classes"]))}
            assert differences(protocol, task, found, EvaluationConfig(), seconds=2.7) == (), name


def test_other_chunks_and_averages_are_another_protocol() -> None:
    config = EvaluationConfig(chunking=Chunking(aggregate="logits"))
    assert differences(PROTOCOL, TASK, TREE, config, seconds=0.74) == (
        "chunks of 0.74 s, published 2.7 s",
        "logits averaged, published embeddings",
    )


def test_published_values_stand_beside_and_marble_is_always_marked() -> None:
    names = [str(i) for i in range(50)]
    task = {"num_train": 15_250, "num_valid": 1_529, "num_test": 4_332, "classes": names, "masked": [], "epochs": {}}
    tree = {"metrics": {"top50/auroc": {}, "top50/ap": {}}, "tasks": {"top50": task}}
    config = EvaluationConfig(tasks={"top50": replace(TASK, column="top50", hidden=512, published="mtat_top50")})
    rows = beside(tree, config, seconds=2.678)
    same = [row for row in rows if not row["differs"]]
    assert {"metric": "top50/auroc", "value": 0.888, "who": "self-supervised, SampleCNN",
            "where": "2407.13840, Table 2 (200,000 steps)", "differs": []} in same  # fmt: skip
    assert len({row["where"] for row in same}) == 5  # Tables 2, 3, 4, 6, 7
    marble = [row for row in rows if row["where"].startswith("MARBLE")]
    assert len(marble) == 6
    assert all(row["differs"] == ["MARBLE's own splits and heads"] for row in marble)
