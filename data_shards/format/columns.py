"""Columns of an index without an object a clip: texts and lists of texts over Arrow's memory, mapped or not.

K clips. A value becomes a Python object when it is asked for, and what lies in a mapped file is checked before.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

CHUNK = 1 << 16
"""Rows that become objects at once where a whole column is walked."""
UNKNOWN = -1
"""Code of a categorical target that is not known."""
Check = Callable[[Any, int, int], None]
"""Checks bytes begin…end of a buffer of Arrow before they are used."""


def unchecked(buffer: Any, begin: int, end: int) -> None:
    """A buffer in memory of this process needs no check."""


class TextColumn(Sequence[Any]):
    """K texts or None: ``column[row]`` is one; ``column[rows]``, by numbers or a mask, an array of objects.

    ``column == "train"`` is a (K,) mask. ``np.asarray(column)`` and iteration make objects of all.
    """

    def __init__(self, array: Any, check: Check = unchecked) -> None:
        self._array, self._check = array, check
        self._is_coded = pa.types.is_dictionary(array.type)

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> "TextColumn":
        """A column in memory."""
        return cls(arrow_texts(texts))

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, at: int | np.integer[Any]) -> Any: ...
    @overload
    def __getitem__(self, at: slice | NDArray[Any] | Sequence[int]) -> Any: ...
    def __getitem__(self, at: Any) -> Any:
        """The text of a row; of several rows an array of objects."""
        if isinstance(at, int | np.integer):
            row = int(at) + (len(self) if at < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"row {at} of {len(self)}")
            check_texts(self._array, row, row + 1, self._check)
            return self._array[row].as_py()
        if isinstance(at, slice) and at.step in (None, 1):
            begin, end, _ = at.indices(len(self))
            return self._objects(self._array.slice(begin, max(0, end - begin)), begin, max(begin, end))
        rows = np.arange(len(self))[at]
        return self._objects(self._array.take(arrow_numbers(rows)), 0, len(self))

    def __iter__(self) -> Iterator[Any]:
        for begin in range(0, len(self), CHUNK):
            yield from self[begin : begin + CHUNK]

    def __eq__(self, other: object) -> Any:
        """The (K,) mask of rows with this text; with another column or a list, whether all are equal."""
        if not isinstance(other, str):
            return NotImplemented if not isinstance(other, Sequence) else list(self) == list(other)
        check_texts(self._array, 0, len(self), self._check)
        if not self._is_coded:
            return bools_of(pc.fill_null(pc.equal(self._array, other), False))
        names = self._array.dictionary.to_pylist()
        here = np.asarray(numbers_of(self._array.indices) == (names.index(other) if other in names else len(names)))
        return here & bools_of(self._array.is_valid()) if self._array.null_count else here

    def __ne__(self, other: object) -> Any:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else np.logical_not(equal)

    __hash__ = None  # type: ignore[assignment]  # like an array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        texts = self[:]
        return np.asarray(texts if dtype is None else texts.astype(dtype))

    def arrow(self) -> Any:
        """The column as Arrow's array, to be written; long offsets, so that it has any size."""
        check_texts(self._array, 0, len(self), self._check)
        kind = pa.dictionary(pa.int32(), pa.large_string()) if self._is_coded else pa.large_string()
        return self._array.cast(kind)

    def counts(self) -> dict[str | None, int]:
        """How many rows have each value, in the order of the values; None last."""
        check_texts(self._array, 0, len(self), self._check)
        found = {one["values"]: one["counts"] for one in pc.value_counts(self._array).to_pylist()}
        return {value: found[value] for value in sorted(found, key=lambda value: (value is None, value or ""))}

    def codes(self) -> NDArray[np.int32]:
        """A number (K,) for each distinct text, −1 for None: to compare rows without making texts of them."""
        check_texts(self._array, 0, len(self), self._check)
        coded = self._array if self._is_coded else self._array.dictionary_encode()
        return numbers_of(coded.indices.fill_null(-1)).astype(np.int32)

    def _objects(self, array: Any, begin: int, end: int) -> NDArray[np.object_]:
        check_texts(self._array, begin, end, self._check)
        found = array.cast(pa.large_string()) if self._is_coded else array
        texts = np.empty(len(found), object)
        texts[:] = found.to_pylist()
        return texts


class TextLists(Sequence[tuple[str, ...]]):
    """K tuples of texts, such as the captions of each clip; ``lists[row]`` is one."""

    def __init__(self, array: Any, count: int, check: Check = unchecked) -> None:
        self._array, self._count, self._check = array, count, check

    @classmethod
    def of(cls, lists: Sequence[Sequence[str]]) -> "TextLists":
        """A column in memory."""
        ends = np.append(0, np.cumsum([len(texts) for texts in lists], dtype=np.int64))
        flat = arrow_texts([text for texts in lists for text in texts])
        return cls(pa.LargeListArray.from_arrays(arrow_numbers(ends), flat), len(lists))

    def __len__(self) -> int:
        return self._count

    def arrow(self) -> Any:
        """The column as Arrow's array, to be written; None where every tuple is empty."""
        return None if self._array is None else self._array.cast(pa.large_list(pa.large_string()))

    @property
    def num_texts(self) -> int:
        """Texts of all rows together."""
        ends = self.ends()
        return int(ends[-1] - ends[0])

    def ends(self) -> NDArray[np.int64]:
        """(K+1,) where each row's texts begin and end among all texts."""
        if self._array is None:
            return np.zeros(self._count + 1, np.int64)
        return np.asarray(offsets_of(self._array, 0, self._count, self._check), np.int64)

    @overload
    def __getitem__(self, at: int | np.integer[Any]) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, at: slice) -> "tuple[tuple[str, ...], ...]": ...
    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return tuple(self[row] for row in range(*at.indices(self._count)))
        row = int(at) + (self._count if at < 0 else 0)
        if not 0 <= row < self._count:
            raise IndexError(f"row {at} of {self._count}")
        if self._array is None:
            return ()
        first, last = offsets_of(self._array, row, row + 1, self._check).tolist()
        check_texts(self._array.values, first, last, self._check)
        return tuple(self._array.values.slice(first, last - first).to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(tuple.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # like an array


def arrow_numbers(values: NDArray[Any]) -> Any:
    """Arrow's array of numbers, without a copy where they lie together; `pa.array` imports pandas."""
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
    )


def arrow_texts(texts: Sequence[str | None]) -> Any:
    """Arrow's array of texts or None, without pandas too."""
    content = [b"" if text is None else text.encode() for text in texts]
    ends = np.append(0, np.cumsum([len(one) for one in content], dtype=np.int64))
    valid = validity(np.array([text is not None for text in texts], np.bool_))
    return pa.Array.from_buffers(
        pa.large_string(), len(content), [valid, pa.py_buffer(ends), pa.py_buffer(b"".join(content))]
    )


def validity(valid: NDArray[np.bool_]) -> Any:
    """Arrow's bits of the rows that are not None; itself None where all are there."""
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


def numbers_of(array: Any) -> NDArray[Any]:
    """The numbers of an array without a copy; Arrow's own way imports pandas, a second and 30 MB."""
    name = str(array.type)
    kind = np.dtype({"double": "float64", "float": "float32"}.get(name, name))
    data = array.buffers()[1]
    return np.frombuffer(b"" if data is None else data, kind, count=len(array), offset=array.offset * kind.itemsize)


def bools_of(array: Any) -> NDArray[np.bool_]:
    """The truth values of an array without None."""
    bits = np.unpackbits(np.frombuffer(array.buffers()[1], np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(np.bool_)


def offsets_of(array: Any, begin: int, end: int, check: Check) -> NDArray[Any]:
    """Where the values of rows begin…end of a ragged array begin and end, (end − begin + 1,), checked."""
    kind = np.int64 if pa.types.is_large_list(array.type) or pa.types.is_large_string(array.type) else np.int32
    size, first = np.dtype(kind).itemsize, array.offset + begin
    buffer = array.buffers()[1]
    check(buffer, first * size, (first + end - begin + 1) * size)
    return np.frombuffer(buffer, kind, count=end - begin + 1, offset=first * size)


def check_texts(array: Any, begin: int, end: int, check: Check) -> None:
    """Check what the texts of rows begin…end are read from."""
    if check is unchecked or end <= begin:
        return
    validity, data = array.buffers()[0], array.buffers()[1]
    if validity is not None:
        check(validity, (array.offset + begin) // 8, (array.offset + end + 7) // 8)
    if pa.types.is_dictionary(array.type):
        size = array.indices.type.bit_width // 8
        check(data, (array.offset + begin) * size, (array.offset + end) * size)
        return
    ends = offsets_of(array, begin, end, check)
    check(array.buffers()[2], int(ends[0]), int(ends[-1]))


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
