"""MTG-Jamendo as published: split-0's ``autotagging_SUBSET-SPLIT.tsv`` and the tree of MP3s that its paths name."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from cluster.settings import UserError
from data_shards.audio.trees import FolderTree
from data_shards.format.records import Clip, Listing, Split
from data_shards.sources.published.tables import count_note, first_below, read_table, require_columns, split_counts

Subset = Literal["top50tags", "genre", "instrument", "moodtheme"]
COLUMNS: dict[Subset, str] = {
    "top50tags": "top50",
    "genre": "genre",
    "instrument": "instrument",
    "moodtheme": "moodtheme",
}
"""Of all four subsets in one set."""
SPLITS: dict[str, Split] = {"train": "train", "validation": "valid", "test": "test"}
PUBLISHED: dict[Subset, dict[str, int]] = {
    "top50tags": {"train": 32_136, "valid": 10_888, "test": 11_356},
    "genre": {"train": 32_572, "valid": 11_043, "test": 11_479},
    "instrument": {"train": 14_395, "valid": 5_466, "test": 5_115},
    "moodtheme": {"train": 9_949, "valid": 3_802, "test": 4_231},
}


def read_jamendo_below(root: Path, *, variant: str) -> Listing:
    """`read_jamendo` of a folder with audio (or audio-low) and split-0; ``together`` is `read_jamendo_together`."""
    splits = first_below(root, "splits/split-0", "data/splits/split-0", "split-0")
    audio = first_below(root, "audio", "audio-low", "raw_30s/audio")
    quality = "low" if next(audio.glob("*/*.low.mp3"), None) else ""
    if variant == "together":
        return read_jamendo_together(audio, splits, quality=quality)
    return read_jamendo(audio, splits, subset=cast(Subset, variant), quality=quality)


def read_jamendo(audio: Path, splits: Path, *, subset: Subset = "top50tags", quality: str = "") -> Listing:
    """List the tracks of a subset.

    Args:
        audio: folder of ``41/241.mp3``.
        splits: folder of the TSV files, plain or gzipped.
        subset: which tags.
        quality: ``low`` for the published low-quality copies, named ``41/241.low.mp3``.

    Raises:
        UserError: names file, row and column of what is wrong.
    """
    clips = []
    tree = FolderTree(audio)
    for name, split in SPLITS.items():
        table = splits / f"autotagging_{subset}-{name}.tsv"
        for number, row in read_table(table, spread=True):
            require_columns(table, row, ["TRACK_ID", "ARTIST_ID", "PATH", "TAGS"])
            tags = row["TAGS"].split("\t")
            if not all("---" in tag for tag in tags):
                raise UserError(f"{table}, row {number}, column TAGS: {row['TAGS']!r} are not of the form KIND---TAG")
            path = row["PATH"].removesuffix(".mp3") + f".{quality}.mp3" if quality else row["PATH"]
            clips.append(
                Clip(
                    key=f"jamendo-{row['TRACK_ID'].removeprefix('track_')}",
                    audio=tree.audio(path),
                    track=row["TRACK_ID"],
                    artist=row["ARTIST_ID"],
                    split=split,
                    multilabel={"tags": tuple(sorted(set(tags)))},
                )
            )
    return Listing(tuple(clips), {}, count_note(f"Jamendo {subset}", split_counts(clips), PUBLISHED[subset]))


def read_jamendo_together(audio: Path, splits: Path, *, quality: str = "") -> Listing:
    """All four subsets as one: a track of several has their tags in several columns, and none where it is in none.
    Raises UserError as `read_jamendo`, or if two lists put a track into different splits.
    """
    tracks: dict[str, Clip] = {}
    notes: tuple[str, ...] = ()
    for subset, column in COLUMNS.items():
        listing = read_jamendo(audio, splits, subset=subset, quality=quality)
        notes += listing.notes
        for clip in listing.clips:
            known = tracks.get(clip.key, clip)
            if known.split != clip.split:
                raise UserError(
                    f"{splits}: {clip.track} is in {known.split} of one list and in {clip.split} of {subset}"
                )
            before = known.multilabel if clip.key in tracks else dict.fromkeys(COLUMNS.values(), ())
            tracks[clip.key] = replace(known, multilabel={**before, column: clip.multilabel["tags"]})
    return Listing(tuple(tracks.values()), {}, notes)
