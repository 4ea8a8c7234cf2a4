"""Whether a task has anything to answer on a set: what is masked or missing may be everything.

A metric with nothing left (no negative, one class, one track) is undefined or empty of meaning. Such a task is refused
before anything is embedded, or left out with the reason where it is optional.
"""

from collections.abc import Mapping

import numpy as np

from evaluation.config import EvaluationConfig, Task
from evaluation.kinds.kind import TaskKind, kind_of
from evaluation.targets.target import Target, parts_of


def why_not(name: str, task: Task, target: Target, config: EvaluationConfig) -> str | None:
    """Why a task cannot be answered, with its column, its split and the remedy; None where it can.

    Args:
        name: of the task.
        task: what is asked.
        target: its known targets over all splits.
        config: the split that is reported, and who is excluded as a neighbour.
    """
    parts = parts_of(target, config.split)
    reason = _empty(task, parts, config)
    kind = kind_of(task)
    if reason is None and kind.reads_texts:
        reason = kind.why_undefined(name, task, parts["test"], _held("test", config))
    if isinstance(kind, TaskKind) and reason is None and task.probe:
        reason = kind.why_untrainable(task, parts["train"], _held("train", config)) or kind.why_undefined(
            name, task, parts["test"], _held("test", config)
        )
    if isinstance(kind, TaskKind) and reason is None and task.retrieval:
        reason = kind.why_alone(parts["test"], _held("test", config), config.exclude)
    if reason is None:
        return None
    return f"task {name}: {reason}" + (
        "" if task.optional else f"; or leave the task out where it cannot run with tasks.{name}.optional=true"
    )


def notes(name: str, task: Task, test: Target, config: EvaluationConfig) -> list[str]:
    """What a reader must know of metrics that are defined and yet mean little."""
    kind = kind_of(task)
    found = kind.retrieval_notes(name, test) if isinstance(kind, TaskKind) and task.retrieval else []
    if not kind.reads_texts and len(np.unique(test.values, axis=0)) == 1:
        found.append(f"{name}: all {config.split} clips have one value of {task.column}: a constant answer is right")
    units = test.artist_K if config.confidence.cluster == "artist" else test.track_K
    if len(set(units.tolist())) == 1:
        found.append(
            f"{name}: all {config.split} clips are of one {config.confidence.cluster}, so no interval can be given"
        )
    return found


def _held(split: str, config: EvaluationConfig) -> str:
    """The set's own name of a part: where valid is reported, heads stop on some of train."""
    return {"test": "valid", "valid": "train"}.get(split, split) if config.split == "valid" else split


def _empty(task: Task, parts: Mapping[str, Target], config: EvaluationConfig) -> str | None:
    for split in ("train", "valid", "test") if task.probe else ("test",):
        if len(parts[split]):
            continue
        if split == "train" and len(parts["valid"]) and config.split == "valid":
            return (
                f"the train clips with a value in column {task.column} are of one artist, and heads stop on a fifth of "
                "the train artists where the valid split is reported; build the shards with more artists in train"
            )
        return (
            f"no clip of split {_held(split, config)} has a value in column {task.column}; "
            "build the shards with clips that have one there"
        )
    return None
