"""What is known of a catalogue's tracks, column by column: from a table of labels, a set of shards, or the folders.

A track is named as in the index of its catalogue: a file by its absolute path, a clip of a set of shards by its key.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.settings import UserError
from data_shards.format.index import read_index
from data_shards.sources.cells import is_missing, split_list, to_number
from data_shards.sources.columns import Column, read_columns, tags_of
from data_shards.sources.label_table import LabelTable, Row, read_labels

TABLES = ("labels.csv", "labels.parquet")
"""Names of tables that are read where they lie in the folder of audio."""
WORDS = ("title", "attribution")
"""Columns that are shown with a track whatever they hold; an attribution is what licences ask for."""
BOOKKEEPING = ("split", "licence")
"""Columns that say little of the sound."""
FEW = 24
"""Classes, of which most have a colour of their own."""
MAX_TEXT = 400
"""Characters of a text that are shown."""
Kind = Literal["class", "tags", "number", "text"]


@dataclass(frozen=True)
class Labels:
    """A column: what it says of each track that it knows."""

    name: str
    kind: Kind
    values: Mapping[str, Any]
    """A class or a text, a tuple of tags, or a number, by the track's name."""


@dataclass(frozen=True)
class Known:
    """All columns of a catalogue."""

    columns: tuple[Labels, ...] = ()
    groups: Mapping[str, str] | None = None
    """The track that each clip was cut from, by the clip's name; None where the catalogue does not say."""
    names: frozenset[str] = frozenset()
    """Every track that the table or the set lists."""

    def colours(self) -> list[str]:
        """Names of the columns that points can be coloured by, the one that shows most first."""
        return [column.name for column in sorted(self.columns, key=_usefulness) if column.kind != "text"]


def encoded(column: Labels, names: Sequence[str]) -> dict[str, Any]:
    """A column as JSON types: its classes or tags, the most frequent first, and what each track has of them.

    >>> encoded(Labels("genre", "class", {"a": "rock", "c": "pop", "d": "pop"}), ["a", "b", "c", "d"])
    {'name': 'genre', 'kind': 'class', 'values': ['pop', 'rock'], 'of': [1, None, 0, 0]}
    """
    found = [column.values.get(name) for name in names]
    if column.kind in ("number", "text"):
        return {"name": column.name, "kind": column.kind, "values": [], "of": found}
    if column.kind == "class":
        counts = Counter(value for value in found if value is not None)
    else:
        counts = Counter(tag for tags in found for tag in tags or ())
    values = sorted(counts, key=lambda value: (-counts[value], value))
    code = {value: number for number, value in enumerate(values)}
    of: list[Any] = [code.get(value) for value in found]
    if column.kind == "tags":
        of = [sorted(code[tag] for tag in tags or ()) for tags in found]
    return {"name": column.name, "kind": column.kind, "values": values, "of": of}


def _usefulness(column: Labels) -> tuple[bool, bool, int]:
    """Sort key: a few classes or tags before many, before numbers and what a table must have; then what most have."""
    few = column.kind != "number" and len({code for of in column.values.values() for code in _codes(of)}) <= FEW
    return column.name in BOOKKEEPING, not few, -len(column.values)


def _codes(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def of_shards(folder: Path) -> Known:
    """What a set of shards says of its clips."""
    index = read_index(folder)
    keys = [str(key) for key in index.key]
    columns: dict[tuple[str, Kind], dict[str, Any]] = {}
    kinds: dict[str, Kind] = {"multilabel": "tags", "categorical": "class", "numeric": "number"}
    for row, key in enumerate(keys):
        for name, value in index.labels_of(row).items():
            kind, _, column = name.partition(".")
            columns.setdefault((column, kinds[kind]), {})[key] = value
        for text in index.captions[row]:
            columns.setdefault(("captions", "text"), {}).setdefault(key, text[:MAX_TEXT])
    for name in ("artist", "split", "licence"):
        values = {key: str(value) for key, value in zip(keys, getattr(index, name), strict=True) if value}
        columns.setdefault((name, "class"), values)
    tracks = {key: str(track) for key, track in zip(keys, index.track, strict=True)}
    return Known(_useful(columns), tracks, frozenset(keys))


def of_table(path: Path, root: Path) -> Known:
    """What a table says of files. The UserError names the file, and the row and column that are wrong."""
    table = read_labels(path, required=("path",))
    files: dict[str, Row] = {}
    for row in table.rows:
        if "\0" in row.cells["path"] or not row.cells["path"]:
            raise UserError(f"{path}, row {row.number}, column path: it is empty or no path; every row names a file")
        name = os.path.normpath(root.absolute() / row.cells["path"])
        if name in files:
            first = files[name].number
            raise UserError(f"{path}, row {row.number}, column path: {row.cells['path']} is a duplicate of row {first}")
        files[name] = row
    columns = {(name, kind): dict(_cells(table, files, name, column, kind)) for name, column, kind in _columns(table)}
    groups = None
    if "track_id" in table.columns:
        groups = {name: row.cells["track_id"] or name for name, row in files.items()}
    return Known(_useful(columns), groups, frozenset(files))


def of_folders(names: Sequence[str], root: Path) -> Known:
    """The first folder below the root that each file lies in; nothing where all lie in one."""
    values = {}
    for name in names:
        parts = Path(name).relative_to(root).parts if Path(name).is_relative_to(root) else ()
        if len(parts) > 1:
            values[name] = parts[0]
    return Known((Labels("folder", "class", values),) if len(set(values.values())) > 1 else ())


def _columns(table: LabelTable) -> Iterator[tuple[str, Column, Kind]]:
    kinds: dict[str, Kind] = {"multilabel": "tags", "categorical": "class", "numeric": "number", "captions": "text"}
    for name, column in read_columns(table, {}).items():
        if name in WORDS:
            yield name, column, "text"
        elif column.kind != "ignored":
            yield name, column, kinds[column.kind]
    for name in ("artist", "licence", "split"):
        if name in table.columns:
            yield name, Column("categorical"), "class"


def _cells(
    table: LabelTable, files: Mapping[str, Row], name: str, column: Column, kind: Kind
) -> Iterator[tuple[str, Any]]:
    for file, row in files.items():
        cell = row.cells[name]
        if is_missing(cell, table.missing_words):
            continue
        if kind == "tags":
            tags = tags_of(cell, column, table.missing_words)
            if tags:
                yield file, tags
        elif kind == "number":
            number = to_number(cell, decimal_comma=column.decimal_comma)
            if number is not None:
                yield file, number
        elif kind == "text":
            texts = split_list(cell, column.how) if column.kind == "captions" else [cell]
            yield file, " ".join(texts)[:MAX_TEXT]
        else:
            yield file, cell


def _useful(columns: Mapping[tuple[str, Kind], Mapping[str, Any]]) -> tuple[Labels, ...]:
    return tuple(Labels(name, kind, values) for (name, kind), values in columns.items() if values)
