"""Columns that grow row by row on disk and become one record batch of Arrow: memory does not grow with the rows.

The files have no name, so a killed process leaves none behind.
"""

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_shards.format.columns import arrow_texts, validity

BUFFER_BYTES = 1 << 16
VALUES_AT_ONCE = 1 << 20


class ColumnFolder:
    """Nameless files in a folder, on the disk that has room for them; closed, and so gone, with the context."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, ExitStack()

    def open(self) -> IO[bytes]:
        """A new file, empty."""
        return self._stack.enter_context(tempfile.TemporaryFile(dir=self._folder, buffering=BUFFER_BYTES))

    def __enter__(self) -> "ColumnFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class ColumnFile:
    """Numbers of one type, appended to a nameless file."""

    def __init__(self, folder: ColumnFolder, kind: Any) -> None:
        self.kind = np.dtype(kind)
        self.count = 0
        self._file = folder.open()

    def append(self, values: Any) -> None:
        """Numbers, as they are or converted."""
        array = np.ascontiguousarray(values, self.kind)
        self._file.write(array.data)
        self.count += len(array)

    def repeat(self, value: float, times: int) -> None:
        """One number many times."""
        for begin in range(0, times, VALUES_AT_ONCE):
            self.append(np.full(min(VALUES_AT_ONCE, times - begin), value, self.kind))

    def array(self) -> NDArray[Any]:
        """What was written, mapped."""
        return np.frombuffer(self._mapped(), self.kind, count=self.count)

    def buffer(self) -> Any:
        """The same as a buffer of Arrow."""
        return pa.py_buffer(self._mapped())

    def chunks(self) -> Iterator[NDArray[Any]]:
        """The same a million at a time."""
        array = self.array()
        for begin in range(0, self.count, VALUES_AT_ONCE):
            yield array[begin : begin + VALUES_AT_ONCE]

    def mapped(self, of: NDArray[Any], folder: ColumnFolder, kind: Any) -> "ColumnFile":
        """A new file in which ``of[value]`` stands for every value; -1 stays."""
        table, result = np.append(of, -1), ColumnFile(folder, kind)
        for chunk in self.chunks():
            result.append(table[chunk])
        return result

    def _mapped(self) -> Any:
        self._file.flush()
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self.count else b""


class RaggedFile:
    """Rows of several numbers each."""

    def __init__(self, folder: ColumnFolder, kind: Any) -> None:
        self.values, self.ends = ColumnFile(folder, kind), ColumnFile(folder, np.int64)
        self._end = 0
        self.ends.append([0])

    def append(self, rows: Sequence[Sequence[Any]]) -> None:
        """One row for each sequence."""
        self.extend([value for row in rows for value in row], [len(row) for row in rows])

    def extend(self, values: Any, counts: Sequence[int]) -> None:
        """Values of several rows together, and how many each row has."""
        self.values.append(values)
        ends = self._end + np.cumsum(counts, dtype=np.int64)
        self.ends.append(ends)
        self._end = int(ends[-1]) if len(ends) else self._end

    def lists(self, values: Any) -> Any:
        """Arrow's large_list of some array of the values."""
        kind = pa.large_list(values.type)
        return pa.Array.from_buffers(kind, self.ends.count - 1, [None, self.ends.buffer()], children=[values])

    def arrow(self) -> Any:
        """Arrow's large_list of numbers."""
        return self.lists(numbers(self.values))


class TextFile:
    """Texts, or None."""

    def __init__(self, folder: ColumnFolder) -> None:
        self._bytes = RaggedFile(folder, np.uint8)
        self._valid = ColumnFile(folder, np.bool_)

    def append(self, texts: Iterable[str | None]) -> None:
        """One row for each text."""
        listed = list(texts)
        coded = [b"" if text is None else text.encode() for text in listed]
        self._bytes.extend(np.frombuffer(b"".join(coded), np.uint8), [len(text) for text in coded])
        self._valid.append([text is not None for text in listed])

    def __getitem__(self, row: int) -> str:
        begin, end = self._bytes.ends.array()[row : row + 2].tolist()
        return self._bytes.values.array()[begin:end].tobytes().decode()

    def arrow(self) -> Any:
        """Arrow's large_string."""
        count, data = self._valid.count, self._bytes.values.buffer()
        return pa.Array.from_buffers(
            pa.large_string(), count, [validity(self._valid.array()), self._bytes.ends.buffer(), data]
        )


class TextListFile:
    """Rows of several texts each."""

    def __init__(self, folder: ColumnFolder) -> None:
        self._texts, self._counts = TextFile(folder), RaggedFile(folder, np.int8)
        self.any = False
        """Whether some text is not empty."""

    def append(self, rows: Sequence[Sequence[str]]) -> None:
        """One row for each sequence."""
        texts = [text for row in rows for text in row]
        self._texts.append(texts)
        self._counts.extend([], [len(row) for row in rows])
        self.any = self.any or any(texts)

    def arrow(self) -> Any:
        """Arrow's large_list of large_string."""
        return self._counts.lists(self._texts.arrow())


class CodedFile:
    """Texts of few different values, or None, as codes."""

    def __init__(self, folder: ColumnFolder) -> None:
        self.codes = ColumnFile(folder, np.int32)
        self._code: dict[str, int] = {}

    def append(self, texts: Iterable[str | None]) -> None:
        """One row for each text."""
        code = self._code
        self.codes.append([-1 if text is None else code.setdefault(text, len(code)) for text in texts])

    def names(self) -> list[str]:
        """Every value, sorted; a sorted dictionary keeps the bytes independent of the order of clips."""
        return sorted(self._code)

    def seen(self) -> list[str]:
        """Every value, in the order of the codes in the file."""
        return list(self._code)

    def arrow(self, folder: ColumnFolder) -> Any:
        """Arrow's dictionary of int32 codes."""
        names = self.names()
        code = {name: number for number, name in enumerate(names)}
        place = np.array([code[name] for name in self._code], np.int64)
        codes = self.codes.mapped(place, folder, np.int32)
        valid = np.concatenate([chunk >= 0 for chunk in codes.chunks()])
        found = codes.buffer() if valid.all() else pa.py_buffer(np.maximum(codes.array(), 0))
        indices = pa.Array.from_buffers(pa.int32(), codes.count, [validity(valid), found])
        return pa.DictionaryArray.from_arrays(indices, arrow_texts(names))


def numbers(column: ColumnFile) -> Any:
    """Arrow's array of a file of numbers."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(column.kind), column.count, [None, column.buffer()])
