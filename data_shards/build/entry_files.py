"""The entries of a set as columns on disk, while its index is written."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_shards.build.column_files import (
    CodedFile,
    ColumnFile,
    ColumnFolder,
    RaggedFile,
    TextFile,
    TextListFile,
    numbers,
)
from data_shards.format.columns import UNKNOWN, arrow_numbers
from data_shards.format.entries import Entry
from data_shards.format.index import id_hash
from data_shards.format.index_file import CODED, ID_ORDER, INTEGERS, TAG_SEPARATOR, TEXT_LISTS, TEXTS
from data_shards.format.problems import Problem, ShardError
from data_shards.format.shard_file import ShardFile


class EntryFiles:
    """Columns of the table of clips; vocabularies are coded in the order in which tags are seen, then sorted."""

    def __init__(self, folder: ColumnFolder, given: Mapping[str, Sequence[str]]) -> None:
        """Empty columns. Raises ValueError if a given name is a duplicate or empty."""
        self.count = self.num_frames = self.num_captions = self.rate = 0
        self.splits: Counter[str] = Counter()
        self._folder, self._first = folder, ""
        self._given = {column: check_order(names, column) for column, names in given.items()}
        self._integers = {name: ColumnFile(folder, kind) for name, kind in INTEGERS.items()}
        self._texts = {name: TextFile(folder) for name in TEXTS if name not in CODED}
        self._coded = {name: CodedFile(folder) for name in CODED}
        self._crc = RaggedFile(folder, np.uint32)
        self._text_lists = {name: TextListFile(folder) for name in TEXT_LISTS}
        self._multilabel: dict[str, RaggedFile] = {}
        self._tag_code: dict[str, dict[str, int]] = {}
        self._categorical: dict[str, CodedFile] = {}
        self._numeric: dict[str, ColumnFile] = {}
        for column in sorted(given):
            self._tags(column)

    def append(self, shard: int, entries: Sequence[Entry]) -> None:
        """Add the entries of one shard. Raises ShardError if a clip has another rate than the first of all, ValueError
        if it bears a tag that its given vocabulary lacks.
        """
        for entry in entries:
            self.rate, self._first = self.rate or entry.rate, self._first or entry.key
            if entry.rate != self.rate:
                what = f"{entry.rate:,} Hz, but {self._first} has {self.rate:,} Hz; a set has one rate"
                raise ShardError(Problem(entry.shard, entry.key, entry.offset, what))
        self._append_labels(entries)
        for name, column in self._integers.items():
            if name == "shard":
                column.append(np.full(len(entries), shard))
            else:
                column.append([id_hash(e.key) if name == "id_hash" else getattr(e, name) for e in entries])
        texts: Mapping[str, TextFile | CodedFile] = {**self._texts, **self._coded}
        for name, file in texts.items():
            file.append(getattr(entry, name) for entry in entries)
        self._crc.append([entry.crc for entry in entries])
        self._text_lists["captions"].append([entry.captions for entry in entries])
        self._text_lists["caption_tags"].append(
            [list(map(TAG_SEPARATOR.join, entry.caption_tags)) for entry in entries]
        )
        self.count += len(entries)
        self.num_frames += sum(entry.frames for entry in entries)
        self.num_captions += sum(len(entry.captions) for entry in entries)
        self.splits.update(entry.split for entry in entries)

    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """Tags by column, in their order."""
        return {
            column: self._given[column] if column in self._given else tuple(sorted(self._tag_code[column]))
            for column in sorted(self._multilabel)
        }

    def classes(self) -> dict[str, tuple[str, ...]]:
        """Classes by column, sorted."""
        return {column: tuple(codes.names()) for column, codes in sorted(self._categorical.items())}

    def numeric(self) -> list[str]:
        """Names of the numeric columns, sorted."""
        return sorted(self._numeric)

    def id_order(self) -> NDArray[np.int64]:
        """Rows by their ids."""
        return np.argsort(self._integers["id_hash"].array(), kind="stable")

    def check_unique(self, order: NDArray[np.int64], shards: Sequence[ShardFile]) -> None:
        """Refuse a key that two clips have. The ShardError names both places."""
        ids = self._integers["id_hash"].array()[order]
        again = np.flatnonzero(ids[1:] == ids[:-1])
        if not len(again):
            return
        at = again[np.argmin(order[again + 1])]
        first, second = (int(order[at + which]) for which in (0, 1))
        key, other = self._texts["key"][second], self._texts["key"][first]
        places = [
            (shards[int(self._integers["shard"].array()[row])].name, int(self._integers["offset"].array()[row]))
            for row in (first, second)
        ]
        what = f"duplicate key, also in {places[0][0]} at byte {places[0][1]:,} as {other}"
        raise ShardError(Problem(places[1][0], key, places[1][1], what))

    def batch(self, order: NDArray[np.int64]) -> Any:
        """All columns as one record batch over the files."""
        columns: dict[str, Any] = {}
        for name in TEXTS:
            columns[name] = self._coded[name].arrow(self._folder) if name in CODED else self._texts[name].arrow()
        columns |= {name: numbers(column) for name, column in self._integers.items()}
        columns[ID_ORDER] = order_column(order)
        columns["crc"] = self._crc.arrow()
        for column, names in self.vocabularies().items():
            columns[f"multilabel.{column}"] = self._tag_lists(column, names)
        for column, codes in sorted(self._categorical.items()):
            place = {name: code for code, name in enumerate(codes.names())}
            of = np.array([place[name] for name in codes.seen()], np.int64)
            columns[f"categorical.{column}"] = numbers(codes.codes.mapped(of, self._folder, np.int64))
        columns |= {f"numeric.{column}": numbers(values) for column, values in sorted(self._numeric.items())}
        columns |= {name: file.arrow() for name, file in self._text_lists.items() if file.any}
        return pa.record_batch(columns)

    def _append_labels(self, entries: Sequence[Entry]) -> None:
        """Columns may begin with any clip: those before it have no label there."""
        for column in _names(entries, "multilabel", self._multilabel):
            file, code, given = self._tags(column), self._tag_code[column], self._given.get(column)
            sets = [sorted(set(entry.multilabel.get(column, ()))) for entry in entries]
            if given is not None:
                file.append(_codes(entries, sets, column, given))
            else:
                file.append([[code.setdefault(tag, len(code)) for tag in tags] for tags in sets])
        for column in _names(entries, "categorical", self._categorical):
            if column not in self._categorical:
                self._categorical[column] = CodedFile(self._folder)
                self._categorical[column].codes.repeat(UNKNOWN, self.count)
            self._categorical[column].append(entry.categorical.get(column) or None for entry in entries)
        for column in _names(entries, "numeric", self._numeric):
            if column not in self._numeric:
                self._numeric[column] = ColumnFile(self._folder, np.float64)
                self._numeric[column].repeat(np.nan, self.count)
            self._numeric[column].append([entry.numeric.get(column, np.nan) for entry in entries])

    def _tags(self, column: str) -> RaggedFile:
        if column not in self._multilabel:
            self._multilabel[column] = RaggedFile(self._folder, np.int32)
            self._multilabel[column].ends.repeat(0, self.count)
            self._tag_code[column] = {}
        return self._multilabel[column]

    def _tag_lists(self, column: str, names: Sequence[str]) -> Any:
        file, code = self._multilabel[column], self._tag_code[column]
        if column in self._given:
            return file.arrow()
        place = {name: number for number, name in enumerate(names)}  # tags of a clip are sorted, and stay so
        return file.lists(
            numbers(file.values.mapped(np.array([place[name] for name in code], np.int64), self._folder, np.int32))
        )


def order_column(order: NDArray[Any]) -> Any:
    """Arrow's column of all rows in some order."""
    return arrow_numbers(order.astype(np.int32 if len(order) < 2**31 else np.int64))


def _names(entries: Sequence[Entry], kind: str, known: Mapping[str, Any]) -> list[str]:
    """The columns of a kind that there are by now."""
    return sorted({name for entry in entries for name in getattr(entry, kind)} | known.keys())


def _codes(
    entries: Sequence[Entry], sets: Sequence[Sequence[str]], column: str, names: Sequence[str]
) -> list[list[int]]:
    """Places of each entry's tags in a vocabulary that was given, ascending."""
    code = {name: place for place, name in enumerate(names)}
    for entry, tags in zip(entries, sets, strict=True):
        unknown = [tag for tag in tags if tag not in code]
        if unknown:
            raise ValueError(f"clip {entry.key}: {column} {', '.join(unknown)} is not in the given vocabulary")
    return [sorted(code[tag] for tag in tags) for tags in sets]


def check_order(names: Sequence[str], column: str) -> tuple[str, ...]:
    """A vocabulary that was given, in its order. Raises ValueError if a name is a duplicate or empty."""
    if len(set(names)) != len(names) or not all(names):
        wrong = sorted({name for name in names if not name or list(names).count(name) > 1})
        raise ValueError(f"vocabulary of {column}: {', '.join(map(repr, wrong))} is empty or a duplicate")
    return tuple(names)
