"""A user's table of labels, CSV or Parquet, read strictly as text cells in one form (docs/faults.md, 29)."""

import codecs
import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from cluster.settings import UserError
from data_shards.format.text import tidy
from data_shards.sources.cells import BRACKETS, MISSING, SEPARATOR

REQUIRED = ("path", "split", "track_id")
RESERVED = (*REQUIRED, "artist", "licence")
DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Row:
    """One row with its number: of a CSV as a spreadsheet counts, the header is row 1; of Parquet from 1."""

    number: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class LabelTable:
    """The table; every row has a cell for every column. Paths are as written, all other cells are tidy."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    lists: frozenset[str] = frozenset()
    """Columns of Parquet that hold lists; their cells are joined by ``|``."""
    delimiter: str = ","
    """Between the cells of a CSV."""
    separator: str | None = None
    """How cells list their values, where it was given: one sign, or `BRACKETS`."""
    missing_words: tuple[str, ...] = MISSING
    missing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By column, the words for missing values, which become empty, with their counts; "empty" for empty cells."""

    def values(self, column: str) -> list[str]:
        """The known cells of a column."""
        return [cell for row in self.rows if (cell := row.cells[column])]


def read_labels(
    path: Path,
    *,
    separator: str | None = None,
    missing: Sequence[str] = MISSING,
    required: Sequence[str] = REQUIRED,
) -> LabelTable:
    """Read a table by its suffix: ``.parquet``, anything else is CSV with ``,``, ``;`` or tabs between its cells.

    Args:
        path: the file.
        separator: how cells list their values: one sign, or ``brackets``; None = ``|``, or brackets where every cell of
            the column has them.
        missing: words that mean that a value is not known, in any case.
        required: columns that the table must have.

    Raises:
        UserError: names the file, the row, and the column where it is one.
    """
    if separator is not None and separator != BRACKETS and (len(separator) != 1 or separator.isalnum()):
        raise UserError(f"--list-separator {separator!r}: give one sign such as ';', or {BRACKETS} for ['a', 'b']")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; --labels is a CSV or Parquet file with the columns {', '.join(required)}")
    table = _read_parquet(path, required) if path.suffix.lower() == ".parquet" else _read_csv(path, required)
    if not table.rows:
        raise UserError(f"{path}: no rows below the header")
    return _without_missing(replace(table, separator=separator, missing_words=tuple(missing)))


def _without_missing(table: LabelTable) -> LabelTable:
    """Words for missing values become empty cells; those of columns that every row needs are refused later, by row."""
    counts: dict[str, Counter[str]] = {column: Counter() for column in table.columns if column not in REQUIRED}
    words = frozenset(word.casefold() for word in table.missing_words)
    rows = []
    for row in table.rows:
        cells = dict(row.cells)
        for column, count in counts.items():
            cell = cells[column]
            if not cell or cell.casefold() in words:
                count[cell or "empty"] += 1
                cells[column] = ""
        rows.append(Row(row.number, cells))
    return replace(table, rows=tuple(rows), missing={column: count for column, count in counts.items() if count})


def _read_csv(path: Path, required: Sequence[str]) -> LabelTable:
    header: list[str] = []
    rows: list[Row] = []
    try:
        delimiter = _delimiter(path, required)
        with _open(path) as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True, delimiter=delimiter)
            header = _header(path, next(reader, []), required)
            for number, cells in enumerate(reader, start=2):
                if not any(map(str.strip, cells)):
                    continue  # an empty line, or one of empty cells, as editors and spreadsheets leave at the end
                if len(cells) != len(header):
                    quote = f'; quote a cell that holds {delimiter!r}: "rock{delimiter} pop"'
                    raise UserError(
                        f"{path}, row {number}: {len(cells)} cells, the header has {len(header)} columns"
                        f"{quote if len(cells) > len(header) else ''}"
                    )
                named = zip(header, cells, strict=True)
                rows.append(Row(number, {name: _tidy_cell(name, cell) for name, cell in named}))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (csv.Error, UnicodeError) as error:
        row = len(rows) + 2 if header else 1
        raise UserError(f"{path}, row {row}: not CSV in UTF-8: {error}") from None
    return LabelTable(path, tuple(header), tuple(rows), delimiter=delimiter)


def _open(path: Path) -> TextIO:
    """As UTF-8; as UTF-16 where the text begins with its byte order mark, as in the "Unicode text" of spreadsheets."""
    with path.open("rb") as file:
        utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return path.open(encoding="utf-16" if utf16 else "utf-8-sig", newline="")


def _delimiter(path: Path, required: Sequence[str]) -> str:
    """The delimiter that gives the header most of its required columns."""
    found = {}
    for delimiter in DELIMITERS:
        with _open(path) as file:
            reader = csv.reader(file, skipinitialspace=True, delimiter=delimiter)
            header = [_column_name(name) for name in next(reader, [])]
            found[delimiter] = sum(name in header for name in required)
    return max(DELIMITERS, key=lambda delimiter: found[delimiter])


def _column_name(name: str) -> str:
    """Tidy names of columns; those of this program in lower case."""
    name = tidy(name)
    return name.lower() if name.lower() in RESERVED else name


def _tidy_cell(column: str, cell: str) -> str:
    return cell.strip() if column == "path" else tidy(cell)


def _read_parquet(path: Path, required: Sequence[str]) -> LabelTable:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pa.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    header = _header(path, table.column_names, required)
    kinds = zip(header, table.schema.types, strict=True)
    lists = {name for name, kind in kinds if pa.types.is_list(kind) or pa.types.is_large_list(kind)}
    columns = {name: column.to_pylist() for name, column in zip(header, table.columns, strict=True)}
    rows = [
        Row(number + 1, {name: _cell(path, number + 1, name, cells[number]) for name, cells in columns.items()})
        for number in range(table.num_rows)
    ]
    return LabelTable(path, tuple(header), tuple(rows), frozenset(lists), delimiter="")


def _cell(path: Path, number: int, column: str, value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list):
        parts = [_cell(path, number, column, part) for part in value]
        if any("|" in part for part in parts):
            raise UserError(f"{path}, row {number}, column {column}: {value!r}: a tag may not hold '|'")
        return SEPARATOR.join(part for part in parts if part)
    if not isinstance(value, str | int | float):
        raise UserError(
            f"{path}, row {number}, column {column}: a {type(value).__name__}; text, number or list of text"
        )
    return _tidy_cell(column, str(value))


def _header(path: Path, names: Sequence[str], required: Sequence[str]) -> list[str]:
    """The names of the columns.

    Raises:
        UserError: a required one is missing, or one is a duplicate or empty.
    """
    header = [_column_name(name) for name in names]
    if not any(header):
        raise UserError(f"{path}: empty; it needs a header with {', '.join(required)}")
    missing = [name for name in required if name not in header]
    if missing:
        there = ", ".join(header)
        raise UserError(f"{path}, row 1: no column {', '.join(missing)}; there are {there}")
    twice = sorted({name or "(no name)" for name in header if header.count(name) > 1 or not name})
    if twice:
        raise UserError(f"{path}, row 1: column {', '.join(twice)} is a duplicate or has no name; give each one name")
    return header
