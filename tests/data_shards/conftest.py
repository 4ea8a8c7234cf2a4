"""Folders of small WAV files with their CSV of labels, and the real lists where they are."""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cluster.settings import ROOT

RATE = 22_050
MakeFolder = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="session")
def metadata() -> Path:
    """The real split and label lists, where they are."""
    folder = Path(os.environ.get("COUNTERPOINT_DATA", ROOT.parent / "shared/data")) / "metadata"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; COUNTERPOINT_DATA names its parent")
    return folder


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """``make_folder(12, frames=4_000)`` writes files and labels.csv: (folder of audio, CSV)."""

    def make(
        count: int = 12, *, frames: int = 4_000, name: str = "music", **columns: Sequence[str]
    ) -> tuple[Path, Path]:
        audio = tmp_path / name
        (audio / "sub").mkdir(parents=True)
        rows: list[Mapping[str, str]] = []
        for number in range(count):
            wave = np.random.default_rng(number).integers(-9_000, 9_000, frames).astype(np.int16)
            wave[0] = number  # tells whose samples they are
            soundfile.write(audio / f"sub/{number:03d}.wav", wave, RATE)
            split = ("train", "train", "train", "validation", "val", "test")[number % 6]
            row = {"path": f"sub/{number:03d}.wav", "split": split, "track_id": f"t{number}", "artist": "A"}
            row |= {"tags": "calm|dark" if number % 2 else "", "key": f"key {number % 3}", "bpm": str(60 + number)}
            rows.append(row | {column: values[number] for column, values in columns.items()})
        labels = tmp_path / f"{name}.csv"
        with labels.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        return audio, labels

    return make
