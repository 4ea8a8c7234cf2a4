"""One's own table of labels, CSV or Parquet, as text cells, read strictly (docs/faults.md, 29)."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.settings import UserError

REQUIRED = ("path", "split", "track_id")


@dataclass(frozen=True)
class Row:
    """One row and where it stands: of a CSV as a spreadsheet counts, the header is row 1; of Parquet from 1."""

    number: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class LabelTable:
    """The table; every row has a cell for every column."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    lists: frozenset[str] = frozenset()
    """Columns of Parquet that hold lists; their cells are joined by ``|``."""


def read_labels(path: Path) -> LabelTable:
    """Read a table by its suffix: ``.parquet``, anything else is CSV.

    Raises:
        UserError: names the file, the row, and the column where it is one.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; --labels is a CSV or Parquet file with the columns {', '.join(REQUIRED)}")
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if not table.rows:
        raise UserError(f"{path}: no rows below the header")
    return table


def _read_csv(path: Path) -> LabelTable:
    header: list[str] = []
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            _check_header(path, header)
            for number, cells in enumerate(reader, start=2):
                if not cells:
                    continue  # an empty line, as editors leave at the end
                if len(cells) != len(header):
                    raise UserError(f"{path}, row {number}: {len(cells)} cells, the header has {len(header)} columns")
                rows.append(Row(number, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        row = len(rows) + 2 if header else 1
        raise UserError(f"{path}, row {row}: not CSV in UTF-8: {error}") from None
    return LabelTable(tuple(header), tuple(rows))


def _read_parquet(path: Path) -> LabelTable:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pa.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    _check_header(path, table.column_names)
    lists = {field.name for field in table.schema if pa.types.is_list(field.type) or pa.types.is_large_list(field.type)}
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    rows = [
        Row(number + 1, {name: _cell(path, number + 1, name, cells[number]) for name, cells in columns.items()})
        for number in range(table.num_rows)
    ]
    return LabelTable(tuple(table.column_names), tuple(rows), frozenset(lists))


def _cell(path: Path, number: int, column: str, value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list):
        parts = [_cell(path, number, column, part) for part in value]
        if any("|" in part for part in parts):
            raise UserError(f"{path}, row {number}, column {column}: {value!r}: a tag may not hold '|'")
        return "|".join(parts)
    if not isinstance(value, str | int | float):
        raise UserError(
            f"{path}, row {number}, column {column}: a {type(value).__name__}; text, number or list of text"
        )
    return str(value).strip()


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not header:
        raise UserError(f"{path}: empty; it needs a header with {', '.join(REQUIRED)}")
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise UserError(f"{path}, row 1: no column {', '.join(missing)}; there are {', '.join(header)}")
    twice = sorted({name or "(no name)" for name in header if list(header).count(name) > 1 or not name})
    if twice:
        raise UserError(f"{path}, row 1: column {', '.join(twice)} stands twice or has no name")
