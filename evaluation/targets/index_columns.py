"""Columns of a set's index by type, and their values in the order of a task's vocabulary.

Shape suffixes: K clips of the index.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from evaluation.config import Task


def columns(index: ShardIndex) -> dict[str, str]:
    """Every target column of a set and what it is: multilabel, categorical or numeric."""
    kinds = dict.fromkeys(index.vocabularies, "multilabel") | dict.fromkeys(index.classes, "categorical")
    return kinds | dict.fromkeys(index.numeric, "numeric")


def require_column(index: ShardIndex, name: str, task: Task, *kinds: str) -> str:
    """The type of a task's column, which must be one of some.

    Raises:
        UserError: names the columns that the set has.
    """
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
