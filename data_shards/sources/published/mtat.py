"""MagnaTagATune as published: ``mp3.zip.001`` to ``003`` or the tree of MP3s, and two tables with tabs.

Splits go by the first folder: 0–b train, c validation, d–f test. The variants that papers use are named presets:
results on different ones must not be compared (docs/evaluation.md).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, compress
from pathlib import Path
from typing import Literal

from cluster.settings import UserError
from data_shards.audio.trees import FolderTree, find_tree
from data_shards.format.records import Clip, Listing, Split
from data_shards.sources.published.tables import count_note, read_table, require_columns, split_counts

Variant = Literal["top50", "top50_whole", "all188", "all"]
BAD_CLIPS = {"35644": "no file", "55753": "corrupt", "57881": "corrupt"}
PUBLISHED: dict[Variant, dict[str, int]] = {
    "top50": {"train": 15_250, "valid": 1_529, "test": 4_332},
    "top50_whole": {"train": 15_247, "valid": 1_529, "test": 4_332},
    "all188": {"train": 18_709, "valid": 1_825, "test": 5_329},
    "all": {"train": 18_709, "valid": 1_825, "test": 5_329},
}
"""Clips of each variant: with a top-50 tag; the same without the three bad clips; all clips with 188 or 50 tags."""


def read_mtat(folder: Path, *, variant: Variant = "top50") -> Listing:
    """List the clips of MagnaTagATune.

    Args:
        folder: holds ``annotations_final.csv`` and ``clip_info_final.csv``, and the MP3s: the folders 0…f, or these
            in ``mp3``, in ``mp3.zip``, or in its three parts.
        variant: which clips and tags. ``all188`` has the top-50 tags beside, as column ``top50``.

    Raises:
        UserError: names file, row and column of what is wrong.
    """
    annotations, info = folder / "annotations_final.csv", folder / "clip_info_final.csv"
    rows = list(read_table(annotations))
    if not rows:
        raise UserError(f"{annotations}: no rows below the header")
    require_columns(annotations, rows[0][1], ["clip_id", "mp3_path"])
    tags = [column for column in rows[0][1] if column not in ("clip_id", "mp3_path")]
    frequency = Counter(chain.from_iterable(_tags_of(row, tags) for _, row in rows))
    top50 = tuple(sorted(tags, key=lambda tag: (-frequency[tag], tag))[:50])
    vocabulary = tuple(tags) if variant == "all188" else top50
    audio = find_tree(folder, "mp3") or FolderTree(folder)
    artists = {row["clip_id"]: (row["artist"], row["title"]) for _, row in read_table(info)}
    clips = []
    for number, row in rows:
        _check_cells(annotations, number, row, vocabulary)
        names = _tags_of(row, vocabulary)
        left_out = variant == "top50_whole" and row["clip_id"] in BAD_CLIPS
        if (variant in ("top50", "top50_whole") and not names) or left_out:
            continue
        path = row["mp3_path"]
        artist, title = artists.get(row["clip_id"], ("", ""))
        clips.append(
            Clip(
                key=f"mtat-{row['clip_id']}",
                audio=audio.audio(path),
                track=f"{artist}/{title}" if title else path,
                artist=artist or None,
                split=_split(annotations, number, path),
                multilabel={"tags": names} | ({"top50": _tags_of(row, top50)} if variant == "all188" else {}),
            )
        )
    notes = count_note(f"MTAT {variant}", split_counts(clips), PUBLISHED[variant])
    artists_of = {split: {clip.artist for clip in clips if clip.split == split} - {None} for split in ("train", "test")}
    shared = len(artists_of["train"] & artists_of["test"])
    notes += (f"MTAT: {shared} artists are in train and in test; cluster intervals by artist",) if shared else ()
    orders = {"tags": vocabulary} | ({"top50": top50} if variant == "all188" else {})
    return Listing(tuple(clips), orders, notes)


def _split(path: Path, number: int, mp3_path: str) -> Split:
    folder = mp3_path.partition("/")[0]
    if len(folder) != 1 or folder not in "0123456789abcdef":
        raise UserError(f"{path}, row {number}, column mp3_path: {mp3_path!r} does not begin with a folder 0…f")
    return "train" if folder <= "b" else "valid" if folder == "c" else "test"


def _check_cells(path: Path, number: int, row: Mapping[str, str], tags: Sequence[str]) -> None:
    if not {"0", "1"}.issuperset(map(row.__getitem__, tags)):
        tag = next(tag for tag in tags if row[tag] not in ("0", "1"))
        raise UserError(f"{path}, row {number}, column {tag}: {row[tag]!r} is neither 0 nor 1")


def _tags_of(row: Mapping[str, str], tags: Sequence[str]) -> tuple[str, ...]:
    """Those whose cell is 1. There are five million cells: no line of Python is run for each."""
    return tuple(compress(tags, map("1".__eq__, map(row.__getitem__, tags))))
