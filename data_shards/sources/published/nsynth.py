"""NSynth as published: ``nsynth-train``, ``-valid`` and ``-test``, each with ``examples.json`` and ``audio/``."""

import json
from collections.abc import Iterator
from pathlib import Path

from cluster.settings import UserError
from data_shards.audio.trees import FolderTree
from data_shards.format.records import Clip, Listing, Split
from data_shards.sources.published.tables import count_note, split_counts

FOLDERS: dict[str, Split] = {"nsynth-train": "train", "nsynth-valid": "valid", "nsynth-test": "test"}
PUBLISHED = {"train": 289_205, "valid": 12_678, "test": 4_096}


def read_nsynth(folder: Path) -> Listing:
    """List the notes; the track of a note is its instrument, and its pitch is a class as in the probe of 112 pitches.
    Raises UserError if a folder or ``examples.json`` is missing, or a note lacks a field.
    """
    clips = tuple(clip for name, split in FOLDERS.items() for clip in _notes(folder / name, split))
    return Listing(clips, {}, count_note("NSynth", split_counts(clips), PUBLISHED))


def _notes(folder: Path, split: Split) -> Iterator[Clip]:
    table, tree = folder / "examples.json", FolderTree(folder)
    try:
        notes = json.loads(table.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{table}: no such file; unpack the published archives side by side") from None
    except ValueError as error:
        raise UserError(f"{table}: not JSON: {error}") from None
    for name, note in notes.items():
        try:
            yield Clip(
                key=f"nsynth-{name}",
                audio=tree.audio(f"audio/{name}.wav"),
                track=str(note["instrument_str"]),
                split=split,
                multilabel={"qualities": tuple(sorted(note["qualities_str"]))},
                categorical={"pitch": str(int(note["pitch"])), "instrument": str(note["instrument_family_str"])},
                numeric={"velocity": float(note["velocity"])},
                licence="CC BY 4.0",
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{table}, note {name}: {type(error).__name__}: {error}") from None
