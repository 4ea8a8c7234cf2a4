"""The objective is of the validation split; the test split could be noise and nothing would change."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cluster.settings import UserError
from evaluation.config import EvaluationConfig, Task
from evaluation.targets.target import Target, parts_of
from tuning.sweep.config import ObjectiveConfig, read_evaluation
from tuning.sweep.objective import check_targets, objective_evaluation, on_split, reported


def target(clips: int = 60) -> Target:
    split = np.array(["train"] * (clips - 20) + ["valid"] * 10 + ["test"] * 10)
    artist = np.array([f"artist {i // 2}" for i in range(clips)])
    names = np.array([f"t{i}" for i in range(clips)])
    return Target(np.arange(clips), split, names, artist, np.arange(clips), ())


def test_where_valid_is_evaluated_heads_stop_on_train_artists_they_did_not_learn_from() -> None:
    parts = parts_of(target(), "valid")
    assert parts["test"].rows_K.tolist() == list(range(40, 50))
    assert sorted([*parts["train"].rows_K, *parts["valid"].rows_K]) == list(range(40))
    assert not set(parts["train"].artist_K) & set(parts["valid"].artist_K)
    assert len(parts["valid"]) == 8
    shuffled = target().where(np.isin(np.arange(60), np.arange(0, 60)))
    assert parts_of(shuffled, "valid")["valid"].rows_K.tolist() == parts["valid"].rows_K.tolist()


def test_where_test_is_evaluated_the_splits_are_those_of_the_set() -> None:
    parts = parts_of(target(), "test")
    assert {name: len(part) for name, part in parts.items()} == {"train": 40, "valid": 10, "test": 10}


def test_only_the_tasks_of_the_metrics_are_run_and_on_valid() -> None:
    config = objective_evaluation(ObjectiveConfig(metrics=("key/weighted@10",)), "shards")
    assert (list(config.tasks), config.split, config.data.shards) == (["key"], "valid", "shards")
    again = on_split(config, "test", "cuda")
    assert (again["split"], again["device"]) == ("test", "cuda")


def test_a_metric_that_no_task_gives_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"gives no tags/accuracy; it gives tags/auroc, tags/ap"):
        objective_evaluation(ObjectiveConfig(metrics=("tags/accuracy",)), "shards")
    for bad in ((), ("tags/ap", "tags/ap"), ("ap",)):
        with pytest.raises(ValueError, match="metrics"):
            ObjectiveConfig(metrics=bad)


def test_the_names_of_metrics_are_those_of_a_report(scored_names: dict[str, list[str]]) -> None:
    for kind, names in scored_names.items():
        tree = {"tasks": {"t": {"column": "c", "kind": kind, "probe": True, "retrieval": kind != "number"}}, "ks": [2]}
        assert sorted(reported("test", tree)) == sorted(f"t/{name}" for name in names), kind


@pytest.fixture
def scored_names() -> dict[str, list[str]]:
    """What `evaluation.tasks` give for every kind of task, probe and neighbours, at k = 2."""
    from evaluation.metrics.confidence import draw_resamples
    from evaluation.tasks.kind import label_kind_of

    rng = np.random.default_rng(0)
    resamples = draw_resamples([str(i) for i in range(6)], resamples=100, seeds=1, rng=rng)
    tags, codes = rng.random((6, 3)) > 0.5, np.array([0, 1, 0, 1, 0, 1])
    tags[0], tags[1] = True, False
    keys = ("C major", "A minor")
    truth: dict[str, tuple[Any, Any, Any, tuple[str, ...]]] = {
        "tags": (tags, rng.random((1, 6, 3)), np.stack([tags, tags], 1), ("a", "b", "c")),
        "class": (codes, codes[None], np.stack([codes, codes], 1), ("x", "y")),
        "key": (codes, codes[None], np.stack([codes, codes], 1), keys),
        "tempo": (codes + 60.0, codes[None] + 60.0, np.stack([codes, codes], 1) + 60.0, ()),
        "number": (codes * 1.0, codes[None] * 1.0, None, ()),
    }
    found: dict[str, list[str]] = {}
    for kind, (values, answers, near, classes) in truth.items():
        part = replace(target().where(np.arange(60) < 6), values=values, classes=classes)
        scores = label_kind_of(Task(column="c", kind=kind, probe=True))
        names = list(scores.score_probe(answers, part, resamples))
        if near is not None:
            names += list(scores.score_neighbours(near, np.ones((6, 2), bool), part, resamples, (2,)))
        found[kind] = names
    return found


def test_shards_without_a_validation_split_are_refused_before_anything_is_trained(tiny_sets: Any) -> None:
    config = objective_evaluation(ObjectiveConfig(), str(tiny_sets[0]))
    with pytest.raises(
        UserError, match=r"task tags: no clip of split valid has a value in column \w+; build the shards with"
    ):
        check_targets(config)


def test_the_validation_split_has_no_robustness_curves() -> None:
    with pytest.raises(ValueError, match="split=valid is for tasks"):
        EvaluationConfig(split="valid", robustness=replace(EvaluationConfig().robustness, severities=(1.0,)))
    assert read_evaluation(ObjectiveConfig())["tasks"]
