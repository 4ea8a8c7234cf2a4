"""CSV as spreadsheets and programs write it: its encoding, its separator, and what it is where it is no CSV."""

import csv
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from cluster.settings import UserError
from data_shards.format.text import tidy

DELIMITERS = (",", ";", "\t")
HEAD_BYTES = 4096
"""Of these the encoding and the kind of a file are found."""
_BOMS = (b"\xff\xfe", b"\xfe\xff")
_WORKBOOK = "a workbook of a spreadsheet; save its sheet as CSV"
_NO_CSV = {
    b"PK\x03\x04": _WORKBOOK, b"\xd0\xcf\x11\xe0": _WORKBOOK, b"\x1f\x8b": "gzip; unpack it: gunzip -k FILE",
    b"PAR1": "Parquet; give it a name that ends in .parquet", b"SQLite format 3": "a database; export the table as CSV",
    b"{": "JSON", b"[": "JSON", b"<": "HTML or XML; save the table as CSV", b"%PDF": "PDF; save the table as CSV",
}  # fmt: skip
"""By the bytes that a file begins with."""


@contextmanager
def open_csv(path: Path, required: Sequence[str]) -> Iterator[tuple[Iterator[list[str]], str]]:
    """A CSV's rows, the first being its header, and its delimiter, that which gives most of `required`. Raises
    UserError if it cannot be read, or is another kind of file; csv.Error and UnicodeError come while rows are read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        require_csv(path, head)
        with _open(path, head) as text:
            first = text.readline()
        stated = first.strip().lower().removeprefix("sep=") if first.lower().startswith("sep=") else ""
        delimiter = stated if len(stated) == 1 else _delimiter(path, head, required)
        with _open(path, head) as text:
            if stated:  # a line that spreadsheets write for each other, and show to nobody
                text.readline()
            yield csv.reader(text, strict=True, skipinitialspace=True, delimiter=delimiter), delimiter
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def require_csv(path: Path, head: bytes) -> None:
    """Refuse another kind of file by the bytes that it begins with. The UserError names its kind and the remedy."""
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = next((kind for magic, kind in _NO_CSV.items() if begin.startswith(magic)), None)
    if kind == "JSON":
        by_line = ", lines=True" if begin.startswith(b"{") else ""
        program = f"import pandas; pandas.read_json('FILE'{by_line}).to_csv('labels.csv', index=False)"
        kind = f"JSON; make CSV of it: python -c {shlex.quote(program)}"
    if kind:
        raise UserError(f"{path}: this is no CSV but {kind}")


def explain_csv(error: csv.Error | UnicodeError) -> str:
    """What is wrong with a CSV, with the remedy."""
    if isinstance(error, UnicodeDecodeError) and error.encoding.startswith("utf-8"):
        byte = error.object[error.start]
        return f"byte 0x{byte:02x} is none; convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW.csv"
    if "field larger" in str(error):
        return f"a cell of more than {csv.field_size_limit():,} characters; close the quote that it begins with"
    return f'{error}; close every quote, and write a quote inside of a quoted cell twice: "the ""best"" song"'


def undecodable_row(path: Path) -> int:
    """The first line that is not UTF-8: text is decoded in blocks, so the reader may be rows before it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _open(path: Path, head: bytes) -> TextIO:
    """As UTF-8, or as UTF-16, which spreadsheets call Unicode text, with its byte order mark or without."""
    if head.startswith(_BOMS):
        encoding = "utf-16"
    elif head[1::2].count(0) > len(head) // 4:
        encoding = "utf-16-le"
    elif head[::2].count(0) > len(head) // 4:
        encoding = "utf-16-be"
    else:
        encoding = "utf-8-sig"
    return path.open(encoding=encoding, newline="")


def _delimiter(path: Path, head: bytes, required: Sequence[str]) -> str:
    found = {}
    for delimiter in DELIMITERS:
        with _open(path, head) as file:
            header = next(csv.reader(file, skipinitialspace=True, delimiter=delimiter), [])
            found[delimiter] = sum(tidy(name).lower() in required for name in header)
    return max(DELIMITERS, key=lambda delimiter: found[delimiter])
