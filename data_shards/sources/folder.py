"""Clips of any folder of audio, with a CSV or Parquet file of labels or without.

The table's columns are path (relative to the folder), split and track_id, then targets; optional artist and licence.
Lists of tags or captions are separated by ``|`` unless another separator is given. The kinds of target columns
are given, or guessed from their values and reported.
"""

import hashlib
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from cluster.files.spool import Spool, first_repeat, text_hashes
from cluster.settings import UserError
from data_shards.audio.decode import FileAudio
from data_shards.audio.scan import AudioFolder, scan_folder
from data_shards.audio.trees import FolderTree
from data_shards.format.records import Clip, Split
from data_shards.format.text import as_text, fold
from data_shards.sources.cells import is_missing, split_list, to_number
from data_shards.sources.columns import (
    KINDS,
    OPTIONS,
    Column,
    Kind,
    given_kinds,
    hints,
    missing_line,
    read_columns,
    tags_of,
)
from data_shards.sources.label_table import REQUIRED, LabelTable, Row, read_labels

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
NAMED_PATHS = 5
"""Number of paths without a file that are named."""
MOST_ABOVE, CHECKED_PATHS = 3, 20
"""Folders above the given one, and paths of the table, that are tried where no path leads to a file."""
FILES_AT_ONCE = 1 << 16
"""Files of the folder that are compared with the table together."""


@dataclass(frozen=True)
class FolderListing:
    """The clips of a folder, and how its table was read."""

    clips: Sequence[Clip]
    """On disk, so that each access makes a clip."""
    folder: AudioFolder
    """The scan of the folder."""
    kinds: Mapping[str, Kind]
    """The kind of every target column."""
    given: frozenset[str] = frozenset()
    """Columns whose kind was given; that of the others was guessed from their values."""
    labelled: bool = False
    """Whether there is a table."""
    unlisted: int = 0
    """Audio files below the folder that the table does not name; they are left out."""
    missing: str | None = None
    """Words that were read as missing values, with counts."""
    hints: tuple[str, ...] = ()
    """Values that were probably meant otherwise, each with a remedy."""

    def report(self) -> str:
        """The columns by kind, one line each, what is missing or left out, and hints."""
        if not self.labelled:
            what = "no labels: every audio file is a clip for training; --labels FILE.csv gives labels and splits"
            return "\n".join([what, *self.folder.report()])
        columns = {kind: [column for column, of in self.kinds.items() if of == kind] for kind in KINDS}
        given = [column for column in self.kinds if column in self.given]
        how = f"{', '.join(given)} as given" if given else ""
        if len(given) < len(self.kinds) or not given:
            how += ", the others " if given else ""
            how += f"guessed from the values; override with {', '.join(OPTIONS.values())}"
        lines = [f"columns ({how}):"] + [f"  {kind}: {', '.join(columns[kind]) or '-'}" for kind in KINDS]
        if self.missing:
            lines.append(self.missing)
        if self.unlisted:
            lines.append(f"{self.unlisted:,} audio files of the folder are not in the table and are left out")
        return "\n".join([*lines, *self.folder.report(), *self.hints])


def read_folder(
    audio: Path,
    labels: Path | LabelTable | None = None,
    *,
    multilabel: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    numeric: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    ignored: Sequence[str] | None = None,
) -> FolderListing:
    """List the clips of a folder.

    Args:
        audio: the folder.
        labels: CSV or Parquet file, or the table that `read_labels` made of it; None takes every audio file below the
            folder, unlabelled, for training.
        multilabel: columns that hold sets of tags. The kinds of columns that are not given are guessed.
        categorical: columns that hold one class.
        numeric: columns that hold a number.
        captions: columns that hold sentences.
        ignored: columns that are left out.

    Raises:
        UserError: names file, row and column of what is wrong.
    """
    if not audio.is_dir():
        raise UserError(f"{audio}: no such folder; --audio is the folder that holds the audio files")
    given: dict[Kind, Sequence[str] | None] = {
        "multilabel": multilabel,
        "categorical": categorical,
        "numeric": numeric,
        "captions": captions,
        "ignored": ignored,
    }
    found = scan_folder(audio)
    if labels is None:
        if any(given.values()):
            raise UserError("columns are given but no CSV file; add --labels FILE.csv")
        return FolderListing(Spool(_unlabelled(found)), found, {})
    table = labels if isinstance(labels, LabelTable) else read_labels(labels)
    kinds = given_kinds(table, given)
    columns = read_columns(table, kinds)
    tree = FolderTree(audio)
    clips = Spool(_clip(tree, table, row, columns) for row in table.rows)
    listed = text_hashes(clip.audio.name for clip in clips)
    _check_paths(table, clips, listed)
    unlisted = Spool(_unlisted(found, listed))
    lost = _lost(audio, table, clips, unlisted)
    return FolderListing(
        clips,
        found,
        {name: column.kind for name, column in columns.items()},
        given=frozenset(kinds),
        labelled=True,
        unlisted=len(unlisted),
        missing=missing_line(table, columns),
        hints=(*lost, *hints(table, columns)),
    )


def key_of(path: str) -> str:
    """A clip's key from its path: readable, then digits that keep ``a/b.wav``, ``a_b.wav`` and ``a/b.mp3`` apart.

    Sixteen digits: names in other scripts have no readable part left, and eight would collide within 10^5 files.

    >>> key_of("Some Artist/01 Song.mp3")
    'Some_Artist_01_Song-...'
    """
    readable = re.sub(r"[^A-Za-z0-9-]+", "_", str(PurePosixPath(path).with_suffix(""))).strip("_")[-70:]
    return f"{readable}-{hashlib.blake2b(path.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"


def _unlabelled(found: AudioFolder) -> Iterator[Clip]:
    if not found.files:
        raise UserError(found.no_files_message())
    for file in found.files:
        path = file.relative_to(found.root).as_posix()
        yield Clip(key=key_of(path), audio=FileAudio(str(found.root), path), track=as_text(path))


def _clip(tree: FolderTree, table: LabelTable, row: Row, columns: Mapping[str, Column]) -> Clip:
    cells = row.cells

    def fail(column: str, what: str) -> UserError:
        return UserError(f"{table.path}, row {row.number}, column {column}: {what}")

    def of_kind(kind: Kind) -> list[tuple[str, Column]]:
        return [(name, column) for name, column in columns.items() if column.kind == kind]

    for column in REQUIRED:
        if is_missing(cells[column], table.missing_words):
            what = f"{cells[column]!r} is a missing value" if cells[column] else "is empty"
            raise fail(column, f"{what}; every clip needs one")
    path = _path_below(tree.root, cells["path"])
    if path is None:
        raise fail("path", f"{cells['path']!r} must lead to a file below {tree.root}, the folder given as --audio")
    audio = tree.audio(path)
    split = SPLIT_NAMES.get(cells["split"].lower())
    if split is None:
        raise fail("split", f"{cells['split']!r}; known are {', '.join(SPLIT_NAMES)}")
    numbers = {name: to_number(cells[name], decimal_comma=of.decimal_comma) for name, of in of_kind("numeric")}
    for name, number in numbers.items():
        if number is None and cells[name]:
            raise fail(name, f"{cells[name]!r} is not a number; leave the cell empty where it is unknown")
    return Clip(
        key=key_of(audio.path),
        audio=audio,
        track=cells["track_id"],
        artist=cells.get("artist") or None,
        split=split,
        multilabel={name: tags_of(cells[name], of, table.missing_words) for name, of in of_kind("multilabel")},
        categorical={name: cells[name] or None for name, _ in of_kind("categorical")},
        numeric={name: math.nan if number is None else number for name, number in numbers.items()},
        captions=tuple(text for name, of in of_kind("captions") for text in split_list(cells[name], of.how)),
        licence=cells.get("licence") or None,
    )


def _path_below(root: Path, cell: str) -> str | None:
    """A path of the table relative to the folder, or None where it leads out of it; absolute ones may lie below it."""
    if "\0" in cell:
        return None
    path = Path(os.path.normpath(cell))
    if path.is_absolute():
        for below in (root.absolute(), root.resolve()):
            if path.is_relative_to(below):
                path = path.relative_to(below)
                break
    return None if path.is_absolute() or path.parts[:1] in ((), ("..",)) else path.as_posix()


def _unlisted(found: AudioFolder, listed: NDArray[np.int64]) -> Iterator[str]:
    """Paths below the folder of files that the table does not name."""
    listed, names = np.sort(listed), map(str, found.files)
    while some := list(islice(names, FILES_AT_ONCE)):
        hashes = text_hashes(some)
        places = np.searchsorted(listed, hashes).clip(max=len(listed) - 1)
        for place in np.flatnonzero(listed[places] != hashes).tolist():
            yield os.path.relpath(some[place], found.root)


def _right_folder(audio: Path, paths: Sequence[str], unlisted: Sequence[str]) -> Path | None:
    """The folder above or below the given one from which a table's paths lead to files; None where there is none."""
    first = os.path.normpath(paths[0])
    below = [audio / name.removesuffix(first) for name in unlisted if name.endswith(f"/{first}")]
    for folder in (*list(audio.absolute().parents)[:MOST_ABOVE], *below):
        if all((folder / path).is_file() for path in paths):
            return folder
    return None


def _check_paths(table: LabelTable, clips: Sequence[Clip], listed: NDArray[np.int64]) -> None:
    """Refuse a file that two rows name; `listed` are the hashes of the clips' paths."""
    rows = first_repeat((clip.audio.name for clip in clips), listed)
    if rows:
        other, row = (table.numbers[place] for place in rows)
        path = table.cells["path"][rows[1]]
        raise UserError(f"{table.path}, row {row}, column path: {path} is a duplicate of row {other}")


def _looks(path: str, audio: Path) -> tuple[str, str]:
    """A path in the form that visual variants share, and the same without its suffix."""
    below = unquote(path.removeprefix("file://")).removeprefix(f"{audio.absolute()}/")
    look = fold(os.path.normpath(below.replace("\\", "/")))
    return look, str(PurePosixPath(look).with_suffix(""))


def _lost(audio: Path, table: LabelTable, clips: Sequence[Clip], unlisted: Sequence[str]) -> list[str]:
    """A hint for paths of the table that lead to no file, each with an unlisted file whose name looks the same.
    Raises UserError if none leads to a file, and all would from another folder.
    """
    places = (place for place, clip in enumerate(clips) if not Path(clip.audio.name).exists())
    first = [(table.numbers[place], table.cells["path"][place]) for place in islice(places, CHECKED_PATHS)]
    if not first:
        return []
    count = len(first) + sum(1 for _ in places)
    if count == len(clips) and (right := _right_folder(audio, [path for _, path in first], unlisted)):
        row, path = first[0]
        raise UserError(
            f"{table.path}: its paths are relative to {right}, such as {path!r} in row {row}; "
            f"give --audio {shlex.quote(str(right))} in place of {audio}"
        )
    looks = [_looks(path, audio) for _, path in first[:NAMED_PATHS]]
    alike = {
        look: path for path in unlisted for look in _looks(path, audio)[::-1] if any(look in each for each in looks)
    }
    named = []
    for (row, path), look in zip(first, looks, strict=False):
        other = next((alike[one] for one in look if one in alike), None)
        named.append(f"{path!r} in row {row}" + (f" (did you mean {other!r}?)" if other else ""))
    more = f", and {count - len(named):,} more" if count > len(named) else ""
    return [f"hint: {count:,} paths of the table lead to no file below the folder: {', '.join(named)}{more}"]
