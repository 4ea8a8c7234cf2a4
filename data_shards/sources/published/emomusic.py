"""EmoMusic as published: ``clips_45seconds/2.mp3``, ``songs_info.csv`` and ``static_annotations.csv``.

The evaluation set of MediaEval 2013 is the test; the rest is split by artist as by Castellon, Donahue, Liang (2021).
Arousal and valence are as annotated; z-scoring on train is the evaluation's.
"""

import hashlib
import math
from pathlib import Path

from cluster.settings import UserError
from data_shards.audio.trees import FolderTree
from data_shards.format.records import Clip, Listing, Split
from data_shards.sources.published.tables import count_note, first_below, read_table, require_columns, split_counts

PUBLISHED = {"train": 504, "valid": 115, "test": 125}


def read_emomusic(root: Path) -> Listing:
    """List the songs; numeric ``arousal`` and ``valence``. ``root`` holds the clips and, itself or in ``annotations``,
    the tables. The UserError names table, row and column of what is wrong.
    """
    songs = first_below(root, "songs_info.csv", "annotations/songs_info.csv")
    static = first_below(root, "static_annotations.csv", "annotations/static_annotations.csv")
    targets = _targets(static)
    clips = []
    tree = FolderTree(root)
    for number, row in read_table(songs, delimiter=","):
        require_columns(songs, row, ["song_id", "Artist", "Mediaeval 2013 set"])
        song, artist = row["song_id"].strip(), row["Artist"].strip()
        if song not in targets:
            raise UserError(f"{songs}, row {number}, column song_id: {song} is not in {static.name}")
        test = row["Mediaeval 2013 set"].strip() == "evaluation"
        clips.append(
            Clip(
                key=f"emomusic-{song}",
                audio=tree.audio(f"clips_45seconds/{song}.mp3"),
                track=song,
                artist=artist or None,
                split="test" if test else artist_split(artist),
                numeric=targets[song],
            )
        )
    return Listing(tuple(clips), {}, count_note("EmoMusic", split_counts(clips), PUBLISHED))


def artist_split(artist: str) -> Split:
    """Train or valid, 8 to 2, by the SHA-1 of the name's letters.

    Source: Castellon, Donahue, Liang (2021), released code.
    """
    letters = "".join(sign for sign in artist.lower() if sign.isascii() and (sign.isalpha() or sign.isspace()))
    place = int(hashlib.sha1(" ".join(letters.split()).encode(), usedforsecurity=False).hexdigest(), 16) % 10
    return "train" if place < 8 else "valid"


def _targets(table: Path) -> dict[str, dict[str, float]]:
    targets = {}
    for number, row in read_table(table, delimiter=","):
        require_columns(table, row, ["song_id", "mean_arousal", "mean_valence"])
        values = {}
        for name in ("arousal", "valence"):
            try:
                values[name] = float(row[f"mean_{name}"])
            except ValueError:
                values[name] = math.nan
            if not math.isfinite(values[name]):
                cell = row[f"mean_{name}"]
                raise UserError(f"{table}, row {number}, column mean_{name}: {cell!r} is not a number")
        targets[row["song_id"].strip()] = values
    return targets
