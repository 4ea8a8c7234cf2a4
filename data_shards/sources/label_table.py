"""A user's table of labels, CSV or Parquet, read strictly as text cells in one form (docs/faults.md, 29)."""

import csv
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.files.spool import Spool
from cluster.settings import UserError
from data_shards.format.text import tidy
from data_shards.sources.cells import BRACKETS, MISSING, SEPARATOR
from data_shards.sources.csv_file import explain_csv, open_csv, undecodable_row

REQUIRED = ("path", "split", "track_id")
RESERVED = (*REQUIRED, "artist", "licence")
BATCH_ROWS = 4096
"""Rows of Parquet that are read at once."""


@dataclass(frozen=True)
class Row:
    """One row with its number: of a CSV as a spreadsheet counts, the header is row 1; of Parquet from 1."""

    number: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class LabelTable:
    """The table; every row has a cell for every column. Paths are as written, all other cells are tidy.

    Its cells are on disk, column by column; what iterates over them makes no list.
    """

    path: Path
    cells: Mapping[str, Sequence[str]]
    """By column."""
    numbers: Sequence[int]
    """Of the rows."""
    lists: frozenset[str] = frozenset()
    """Columns of Parquet that hold lists; their cells are joined by ``|``."""
    delimiter: str = ","
    """Between the cells of a CSV."""
    separator: str | None = None
    """How cells list their values, where it was given: one sign, or `BRACKETS`."""
    missing_words: tuple[str, ...] = MISSING
    missing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By column, the words for missing values, which become empty, with their counts; "empty" for empty cells."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(self.cells)

    @property
    def rows(self) -> Iterator[Row]:
        """Every row, made as it is asked for."""
        for number, *cells in zip(self.numbers, *self.cells.values(), strict=True):
            yield Row(number, dict(zip(self.cells, cells, strict=True)))

    def known(self, column: str) -> Iterator[tuple[int, str]]:
        """The known cells of a column, with the numbers of their rows."""
        return ((number, cell) for number, cell in zip(self.numbers, self.cells[column], strict=True) if cell)

    def values(self, column: str) -> "Values":
        """The known cells of a column."""
        return Values(self, column)


@dataclass(frozen=True)
class Values:
    """The known cells of a column, as often as they are iterated over."""

    table: LabelTable
    column: str

    def __iter__(self) -> Iterator[str]:
        return (cell for _, cell in self.table.known(self.column))


def read_labels(
    path: Path,
    *,
    separator: str | None = None,
    missing: Sequence[str] = MISSING,
    required: Sequence[str] = REQUIRED,
    option: str = "--labels",
) -> LabelTable:
    """Read a table by its suffix: ``.parquet``, anything else is CSV with ``,``, ``;`` or tabs between its cells.

    Args:
        path: the file.
        separator: how cells list their values: one sign, or ``brackets``; None = ``|``, or brackets where every cell of
            the column has them.
        missing: words that mean that a value is not known, in any case.
        required: columns that the table must have.
        option: that the file was given as, for messages.

    Raises:
        UserError: names the file, the row, and the column where it is one.
    """
    if separator is not None and separator != BRACKETS and (len(separator) != 1 or separator.isalnum()):
        raise UserError(f"--list-separator {separator!r}: give one sign such as ';', or {BRACKETS} for ['a', 'b']")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; {option} is a CSV or Parquet file with the columns {', '.join(required)}")
    table = _read_parquet(path, required) if path.suffix.lower() == ".parquet" else _read_csv(path, required)
    if not table.numbers:
        raise UserError(f"{path}: no rows below the header")
    return _without_missing(replace(table, separator=separator, missing_words=tuple(missing)))


def _without_missing(table: LabelTable) -> LabelTable:
    """Words for missing values become empty cells; those of columns that every row needs are refused later, by row."""
    counts: dict[str, Counter[str]] = {column: Counter() for column in table.columns if column not in REQUIRED}
    words = frozenset(word.casefold() for word in table.missing_words)

    def known(cell: str, count: Counter[str]) -> str:
        if cell and cell.casefold() not in words:
            return cell
        count[cell or "empty"] += 1
        return ""

    cells = {
        column: Spool(known(cell, counts[column]) for cell in cells) if column in counts else cells
        for column, cells in table.cells.items()
    }
    return replace(table, cells=cells, missing={column: count for column, count in counts.items() if count})


def _read_csv(path: Path, required: Sequence[str]) -> LabelTable:
    header: list[str] = []
    table = _Growing()
    try:
        with open_csv(path, required) as (reader, delimiter):
            header = table.begin(_header(path, next(reader, []), required))
            for number, cells in enumerate(reader, start=2):
                if not any(map(str.strip, cells)):
                    continue  # an empty line, or one of empty cells, as editors and spreadsheets leave at the end
                if len(cells) != len(header):
                    quote = f'; quote a cell that holds {delimiter!r}: "rock{delimiter} pop"'
                    raise UserError(
                        f"{path}, row {number}: {len(cells)} cells, the header has {len(header)} columns"
                        f"{quote if len(cells) > len(header) else ''}"
                    )
                table.append(number, map(_tidy_cell, header, cells))
    except (csv.Error, UnicodeError) as error:
        row = undecodable_row(path) if isinstance(error, UnicodeError) else len(table.numbers) + 2 if header else 1
        raise UserError(f"{path}, row {row}: not CSV in UTF-8: {explain_csv(error)}") from None
    return LabelTable(path, table.cells, table.numbers, delimiter=delimiter)


class _Growing:
    """A table that is read row by row."""

    def __init__(self) -> None:
        self.cells: dict[str, Spool[str]] = {}
        self.numbers = array("q")

    def begin(self, header: list[str]) -> list[str]:
        """The header, whose columns are empty so far."""
        self.cells = {name: Spool() for name in header}
        return header

    def append(self, number: int, cells: Iterable[str]) -> None:
        """One row: its number and a cell for every column."""
        for column, cell in zip(self.cells.values(), cells, strict=True):
            column.append(cell)
        self.numbers.append(number)


def _column_name(name: str) -> str:
    """Tidy names of columns; those of this program in lower case."""
    name = tidy(name)
    return name.lower() if name.lower() in RESERVED else name


def _tidy_cell(column: str, cell: str) -> str:
    return cell.strip() if column == "path" else tidy(cell)


def _read_parquet(path: Path, required: Sequence[str]) -> LabelTable:
    import pyarrow as pa
    import pyarrow.parquet

    table = _Growing()
    try:
        with pa.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            header = table.begin(_header(path, schema.names, required))
            kinds = zip(header, schema.types, strict=True)
            lists = {name for name, kind in kinds if pa.types.is_list(kind) or pa.types.is_large_list(kind)}
            for batch in file.iter_batches(BATCH_ROWS):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number = len(table.numbers) + 1
                    named = zip(header, values, strict=True)
                    table.append(number, [_cell(path, number, name, value) for name, value in named])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    return LabelTable(path, table.cells, table.numbers, frozenset(lists), delimiter="")


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
    """The names of the columns. Raises UserError if a required one is missing, or one is a duplicate or empty."""
    header = [_column_name(name) for name in names]
    if not any(header):
        raise UserError(f"{path}: empty; it needs a header with {', '.join(required)}")
    missing = [name for name in required if name not in header]
    if missing:
        signs = " (commas, semicolons or tabs stand between columns)" if len(header) == 1 else ""
        raise UserError(f"{path}, row 1: no column {', '.join(missing)}; there are {', '.join(header)}{signs}")
    twice = sorted({name or "(no name)" for name in header if header.count(name) > 1 or not name})
    if twice:
        index = "; pandas leaves its index out with to_csv(..., index=False)" if "" in header else ""
        what = f"column {', '.join(twice)} is a duplicate or has no name"
        raise UserError(f"{path}, row 1: {what}; give each one name{index}")
    return header
