"""A dataset of your own: a function that yields clips, here of WAV files with a JSON of labels beside each.

    counterpoint shards build own_dataset:songs --out outputs/shards/songs dataset.settings.folder=~/songs

Start it in this folder, or add the folder to PYTHONPATH. ``song.json`` beside ``song.wav`` may hold, for example,
``{"artist": "Ann", "split": "test", "tags": ["calm", "piano"], "key": "C minor", "bpm": 92}``.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from counterpoint import Clip, audio_file


def songs(folder: str, licence: str | None = None) -> Iterator[Clip]:
    """Clips of a folder of WAV files.

    Args:
        folder: of the files.
        licence: of all of them.
    """
    for path in sorted(Path(folder).expanduser().glob("*.wav")):
        labels = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        yield Clip(
            key=path.stem,  # letters, digits, "_" and "-"; unique
            audio=audio_file(path),
            track=labels.get("track", path.stem),  # excerpts of one track stay in one split
            artist=labels.get("artist"),
            split=labels.get("split", "train"),
            multilabel={"tags": tuple(labels.get("tags", ()))},
            categorical={"key": labels.get("key")},
            numeric={"bpm": labels.get("bpm", float("nan"))},
            licence=licence,
        )
