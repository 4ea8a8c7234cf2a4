"""Whether a task has anything to answer on a set: what is masked or missing may be everything.

A metric with nothing left (no negative, one class, one track) is undefined or says nothing. Such a task is refused
before anything is embedded, or left out with the reason where it is optional.
"""

from collections.abc import Mapping

import numpy as np

from evaluation.judge import masked_tags
from evaluation.targets import Target, parts_of
from evaluation.tasks import EvaluationConfig, Task

SHOWN = 3
"""Tags that a message names."""


def why_not(name: str, task: Task, target: Target, config: EvaluationConfig) -> str | None:
    """Why a task cannot be answered, with its column, its split and the remedy; None where it can.

    Args:
        name: of the task.
        task: what is asked.
        target: its known targets over all splits.
        config: the split that is reported, and who is excluded as a neighbour.
    """
    parts = parts_of(target, config.judged)
    reason = _empty(task, parts, config)
    if reason is None and task.probe:
        reason = _unfit(task, parts, config) or _undefined(name, task, parts["test"], config)
    if reason is None and task.retrieval:
        reason = _alone(parts["test"], config)
    if reason is None:
        return None
    return f"task {name}: {reason}" + (
        "" if task.optional else f"; or leave the task out where it cannot run with tasks.{name}.optional=true"
    )


def notes(name: str, task: Task, test: Target, config: EvaluationConfig) -> list[str]:
    """What a reader must know of metrics that are defined and yet say little."""
    found = []
    if len(np.unique(test.values, axis=0)) == 1:
        found.append(f"{name}: all {config.judged} clips have one value of {task.column}: a constant answer is right")
    units = test.artist_K if config.confidence.cluster == "artist" else test.track_K
    if len(set(units.tolist())) == 1:
        found.append(
            f"{name}: all {config.judged} clips are of one {config.confidence.cluster}, so no interval can be given"
        )
    return found


def _held(split: str, config: EvaluationConfig) -> str:
    """The set's own name of a part: where valid is reported, heads stop on some of train."""
    return {"test": "valid", "valid": "train"}.get(split, split) if config.judged == "valid" else split


def _empty(task: Task, parts: Mapping[str, Target], config: EvaluationConfig) -> str | None:
    for split in ("train", "valid", "test") if task.probe else ("test",):
        if len(parts[split]):
            continue
        if split == "train" and len(parts["valid"]) and config.judged == "valid":
            return (
                f"the train clips with a value in column {task.column} are of one artist, and heads stop on a fifth of "
                "the train artists where the valid split is reported; build the shards with more artists in train"
            )
        return (
            f"no clip of split {_held(split, config)} has a value in column {task.column}; "
            "build the shards with clips that have one there"
        )
    return None


def _unfit(task: Task, parts: Mapping[str, Target], config: EvaluationConfig) -> str | None:
    """Why no head could learn from the train clips."""
    train = parts["train"]
    if task.kind == "tags":
        return None if train.classes else f"column {task.column} has no tags; build the shards from labels with some"
    values = np.unique(train.values)
    if len(values) > 1:
        return None
    one = train.classes[int(values[0])] if train.classes else f"{values[0]:g}"
    return (
        f"all {len(train)} train clips have the same value in column {task.column}, {one}, and a probe needs two; "
        f"build the shards with others in split {_held('train', config)}"
    )


def _undefined(name: str, task: Task, test: Target, config: EvaluationConfig) -> str | None:
    """Why a probe's metric is undefined on the clips that are reported."""
    split, clips = _held("test", config), len(test)
    if task.kind == "number" and len(np.unique(test.values)) == 1:
        return (
            f"all {clips} {split} clips have the value {test.values[0]:g} in column {task.column}, so R² is undefined; "
            "build the shards with other values in that split"
        )
    if task.kind != "tags" or len(masked_tags(test)) < len(test.classes):
        return None
    everywhere = [test.classes[c] for c in np.flatnonzero(test.values.all(0))]
    shown = ", ".join(everywhere[:SHOWN]) + (f" and {len(everywhere) - SHOWN} more" if len(everywhere) > SHOWN else "")
    which = f"have {shown}, and none has another tag" if everywhere else "have no tag"
    remedy = "build the shards with clips that have and clips that lack a tag"
    if not task.untagged:
        both = f" and tasks.{name}.retrieval=false" if task.retrieval else ""
        remedy = (
            f"clips without any tag are left out: count them as clips of no tag with tasks.{name}.untagged=true{both}"
        )
    return f"all {clips} {split} clips of column {task.column} {which}, so AUROC and AP are undefined; {remedy}"


def _alone(test: Target, config: EvaluationConfig) -> str | None:
    """Why no clip has a neighbour."""
    groups = test.track_K if config.exclude == "track" else test.artist_K
    if len(np.unique(groups)) > 1:
        return None
    split = _held("test", config)
    other = " or exclude=track" if config.exclude == "artist" and len(np.unique(test.track_K)) > 1 else ""
    return (
        f"all {len(test)} {split} clips with a value are of one {config.exclude}, and clips of the query's own "
        f"{config.exclude} are no neighbours; build the shards with more {config.exclude}s in that split{other}"
    )
