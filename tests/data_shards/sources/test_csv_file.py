"""CSV as spreadsheets and programs write it, and files that are no CSV."""

import codecs
from pathlib import Path

import pytest

from cluster.settings import UserError
from data_shards.sources.folder import read_folder
from data_shards.sources.label_table import LabelTable, read_labels

ROWS = ["path,split,track_id,genre", "a.wav,train,t,Röck", "b.wav,test,u,Jazz"]
TEXT = "\n".join(ROWS) + "\n"


def table_of(folder: Path, content: bytes, name: str = "labels.csv") -> LabelTable:
    (folder / name).write_bytes(content)
    return read_labels(folder / name)


def refusal(folder: Path, content: bytes, name: str = "labels.csv") -> str:
    with pytest.raises(UserError) as caught:
        table_of(folder, content, name)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF8 + TEXT.encode(),
        ("sep=,\r\n" + TEXT).encode(),
        ("SEP=;\n" + TEXT.replace(",", ";")).encode("utf-16"),
        ("sep=|\n" + TEXT.replace(",", "|")).encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace("\n", "\r\n\r\n").encode(),
    ],
    ids=["UTF-16LE", "UTF-16BE", "UTF-16BE mark", "mark", "sep=,", "sep=; in UTF-16", "sep=|", "CR", "empty lines"],
)
def test_what_spreadsheets_write_is_the_same_table(tmp_path: Path, content: bytes) -> None:
    table = table_of(tmp_path, content)
    assert dict(table.cells.items()).keys() == {"path", "split", "track_id", "genre"}
    assert [row.cells["genre"] for row in table.rows] == ["Röck", "Jazz"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04\x14\0", "a workbook of a spreadsheet; save its sheet as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "a workbook of a spreadsheet; save its sheet as CSV"),
        (b"PAR1\x15\x04", "Parquet; give it a name that ends in .parquet"),
        (b"\x1f\x8b\x08\0", "gzip; unpack it: gunzip -k FILE"),
        (b'[{"path": "a.wav"}]', "JSON; make CSV of it: python -c "),
        (b'\xef\xbb\xbf {"path": "a.wav"}\n', "lines=True"),
        (b"<!doctype html>", "HTML or XML; save the table as CSV"),
    ],
)
def test_another_kind_of_file_is_named_with_the_remedy(tmp_path: Path, content: bytes, words: str) -> None:
    message = refusal(tmp_path, content)
    assert message.startswith(f"{tmp_path / 'labels.csv'}: this is no CSV but ")
    assert words in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            TEXT.encode("latin-1"),
            "row 2: not CSV in UTF-8: byte 0xf6 is none; convert it: iconv -f WINDOWS-1252 -t UTF-8",
        ),
        (TEXT.replace("Röck", '"rock').encode(), "close every quote"),
        (TEXT.replace("Röck", '"a "b" c"').encode(), "write a quote inside of a quoted cell twice"),
        (TEXT.replace("Röck", "r" * 200_000).encode(), "a cell of more than 131,072 characters; close the quote"),
        (TEXT.replace(",", "|").encode(), "there are path|split|track_id|genre (commas, semicolons or tabs stand"),
        (("," + TEXT.replace("\n", "\n0,")).encode(), "pandas leaves its index out with to_csv(..., index=False)"),
    ],
    ids=["Latin-1", "open quote", "inner quote", "long cell", "other sign", "pandas index"],
)
def test_a_damaged_csv_is_refused_with_the_remedy(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refusal(tmp_path, content)


@pytest.mark.parametrize(
    "written",
    ["sub\\song.wav", ".\\sub\\song.wav", "sub/song", "sub/song.mp3", "file://{}/sub/song.wav", "Sub//Song.WAV"],
)
def test_a_path_in_another_writing_is_named_beside_the_file(tmp_path: Path, written: str) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("sub/song.wav", "other.wav"):
        (tmp_path / name).touch()
    table = table_of(tmp_path, f"path,split,track_id\n{written.format(tmp_path)},train,t\nother.wav,train,u\n".encode())
    (hint,) = read_folder(tmp_path, table).hints
    assert hint.endswith("in row 2 (did you mean 'sub/song.wav'?)")


def test_the_row_that_is_not_utf8_is_named_however_long_the_table(tmp_path: Path) -> None:
    rows = [f"{number}.wav,train,t{number},rock\n" for number in range(2_000)]
    rows[1_500] = "x.wav,train,x,Röck\n"
    assert ", row 1502: not CSV in UTF-8" in refusal(tmp_path, (ROWS[0] + "\n" + "".join(rows)).encode("latin-1"))
