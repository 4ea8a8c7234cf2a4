"""What a task is scored against: columns of an index by type, and their known values with track, artist and split.

Shape suffixes: K clips whose target is known, C tags or classes.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from evaluation.config import Task

STOP_EVERY = 5
"""One train artist in so many, or track, is stopped on where the validation split is reported."""


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
    texts_K: tuple[tuple[str, ...], ...] = ()
    """Texts of each clip, for a task that reads texts; else none at all."""

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
            texts_K=tuple(self.texts_K[k] for k in np.flatnonzero(here)) if self.texts_K else (),
        )

    def __len__(self) -> int:
        return len(self.rows_K)


def parts_of(target: Target, reported: Literal["test", "valid"]) -> dict[str, Target]:
    """What heads are trained on, what they stop on and what is reported, by the names ``train``, ``valid``, ``test``.

    Where the validation split is what is reported, heads stop on a fifth of the train split's artists, of its tracks
    where all are of one artist: choosing by a split that a head has also stopped on would flatter whatever stops by
    luck.
    """
    if reported == "test":
        return {split: target.only(split) for split in ("train", "valid", "test")}
    train = target.split_K == "train"
    unit_K = target.artist_K if len(np.unique(target.artist_K[train])) > 1 else target.track_K
    units = sorted(set(unit_K[train].tolist()), key=lambda name: hashlib.sha256(name.encode()).digest())
    stops = train & np.isin(unit_K, units[: -(-len(units) // STOP_EVERY)])
    return {"train": target.where(train & ~stops), "valid": target.where(stops), "test": target.only("valid")}


def artist_overlap(index: ShardIndex) -> float | None:
    """Share of test clips whose artist is also in train; None where no test clip's artist is known."""
    seen = {artist for artist, split in zip(index.artist, index.split, strict=True) if artist and split == "train"}
    known = [artist for artist, split in zip(index.artist, index.split, strict=True) if artist and split == "test"]
    return sum(artist in seen for artist in known) / len(known) if known else None


def columns(index: ShardIndex) -> dict[str, str]:
    """Every target column of a set and what it is: multilabel, categorical or numeric."""
    kinds = dict.fromkeys(index.vocabularies, "multilabel") | dict.fromkeys(index.classes, "categorical")
    return kinds | dict.fromkeys(index.numeric, "numeric")


def require_column(index: ShardIndex, name: str, task: Task, *kinds: str) -> str:
    """The type of a task's column, which must be one of some. The UserError names the columns that the set has."""
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


def in_vocabulary_order(name: str, task: Task, found: tuple[str, ...]) -> list[int]:
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


def read_classes(index: ShardIndex, name: str, task: Task) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Codes (K,) of a categorical column, of whole numbers or of the artists, and the names of the classes."""
    if task.column == "artist" and "artist" not in columns(index):
        found = tuple(sorted({artist for artist in index.artist if artist}))
        code = {artist: number for number, artist in enumerate(found)}
        codes = np.array([code.get(artist, -1) for artist in index.artist], np.int64)
    elif require_column(index, name, task, "categorical", "numeric") == "numeric":
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
    order = in_vocabulary_order(name, task, found)
    place = np.append(np.argsort(order), -1)  # code −1, unknown, stays −1
    return place[codes], tuple(found[i] for i in order)


def read_numbers(index: ShardIndex, name: str, task: Task) -> NDArray[np.float64]:
    """Values (K,) of a numeric column; NaN where a clip has none."""
    require_column(index, name, task, "numeric")
    return np.asarray(index.target(task.column), np.float64)
