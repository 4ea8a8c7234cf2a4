"""From the index's columns to what a task is scored against, after checking that the splits can be trusted.

Shape suffixes: K clips whose target is known, C tags or classes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.index import ShardIndex
from evaluation.tasks import Task

STOP_EVERY = 5
"""One train artist in so many is stopped on where the validation split is reported."""


class EmptyColumnError(UserError):
    """A column without a single value."""


@dataclass(frozen=True)
class Target:
    """The known targets of one task, over all splits."""

    rows_K: NDArray[np.int64]
    """Rows of the index, ascending."""
    split_K: NDArray[np.str_]
    track_K: NDArray[np.str_]
    artist_K: NDArray[np.str_]
    """Artist, or the track where no artist is known: what is drawn and excluded together."""
    values: NDArray[Any]
    """Tags (K, C), classes (K,) or numbers (K,)."""
    classes: tuple[str, ...]
    """Names of the C tags or classes; empty for numbers."""

    def only(self, split: str) -> "Target":
        """The part of one split."""
        return self.where(self.split_K == split)

    def where(self, here: NDArray[np.bool_]) -> "Target":
        """The clips that a mask (K,) picks."""
        return Target(
            rows_K=self.rows_K[here],
            split_K=self.split_K[here],
            track_K=self.track_K[here],
            artist_K=self.artist_K[here],
            values=self.values[here],
            classes=self.classes,
        )

    def __len__(self) -> int:
        return len(self.rows_K)


def parts_of(target: Target, judged: Literal["test", "valid"]) -> dict[str, Target]:
    """What heads learn from, what they stop on and what is reported, by the names ``train``, ``valid``, ``test``.

    Where the validation split is what is reported, heads stop on a fifth of the train split's artists: choosing by a
    split that a head has also stopped on would flatter whatever stops by luck.
    """
    if judged == "test":
        return {split: target.only(split) for split in ("train", "valid", "test")}
    train = target.split_K == "train"
    artists = sorted(set(target.artist_K[train].tolist()), key=lambda name: hashlib.sha256(name.encode()).digest())
    stops = train & np.isin(target.artist_K, artists[: -(-len(artists) // STOP_EVERY)])
    return {"train": target.where(train & ~stops), "valid": target.where(stops), "test": target.only("valid")}


def read_target(index: ShardIndex, name: str, task: Task) -> Target:
    """The column of a task as bools, codes or numbers.

    Raises:
        UserError: if the column is not there, is of another kind, has another vocabulary than the task, or is empty.
    """
    values, classes = READERS[task.kind](index, name, task)
    known_K = _known(values, task)
    rows_K = np.flatnonzero(known_K)
    if not len(rows_K):
        raise EmptyColumnError(
            f"task {name}: no clip has a value in column {task.column}; build the shards from labels with some, "
            f"or leave the task out where it cannot run with tasks.{name}.optional=true"
        )
    track_K = np.asarray(index.track, np.str_)[rows_K]
    artist = [index.artist[row] for row in rows_K]
    artist_K = np.array([f"artist {a}" if a else f"track {t}" for a, t in zip(artist, track_K, strict=True)], np.str_)
    return Target(rows_K, np.asarray(index.split, np.str_)[rows_K], track_K, artist_K, values[rows_K], classes)


def _known(values: NDArray[Any], task: Task) -> NDArray[np.bool_]:
    if task.kind == "tags":
        return np.asarray(values.any(1) | task.untagged)
    return np.asarray(values >= 0 if values.dtype == np.int64 else np.isfinite(values))


def columns(index: ShardIndex) -> dict[str, str]:
    """Every target column of a set and what it is: multilabel, categorical or numeric."""
    kinds = dict.fromkeys(index.vocabularies, "multilabel") | dict.fromkeys(index.classes, "categorical")
    return kinds | dict.fromkeys(index.numeric, "numeric")


def artist_overlap(index: ShardIndex) -> float | None:
    """Share of test clips whose artist also stands in train; None where no test clip's artist is known."""
    seen = {artist for artist, split in zip(index.artist, index.split, strict=True) if artist and split == "train"}
    known = [artist for artist, split in zip(index.artist, index.split, strict=True) if artist and split == "test"]
    return sum(artist in seen for artist in known) / len(known) if known else None


def _expect(index: ShardIndex, name: str, task: Task, *kinds: str) -> str:
    found = columns(index)
    kind = found.get(task.column)
    if kind in kinds:
        return kind
    known = ", ".join(f"{column} ({kind})" for column, kind in sorted(found.items())) or "none"
    problem = f"is {kind}" if kind else "is not in the shards"
    raise UserError(
        f"task {name}: column {task.column} {problem}, kind {task.kind} needs a {' or '.join(kinds)} one; "
        f"the set has {known}" + ("" if kind else f"; leave the task out of such sets with tasks.{name}.optional=true")
    )


def _in_order(name: str, task: Task, found: tuple[str, ...]) -> list[int]:
    """Places of the task's vocabulary in the set's; another order is no error, since the names travel along."""
    if not task.vocabulary:
        return list(range(len(found)))
    missing, extra = sorted(set(task.vocabulary) - set(found)), sorted(set(found) - set(task.vocabulary))
    if missing or extra:
        raise UserError(
            f"task {name}: column {task.column} has another vocabulary than the task: "
            f"missing {missing[:5]}, unknown {extra[:5]}"
        )
    return [found.index(word) for word in task.vocabulary]


Columns = tuple[NDArray[Any], tuple[str, ...]]


def _read_tags(index: ShardIndex, name: str, task: Task) -> Columns:
    _expect(index, name, task, "multilabel")
    found = tuple(index.vocabularies[task.column])
    order = _in_order(name, task, found)
    return np.asarray(index.labels(task.column), np.bool_)[:, order], tuple(found[i] for i in order)


def _read_classes(index: ShardIndex, name: str, task: Task) -> Columns:
    if task.column == "artist" and "artist" not in columns(index):
        found = tuple(sorted({artist for artist in index.artist if artist}))
        code = {artist: number for number, artist in enumerate(found)}
        codes = np.array([code.get(artist, -1) for artist in index.artist], np.int64)
    elif _expect(index, name, task, "categorical", "numeric") == "numeric":
        values = index.target(task.column)
        whole = values[np.isfinite(values)]
        if (whole != np.round(whole)).any():
            raise UserError(
                f"task {name}: column {task.column} holds fractions; kind class needs classes or whole numbers"
            )
        numbers = np.unique(whole)
        found = tuple(str(int(number)) for number in numbers)
        codes = np.where(np.isfinite(values), np.searchsorted(numbers, values), -1).astype(np.int64)
    else:
        found, codes = tuple(index.classes[task.column]), np.asarray(index.target(task.column), np.int64)
    order = _in_order(name, task, found)
    place = np.append(np.argsort(order), -1)  # code −1, unknown, stays −1
    return place[codes], tuple(found[i] for i in order)


def _read_keys(index: ShardIndex, name: str, task: Task) -> Columns:
    from mir_eval.key import validate_key

    _expect(index, name, task, "categorical")
    codes, classes = _read_classes(index, name, task)
    for key in classes:
        try:
            validate_key(key)
        except ValueError as error:
            raise UserError(f"task {name}: column {task.column}: {error}") from None
    return codes, classes


def _read_numbers(index: ShardIndex, name: str, task: Task) -> Columns:
    _expect(index, name, task, "numeric")
    return np.asarray(index.target(task.column), np.float64), ()


def _read_tempi(index: ShardIndex, name: str, task: Task) -> Columns:
    values, _ = _read_numbers(index, name, task)
    wrong = np.flatnonzero(values <= 0)
    if len(wrong):
        raise UserError(f"task {name}: clip {index.key[wrong[0]]} has a tempo of {values[wrong[0]]}; it must be > 0")
    return values, ()


READERS: dict[str, Callable[[ShardIndex, str, Task], Columns]] = {
    "tags": _read_tags,
    "class": _read_classes,
    "key": _read_keys,
    "tempo": _read_tempi,
    "number": _read_numbers,
}
