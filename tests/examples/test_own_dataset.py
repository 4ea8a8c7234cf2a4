"""examples/own_dataset.py builds a set of shards from WAV files with a JSON beside each."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import counterpoint
from cluster.settings import ROOT
from data_shards.read.stores import open_index


def test_a_folder_of_wav_and_json_becomes_a_set_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    for number, split in enumerate(("train", "train", "test")):
        wave = np.random.default_rng(number).standard_normal(8_000) / 8
        soundfile.write(songs / f"song_{number}.wav", wave, 16_000)
        labels = {"artist": "Ann", "split": split, "tags": ["calm"] * number, "bpm": 90 + number}
        (songs / f"song_{number}.json").write_text(json.dumps(labels))
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.setattr(sys, "path", list(sys.path))
    settings = [f"dataset.settings.folder={songs}", "build.workers=1"]
    words = ["counterpoint", "shards", "build", "own_dataset:songs", "--out", str(tmp_path / "set"), *settings]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match="0"):
        counterpoint.main()
    sys.modules.pop("own_dataset")
    index = open_index(str(tmp_path / "set"))
    assert list(index.key) == ["song_0", "song_1", "song_2"]
    assert list(index.split) == ["train", "train", "test"]
    assert list(index.target("bpm")) == [90, 91, 92]
    assert index.vocabularies == {"tags": ("calm",)}


def test_the_example_is_short() -> None:
    assert len((ROOT / "examples/own_dataset.py").read_text().splitlines()) <= 60
