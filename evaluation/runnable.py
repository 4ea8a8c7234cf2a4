"""Which tasks can run on a set: the target of each, read by its kind, and why a task has nothing to answer.

A metric with nothing left (no negative, one class, one track) is undefined or empty of meaning. Such a task is refused
before anything is embedded, or left out with the reason where it is optional.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from evaluation.config import EvaluationConfig, Task
from evaluation.targets.splits import hold_to, load_split
from evaluation.targets.target import Target, columns, parts_of
from evaluation.tasks.kind import Kind, TaskKind, kind_of
from evaluation.tasks.text import TextKind


class EmptyColumnError(UserError):
    """A column without a single value."""


def read_target(index: ShardIndex, name: str, task: Task) -> Target:
    """The known values of a task's column. Raises UserError if the kind has no such metrics, or the column is not
    there, is of another type, has another vocabulary than the task, or is empty.
    """
    kind = kind_of(task)
    _check(kind, name, task)
    values, classes = kind.read(index, name, task)
    texts = kind.texts(index, name, task) if isinstance(kind, TextKind) else ()
    rows_K = np.flatnonzero(kind.known(values, task))
    if not len(rows_K):
        raise EmptyColumnError(
            f"task {name}: no clip has a value in column {task.column}; build the shards from labels with some, "
            f"or leave the task out where it cannot run with tasks.{name}.optional=true"
        )
    track_K = np.asarray(index.track, np.str_)[rows_K]
    artist = [index.artist[row] for row in rows_K]
    artist_K = np.array([f"artist {a}" if a else f"track {t}" for a, t in zip(artist, track_K, strict=True)], np.str_)
    split_K = np.asarray(index.split, np.str_)[rows_K]
    texts_K = tuple(texts[row] for row in rows_K) if texts else ()
    return Target(rows_K, split_K, track_K, artist_K, values[rows_K], classes, texts_K)


def read_targets(index: ShardIndex, config: EvaluationConfig) -> tuple[dict[str, Target], dict[str, str]]:
    """Targets of the tasks that can run, and why optional ones cannot.
    The UserError names a task that cannot run and is not optional, or says that none can.
    """
    present = columns(index)
    targets, left_out = {}, {}
    for name, task in config.tasks.items():
        if task.optional and task.column not in (*present, "artist", "track", "captions"):
            left_out[name] = f"the set has no column {task.column}"
            continue
        try:
            target = _read_frozen(index, name, task)
            reason = why_not(name, task, target, config)
        except EmptyColumnError as error:
            reason = str(error)
        if reason is None:
            targets[name] = target
        elif task.optional:
            left_out[name] = reason.removeprefix(f"task {name}: ")
        else:
            raise UserError(reason)
    if not targets:
        known, reasons = ", ".join(sorted(present)) or "none", "; ".join(f"{n}: {why}" for n, why in left_out.items())
        raise UserError(f"none of the tasks can run ({reasons}); the shards have the columns {known}")
    return targets, left_out


def why_not(name: str, task: Task, target: Target, config: EvaluationConfig) -> str | None:
    """Why a task cannot be answered, with its column, its split and the remedy; None where it can."""
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


def notes(name: str, task: Task, parts: Mapping[str, Target], config: EvaluationConfig) -> list[str]:
    """What a reader must know of metrics that are defined and yet mean little; ``parts`` as `parts_of` has them."""
    kind, test = kind_of(task), parts["test"]
    found = kind.retrieval_notes(name, test) if isinstance(kind, TaskKind) and task.retrieval else []
    if not kind.reads_texts and len(np.unique(test.values, axis=0)) == 1:
        found.append(f"{name}: all {config.split} clips have one value of {task.column}: a constant answer is right")
    if task.probe and config.split == "valid" and np.isin(parts["valid"].artist_K, parts["train"].artist_K).any():
        found.append(f"{name}: all train clips are of one artist, so heads stop on a fifth of its tracks")
    units = test.artist_K if config.confidence.cluster == "artist" else test.track_K
    if len(set(units.tolist())) == 1:
        found.append(
            f"{name}: all {config.split} clips are of one {config.confidence.cluster}, so no interval can be given"
        )
    return found


def _read_frozen(index: ShardIndex, name: str, task: Task) -> Target:
    """The target, reduced to the task's frozen split where it names one."""
    if task.frozen is None:
        return read_target(index, name, task)
    frozen = load_split(Path(task.frozen))
    if frozen.column != task.column or (task.vocabulary and task.vocabulary != frozen.vocabulary):
        raise UserError(
            f"task {name}: {task.frozen} freezes column {frozen.column} with {len(frozen.vocabulary)} tags, "
            f"the task has column {task.column}" + " and another vocabulary" * bool(task.vocabulary)
        )
    target = read_target(index, name, replace(task, vocabulary=frozen.vocabulary))
    return hold_to(frozen, name, index, target)


def _check(kind: Kind, name: str, task: Task) -> None:
    if not kind.reads_texts and not (task.probe or task.retrieval):
        raise UserError(f"task {name}: kind {task.kind} needs tasks.{name}.probe=true, retrieval=true or both")
    if task.probe and not (kind.reads_texts or kind.probe_metrics):
        raise UserError(f"task {name}: kind {task.kind} has no probe; set tasks.{name}.probe=false")
    if task.retrieval and not kind.retrieval_metrics:
        raise UserError(f"task {name}: kind {task.kind} has no retrieval metric; set tasks.{name}.retrieval=false")
    if task.untagged and not kind.takes_untagged:
        raise UserError(f"task {name}: kind {task.kind} has no clips of no tag; set tasks.{name}.untagged=false")


def _held(split: str, config: EvaluationConfig) -> str:
    """The set's own name of a part: where valid is reported, heads stop on some of train."""
    return {"test": "valid", "valid": "train"}.get(split, split) if config.split == "valid" else split


def _empty(task: Task, parts: Mapping[str, Target], config: EvaluationConfig) -> str | None:
    for split in ("train", "valid", "test") if task.probe else ("test",):
        if len(parts[split]):
            continue
        if split == "train" and len(parts["valid"]) and config.split == "valid":
            return (
                f"the train clips with a value in column {task.column} are of one track, and heads stop on a fifth of "
                "the train split where the valid split is reported; build the shards with more tracks in train"
            )
        return (
            f"no clip of split {_held(split, config)} has a value in column {task.column}; "
            "build the shards with clips that have one there"
        )
    return None
