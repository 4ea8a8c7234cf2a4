"""Any folder of audio, with a CSV or Parquet file of labels or without: one's own music.

The table's columns are path (relative to the folder), split and track_id, then targets; optional artist and licence.
Lists of tags or captions are separated by ``|``. What kind a target column is can be given; otherwise it is guessed
from its values, and the guess is reported.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from cluster.settings import UserError
from data_shards.audio import FileAudio
from data_shards.audio_folder import AudioFolder, scan_folder
from data_shards.path_text import as_text
from data_shards.records import Clip, Split
from data_shards.sources.label_table import REQUIRED, LabelTable, Row, read_labels

Kind = Literal["multilabel", "categorical", "numeric", "captions", "ignored"]
RESERVED = (*REQUIRED, "artist", "licence")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
CAPTION_NAMES = ("caption", "captions")
MAX_WORD, MAX_NAME = 16, 40
"""Characters: a class is at most so long; a longer text is no class even if it comes often."""


@dataclass(frozen=True)
class FolderListing:
    """What a folder holds."""

    clips: tuple[Clip, ...]
    folder: AudioFolder
    """What the scan found and passed over."""
    kinds: Mapping[str, Kind]
    """Every target column and what it was taken for."""
    guessed: bool
    """Whether the kinds were guessed from the values."""
    unlisted: int = 0
    """Audio files below the folder that the table does not name; they are left out."""

    def report(self) -> str:
        """The columns by kind, one line each, and what is left out."""
        if not self.kinds and not self.guessed:
            what = "no labels: every audio file is a clip for training; --labels FILE.csv gives labels and splits"
            return "\n".join([what, *self.folder.report()])
        kinds = ("multilabel", "categorical", "numeric", "captions", "ignored")
        columns = {kind: [column for column, of in self.kinds.items() if of == kind] for kind in kinds}
        how = (
            "guessed from the values; say otherwise with --multilabel, --categorical, --numeric, --captions"
            if self.guessed
            else "as given"
        )
        lines = [f"columns ({how}):"] + [f"  {kind}: {', '.join(columns[kind]) or '-'}" for kind in kinds]
        if self.unlisted:
            lines.append(f"{self.unlisted:,} audio files of the folder are not in the table and are left out")
        return "\n".join([*lines, *self.folder.report()])


def read_folder(
    audio: Path,
    labels: Path | None = None,
    *,
    multilabel: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    numeric: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
) -> FolderListing:
    """List the clips of a folder.

    Args:
        audio: the folder.
        labels: CSV or Parquet file; None takes every audio file below the folder, unlabelled, for training.
        multilabel: columns that hold sets of tags. If any of the four is given, other columns are left out.
        categorical: columns that hold one class.
        numeric: columns that hold a number.
        captions: columns that hold sentences.

    Raises:
        UserError: names file, row and column of what is wrong.
    """
    if not audio.is_dir():
        raise UserError(f"{audio}: no such folder; --audio is the folder that holds the audio files")
    given = {"multilabel": multilabel, "categorical": categorical, "numeric": numeric, "captions": captions}
    found = scan_folder(audio)
    if labels is None:
        if any(given.values()):
            raise UserError("columns are given but no CSV file; add --labels FILE.csv")
        return FolderListing(tuple(_unlabelled(found)), found, {}, False)
    table = read_labels(labels)
    rows = table.rows
    kinds: dict[str, Kind]
    if all(names is None for names in given.values()):
        kinds = {column: _guess(table, column) for column in table.columns if column not in RESERVED}
    else:
        kinds = _given_kinds(labels, table, given)
    clips = tuple(_clip(audio, labels, row, kinds) for row in rows)
    _check_paths(labels, rows)
    listed = {clip.audio.name for clip in clips}
    unlisted = sum(str(file) not in listed for file in found.files)
    return FolderListing(clips, found, kinds, all(names is None for names in given.values()), unlisted)


def guess_kind(column: str, values: Sequence[str]) -> Kind:
    """What a column probably holds: lists are tags, numbers numeric, short or repeated words classes.

    >>> guess_kind("moods", ["calm|dark", ""]), guess_kind("bpm", ["120", "98.5"]), guess_kind("key", ["C minor", "D"])
    ('multilabel', 'numeric', 'categorical')
    >>> guess_kind("comment", ["a very slow and sad song", "a fast song"]), guess_kind("tags", ["calm"])
    ('ignored', 'multilabel')
    >>> guess_kind("caption", ["a slow song|slow and sad"])
    'captions'
    """
    known = [value for value in values if value]
    if column in CAPTION_NAMES:
        return "captions"
    if column == "tags" or any("|" in value for value in known):
        return "multilabel"
    if known and all(_is_number(value) for value in known):
        return "numeric"
    longest = max(map(len, known), default=0)
    repeated = 2 * len(set(known)) <= len(known)
    return "categorical" if 0 < longest <= MAX_WORD or (known and repeated and longest <= MAX_NAME) else "ignored"


def key_of(path: str) -> str:
    """A clip's key from its path: readable, then digits that keep ``a/b.wav``, ``a_b.wav`` and ``a/b.mp3`` apart.

    Sixteen of them: of names in other scripts nothing readable is left, and eight would meet within 10^5 files.

    >>> key_of("Some Artist/01 Song.mp3")
    'Some_Artist_01_Song-...'
    """
    readable = re.sub(r"[^A-Za-z0-9-]+", "_", str(PurePosixPath(path).with_suffix(""))).strip("_")[-70:]
    return f"{readable}-{hashlib.blake2b(path.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"


def _unlabelled(found: AudioFolder) -> Iterator[Clip]:
    if not found.files:
        raise UserError(found.nothing())
    for file in found.files:
        path = file.relative_to(found.root).as_posix()
        yield Clip(key=key_of(path), audio=FileAudio(str(found.root), path), track=as_text(path))


def _guess(table: LabelTable, column: str) -> Kind:
    if column in table.lists and column not in CAPTION_NAMES:
        return "multilabel"
    return guess_kind(column, [row.cells[column] for row in table.rows])


def _given_kinds(path: Path, table: LabelTable, given: Mapping[str, Sequence[str] | None]) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {column: "ignored" for column in table.columns if column not in RESERVED}
    options: tuple[Kind, ...] = ("multilabel", "categorical", "numeric", "captions")
    for kind in options:
        for column in given[kind] or ():
            if column not in kinds:
                raise UserError(
                    f"{path}, row 1: no column {column} for --{kind}; there are {', '.join(kinds) or 'none'}"
                )
            if kinds[column] != "ignored":
                raise UserError(f"column {column} is given as --{kinds[column]} and as --{kind}")
            if column in table.lists and kind not in ("multilabel", "captions"):
                raise UserError(
                    f"{path}: column {column} holds lists; give it as --multilabel or --captions, not as --{kind}"
                )
            kinds[column] = kind
    return kinds


def _clip(audio: Path, labels: Path, row: Row, kinds: Mapping[str, Kind]) -> Clip:
    cells = row.cells

    def fail(column: str, what: str) -> UserError:
        return UserError(f"{labels}, row {row.number}, column {column}: {what}")

    for column in REQUIRED:
        if not cells[column]:
            raise fail(column, "is empty")
    path = PurePosixPath(cells["path"])
    if path.is_absolute() or ".." in path.parts or "\0" in cells["path"]:
        raise fail("path", f"{cells['path']!r} must lead to a file below {audio}")
    split = SPLIT_NAMES.get(cells["split"].lower())
    if split is None:
        raise fail("split", f"{cells['split']!r}; known are {', '.join(SPLIT_NAMES)}")
    numeric = {}
    for column in (name for name, kind in kinds.items() if kind == "numeric"):
        if cells[column] and not _is_number(cells[column]):
            raise fail(column, f"{cells[column]!r} is not a number; leave the cell empty where it is unknown")
        numeric[column] = float(cells[column]) if cells[column] else math.nan
    return Clip(
        key=key_of(path.as_posix()),
        audio=FileAudio(str(audio), path.as_posix()),
        track=cells["track_id"],
        artist=cells.get("artist") or None,
        split=split,
        multilabel={name: _tags(cells[name]) for name, kind in kinds.items() if kind == "multilabel"},
        categorical={name: cells[name] or None for name, kind in kinds.items() if kind == "categorical"},
        numeric=numeric,
        captions=tuple(text for name, kind in kinds.items() if kind == "captions" for text in _parts(cells[name])),
        licence=cells.get("licence") or None,
    )


def _check_paths(labels: Path, rows: Sequence[Row]) -> None:
    first: dict[str, int] = {}
    for row in rows:
        path = PurePosixPath(row.cells["path"]).as_posix()
        if first.setdefault(path, row.number) != row.number:
            raise UserError(f"{labels}, row {row.number}, column path: {path} stands in row {first[path]} already")


def _tags(cell: str) -> tuple[str, ...]:
    return tuple(sorted(set(_parts(cell))))


def _parts(cell: str) -> list[str]:
    return [part.strip() for part in cell.split("|") if part.strip()]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
