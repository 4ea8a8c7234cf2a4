"""FMA as published: ``fma_SIZE.zip`` or the tree ``000/000002.mp3``, and ``fma_metadata`` with its tables.

``tracks.csv`` has two header rows and a third with the index's name. Its column ('set', 'subset') is ordered: small is
part of medium, medium of large; full holds the same tracks as large, untrimmed.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.settings import UserError
from data_shards.audio.trees import Tree, open_tree
from data_shards.format.records import Clip, Listing, Split
from data_shards.sources.published.tables import count_note, parse_table, require_columns

SIZES = {"small": 8_000, "medium": 25_000, "large": 106_574, "full": 106_574}
"""Published tracks of each size."""
SUBSETS = {
    "small": ("small", "medium", "large", "full"),
    "medium": ("medium", "large", "full"),
    "large": ("large", "full"),
}
"""The sizes that hold a track, by its ('set', 'subset')."""
SPLITS: dict[str, Split] = {"training": "train", "validation": "valid", "test": "test"}
CUT_S, SHORTEST_S = 30.0, 2.7
"""The clips are the 30 s in the middle of a track; less than a training window is no clip."""
BAD_TRACKS: dict[int, tuple[float, float]] = {
    int(track): (stated_s, real_s)
    for track, (stated_s, real_s) in json.loads(Path(__file__).with_name("fma_bad_tracks.json").read_text()).items()
}
"""Tracks that are shorter than the site stated, in seconds: (stated, real). The clips were cut from the middle of the
stated length, so most of them are empty (mdeff/fma, issues 8 and 44)."""
COLUMNS = {
    "split": ("set", "split"),
    "subset": ("set", "subset"),
    "genre": ("track", "genre_top"),
    "genres": ("track", "genres_all"),
    "artist": ("artist", "id"),
    "licence": ("track", "license"),
}
"""What is read of the 52 columns."""


def read_fma(root: Path, *, variant: str = "medium") -> Listing:
    """List the tracks of one size.

    Targets: multilabel ``genres`` of all levels of the hierarchy; categorical ``genre``, the top level where it is one.

    Args:
        root: holds ``fma_SIZE`` and ``fma_metadata``, each a folder or a zip.
        variant: the size.

    Raises:
        UserError: names table, track and column of what is wrong.
    """
    tables, audio = open_tree(root, "fma_metadata"), open_tree(root, f"fma_{variant}")
    genres = _genres(tables)
    name = f"{tables.name}/tracks.csv"
    clips, left_out = [], []
    total = 0
    for track, row in _tracks(tables):
        if variant not in SUBSETS[row["subset"]]:
            continue
        total += 1
        if variant != "full" and track in BAD_TRACKS and left_of_cut_s(*BAD_TRACKS[track]) < SHORTEST_S:
            left_out.append(track)
            continue
        clips.append(
            Clip(
                key=f"fma-{track:06d}",
                audio=audio.audio(f"{track // 1000:03d}/{track:06d}.mp3"),
                track=f"{track:06d}",
                artist=row["artist"] or None,
                split=SPLITS[row["split"]],
                multilabel={"genres": _names(row["genres"], genres, f"{name}, track {track}")},
                categorical={"genre": row["genre"] or None},
                licence=row["licence"] or None,
            )
        )
    notes = count_note(f"FMA {variant}", {"tracks": total}, {"tracks": SIZES[variant]})
    if left_out:
        notes += (f"FMA: {len(left_out)} known bad tracks are left out: {', '.join(map(str, left_out))}",)
    return Listing(tuple(clips), {"genres": tuple(genres.values())}, notes)


def left_of_cut_s(stated_s: float, real_s: float) -> float:
    """Seconds of sound in the 30 s from the middle of a track whose stated length is too long.

    >>> left_of_cut_s(300, 300), left_of_cut_s(308, 33.25), round(left_of_cut_s(158, 65.31), 2)
    (30.0, 0.0, 1.31)
    """
    return min(CUT_S, max(0.0, real_s - (stated_s - CUT_S) / 2))


def _genres(tables: Tree) -> dict[str, str]:
    """Titles by id, in the table's order."""
    name = f"{tables.name}/genres.csv"
    rows = [row for _, row in parse_table(tables.read("genres.csv").decode("utf-8-sig"), name, delimiter=",")]
    require_columns(name, rows[0] if rows else {}, ["genre_id", "title"])
    return {row["genre_id"]: row["title"] for row in rows}


def _names(cell: str, genres: Mapping[str, str], place: str) -> tuple[str, ...]:
    try:
        return tuple(genres[str(code)] for code in json.loads(cell or "[]"))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{place}, column track/genres_all: {cell!r} is not a list of ids of genres.csv") from None


def _tracks(tables: Tree) -> Iterator[tuple[int, dict[str, str]]]:
    import pandas as pd  # half a second that no other source needs

    name = f"{tables.name}/tracks.csv"
    data = tables.read("tracks.csv")
    first, second, third = list(csv.reader(line.decode() for line in data.split(b"\n", 3)[:3]))[:3] or ([], [], [])
    header = list(zip(first, second, strict=False))
    missing = [f"{group}/{column}" for group, column in COLUMNS.values() if (group, column) not in header]
    if missing or third[:1] != ["track_id"]:
        raise UserError(f"{name}: no column {', '.join(missing) or 'track_id'} in its two header rows")
    places = {field: header.index(column) for field, column in COLUMNS.items()}
    table = pd.read_csv(
        io.BytesIO(data), header=None, skiprows=3, usecols=[0, *places.values()], dtype=str, keep_default_na=False
    )
    for number, cells in enumerate(table.to_dict("records"), start=4):
        if not cells[0].isdigit():
            raise UserError(f"{name}, record {number}: track_id {cells[0]!r} is not a number")
        row = {field: cells[place] for field, place in places.items()}
        for field, known in (("subset", list(SUBSETS)), ("split", list(SPLITS))):
            if row[field] not in known:
                what = f"{row[field]!r}; known are {', '.join(known)}"
                raise UserError(f"{name}, track {cells[0]}, column set/{field}: {what}")
        yield int(cells[0]), row
