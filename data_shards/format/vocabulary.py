"""Labels between text and numbers: tag sets, classes and real targets by column.

Shape suffixes: K clips, C tags of a vocabulary. A label vector never travels without its vocabulary: both are written
to the manifest.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
"""Code of a categorical target that is not known."""


def collect(values: Iterable[str]) -> tuple[str, ...]:
    """The distinct values in their one order: by code point, so no locale or order of files can change a label.

    >>> collect(["calm", "guitar", "calm"])
    ('calm', 'guitar')
    """
    return tuple(sorted(set(values)))


def check_order(names: Sequence[str], column: str) -> tuple[str, ...]:
    """A vocabulary that was given: its order is kept.

    Raises:
        ValueError: if a name is a duplicate or empty.
    """
    if len(set(names)) != len(names) or not all(names):
        wrong = sorted({name for name in names if not name or list(names).count(name) > 1})
        raise ValueError(f"vocabulary of {column}: {', '.join(map(repr, wrong))} is empty or a duplicate")
    return tuple(names)


def encode_sets(sets: Sequence[Sequence[str]], names: Sequence[str]) -> list[list[int]]:
    """Tag sets as sorted codes into `names`.

    Raises:
        KeyError: a tag that the vocabulary lacks.

    >>> encode_sets([["b", "a"], []], ["a", "b"])
    [[0, 1], []]
    """
    code = {name: i for i, name in enumerate(names)}
    return [sorted({code[name] for name in one}) for one in sets]


def to_matrix(flat: NDArray[np.int32], ends: NDArray[np.int64], num_tags: int) -> NDArray[np.bool_]:
    """Ragged tag codes as a boolean matrix.

    Args:
        flat: codes of all clips, one after another.
        ends: (K+1,) where each clip's codes begin and end.
        num_tags: C.

    Returns:
        (K, C) bool.

    >>> to_matrix(np.array([1, 0], np.int32), np.array([0, 1, 1, 2]), 2).astype(int).tolist()
    [[0, 1], [0, 0], [1, 0]]
    """
    labels_KC = np.zeros((len(ends) - 1, num_tags), dtype=np.bool_)
    rows = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    labels_KC[rows, flat] = True
    return labels_KC
