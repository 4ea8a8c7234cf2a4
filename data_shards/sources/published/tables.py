"""Reading the tables that published datasets come with."""

import csv
import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cluster.settings import UserError


def read_table(path: Path, *, delimiter: str = "\t", spread: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a published table, plain or gzipped, with their number as a spreadsheet counts (the header is row 1).

    Args:
        path: the file, or its name without ``.gz``.
        delimiter: between cells.
        spread: the last column may go on over further cells, which are joined by tabs.

    Raises:
        UserError: the file is missing, or a row has another number of cells than the header.
    """
    yield from parse_table(_read_text(path), str(path), delimiter=delimiter, spread=spread)


def parse_table(
    text: str, name: str, *, delimiter: str = "\t", spread: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """`read_table` for text that is there already; `name` is what an error calls it.

    Raises:
        UserError: a row has another number of cells than the header, or is no CSV.
    """
    rows = _rows(text, name, delimiter)
    header = [name.strip() for name in next(rows, [])]
    for number, cells in enumerate(rows, start=2):
        if not cells:
            continue
        if spread and len(cells) > len(header):
            cells = [*cells[: len(header) - 1], "\t".join(cells[len(header) - 1 :])]
        if len(cells) != len(header):
            raise UserError(f"{name}, row {number}: {len(cells)} cells, the header has {len(header)} columns")
        yield number, dict(zip(header, cells, strict=True))


def first_below(root: Path, *names: str) -> Path:
    """The first of the files or folders that is there below `root`.

    Raises:
        UserError: none of them is; it names them.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    raise UserError(f"{root}: there is no {' or '.join(names)}" if root.is_dir() else f"{root}: no such folder")


def require_columns(path: Path | str, row: Mapping[str, str], columns: Sequence[str]) -> None:
    """Refuse a table that is not the published one. The UserError names the columns that are missing."""
    if not row.keys() >= set(columns):
        missing = [column for column in columns if column not in row]
        raise UserError(f"{path}, row 1: no column {', '.join(missing)}; is this the published file?")


def _rows(text: str, name: str, delimiter: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: not a table: {error}; is this the published file?") from None


def _read_text(path: Path) -> str:
    packed = path.with_name(path.name + ".gz")
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8-sig")
        with gzip.open(packed, "rt", encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, nor {packed.name}") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
