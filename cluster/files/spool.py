"""A sequence whose items lie on disk, so that its memory does not grow with what it holds.

The file has no name, so a killed process leaves none behind; it lies in ``TMPDIR``.
"""

import heapq
import os
import pickle
import tempfile
import weakref
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from cluster.settings import RunError

T = TypeVar("T")
CHUNK = 256
"""Items that are written, and read, together."""
SORTED_AT_ONCE = 1 << 16
"""Items that are sorted in memory."""
NAMED = 8
"""Items that its repr names."""
COMPRESSION = 1
"""Level of zlib; names and labels shrink to about a fifth."""


class Spool(Sequence[T], Generic[T]):
    """Items on disk in chunks, of which one is in memory; fewer items than a chunk are never written.

    Items are pickled, so each access gives an equal item and not the same. Iterations are independent of each other.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        """Write items, which are picklable, one by one. Raises RunError if the disk is full."""
        self._file: IO[bytes] | None = None
        self._ends = array("q", [0])
        self._last: list[T] = []
        self._kept: tuple[int, list[T]] = (-1, [])
        for item in items:
            self.append(item)

    def append(self, item: T) -> None:
        """Add one item at the end. Raises RunError if the disk is full."""
        self._last.append(item)
        if len(self._last) == CHUNK:
            self._write(zlib.compress(pickle.dumps(self._last, pickle.HIGHEST_PROTOCOL), COMPRESSION))
            self._last = []

    def __len__(self) -> int:
        return (len(self._ends) - 1) * CHUNK + len(self._last)

    def __iter__(self) -> Iterator[T]:
        for chunk in range(len(self._ends)):
            yield from self._read(chunk)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[T, ...]: ...
    def __getitem__(self, at: int | slice) -> T | tuple[T, ...]:
        """One item, or the items of a slice in memory."""
        if isinstance(at, slice):
            return tuple(self._item(place) for place in range(*at.indices(len(self))))
        place = at + (len(self) if at < 0 else 0)
        if not 0 <= place < len(self):
            raise IndexError(f"item {at} of {len(self)}")
        return self._item(place)

    def __repr__(self) -> str:
        more = ", ..." if len(self) > NAMED else ""
        return f"Spool([{', '.join(map(repr, self[:NAMED]))}{more}])"

    def _item(self, place: int) -> T:
        chunk, item = divmod(place, CHUNK)
        if chunk != self._kept[0] or chunk == len(self._ends) - 1:
            self._kept = (chunk, self._read(chunk))
        return self._kept[1][item]

    def _write(self, data: bytes) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 closed with the sequence
                weakref.finalize(self, self._file.close)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{tempfile.gettempdir()}: a list of {len(self):,} items cannot be kept there: {error.strerror}; "
                "set TMPDIR to a folder with more room"
            ) from None
        self._ends.append(self._ends[-1] + len(data))

    def _read(self, chunk: int) -> list[T]:
        if self._file is None or chunk == len(self._ends) - 1:
            return self._last
        begin, end = self._ends[chunk : chunk + 2]
        data = os.pread(self._file.fileno(), end - begin, begin)
        items: list[T] = pickle.loads(zlib.decompress(data))  # noqa: S301 written by this process
        return items


def sorted_spool(items: Iterable[Any]) -> Spool[Any]:
    """The items in ascending order; equal ones keep theirs. A part of them is in memory."""
    runs: list[Spool[Any]] = []
    waiting = iter(items)
    while some := sorted(islice(waiting, SORTED_AT_ONCE)):
        runs.append(Spool(some))
    return runs[0] if len(runs) == 1 else Spool(heapq.merge(*runs))


def text_hashes(texts: Iterable[str]) -> NDArray[np.int64]:
    """Python's 64 bits for each text: 8 bytes in place of an object; equal for equal texts of one process."""
    return np.fromiter(map(hash, texts), np.int64)


def first_repeat(texts: Iterable[str], hashes: NDArray[np.int64] | None = None) -> tuple[int, int] | None:
    """The first text that equals an earlier one: the place of the earlier one and its own; None where all differ. The
    texts are iterated over again where their hashes (`text_hashes`) are equal.

    >>> first_repeat(["a", "b", "a", "b"]), first_repeat(["a", "b"])
    ((0, 2), None)
    """
    hashes = text_hashes(texts) if hashes is None else hashes
    ordered = np.sort(hashes)
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    del ordered
    first: dict[str, int] = {}
    for place, text in enumerate(texts) if suspects else ():
        if hash(text) in suspects and first.setdefault(text, place) != place:
            return first[text], place
    return None
