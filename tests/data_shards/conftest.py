"""Folders of small WAV files with their CSV of labels, trees of published forms, the real lists where they are."""

import csv
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from cluster.settings import ROOT

RATE = 22_050
MakeFolder = Callable[..., tuple[Path, Path]]
FMA_TRACKS = (
    # id, artist, split, subset, top, all, licence
    (2, 1, "training", "medium", "Hip-Hop", "[21]", "CC BY-NC-SA"),
    (5, 1, "training", "large", "", "[21, 10]", "CC BY"),
    (140, 54, "validation", "small", "Folk", "[17]", "CC BY"),
    (1486, 90, "training", "small", "Folk", "[17]", "CC0"),
    (108924, 91, "test", "small", "Folk", "[]", "CC0"),
    (155320, 92, "test", "medium", "Pop", "[10]", ""),
)


def write_mp3(path: Path) -> None:
    """Two seconds of noise, a seed a name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(list(str(path.relative_to(path.parents[2])).encode())).standard_normal(32_000) / 10
    soundfile.write(path, wave, 16_000, format="MP3")


@pytest.fixture(scope="session")
def metadata() -> Path:
    """The real split and label lists, where they are."""
    folder = Path(os.environ.get("COUNTERPOINT_DATA", ROOT.parent / "shared/data")) / "metadata"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; COUNTERPOINT_DATA names its parent")
    return folder


@pytest.fixture(scope="session")
def published_lists() -> ModuleType:
    """The script that pins published splits; it makes trees of the published form of the real lists."""
    path = ROOT / "tests/golden/published_splits.py"
    spec = importlib.util.spec_from_file_location("golden_published_splits", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
            wave[0] = number  # identifies the file
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


@pytest.fixture
def fma_root(tmp_path: Path) -> Path:
    """FMA's form, six tracks: the header's two rows and the index's name in a third, cells with line breaks."""
    top = ["", "album", "artist", "artist", "set", "set", "track", "track", "track", "track"]
    second = ["", "information", "bio", "id", "split", "subset", "genre_top", "genres_all", "license", "title"]
    rows: list[Sequence[object]] = [top, second, ["track_id", *[""] * 9]]
    for track, artist, split, subset, genre, genres, licence in FMA_TRACKS:
        rows.append([track, 'two\nlines, and a "quote"', "", artist, split, subset, genre, genres, licence, "Title"])
        for size in ("small", "medium", "large", "full"):
            write_mp3(tmp_path / f"fma_{size}/{track // 1000:03d}/{track:06d}.mp3")
    tables = tmp_path / "fma_metadata"
    tables.mkdir()
    with (tables / "tracks.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    with (tables / "genres.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(["genre_id", "#tracks", "parent", "title", "top_level"])
        csv.writer(file).writerows(
            [[10, 13_845, 0, "Pop", 10], [17, 12_706, 0, "Folk", 17], [21, 8_389, 0, "Hip-Hop", 21]]
        )
    return tmp_path


@pytest.fixture
def mtat(tmp_path: Path) -> Path:
    """MagnaTagATune's form: twelve clips in folders 0, b, c, d; 60 tags, of which 55 are used, five by five less."""
    folder = tmp_path / "mtat"
    tags = [f"tag {number:02d}" for number in range(60)]
    paths = [f"{'0bcd'[number % 4]}/artist-{number}-30-59.mp3" for number in range(12)]
    for path in paths:
        write_mp3(folder / path)
    with (folder / "annotations_final.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(["clip_id", *tags, "mp3_path"])
        for number, path in enumerate(paths):
            bits = [int(number < 11 - tag // 5 and tag < 55) for tag in range(60)]
            writer.writerow([35_644 if number == 5 else number, *bits, path])
    with (folder / "clip_info_final.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(["clip_id", "track_number", "title", "artist", "album"])
        for number in range(12):
            writer.writerow([35_644 if number == 5 else number, 1, f"Title {number % 3}", f"Artist {number % 5}", ""])
    return folder
