"""A set that a recorded build made is made again, whatever holds the clips on the way: bytes, recipe and summary."""

import csv
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from data_shards.build.build import BuildConfig, Progress, build
from data_shards.sources.folder import read_folder
from data_shards.sources.label_table import read_labels

RATE = 22_050
CONFIG = BuildConfig(clips_per_shard=4, workers=1, max_rejected=0.5)
SHARDS = {
    "shard-00000.tar": "fd429509c98e0c0f13ac71b1e70924cbd819a70d2d6a59af47e7b1ee7d67106e",
    "shard-00001.tar": "69061e9e969c49720bb395e2d49e7d06fcdee7febd25c568e13544450f89ae46",
    "shard-00002.tar": "ca8060c7a104ed49440fa80e3763fcd4172dd3298393ebff665233cf343f5559",
    "shard-00003.tar": "f79521f5b916ed79f54e63b6528fddb6cc2535b1aef5a8b8ee6caea3f4388ba9",
}
MANIFEST = "7c56ef8b77e71d3d10bd109a0b3331ea251e1e4c23e05825d71e0fe47ac82b4e"
RECIPE = "3379647a866106a30e193650f352351825d323642d261e91990e6680fbdc9085"
SUMMARY = "75d360b12488bc1b077353b3f5a5f20a5c6d5be7c2e623e5cf98bf604b72d0d7"
UNLABELLED = "bfe7bfe6c13cdcf0ab5577e851edd2922c4d76492d4e270124729642a70c578e"


def make_music(folder: Path) -> Path:
    """Thirteen files with every kind of label, names to tidy, one damaged, one silent, one sound in two splits."""
    rows = []
    for number in range(13):
        wave = np.random.default_rng(4 if number == 9 else number).integers(-9_000, 9_000, 3_000).astype(np.int16)
        path = f"{'ab'[number % 2]}/{number % 3}/song {number:02d}.wav"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, wave * (number != 7), RATE)
        if number == 5:
            (folder / path).write_bytes(b"no audio")
        os.utime(folder / path, ns=(10**18 + number, 10**18 + number))
        rows.append({
            "path": path, "split": ("train", "valid", "test")[number % 3], "track_id": f" t{number // 2}\u00a0",
            "artist": "Beyonce\u0301" if number % 4 else "", "licence": "CC0" if number % 5 else "",
            "tags": ("", "calm|dark", "dark |slow|calm")[number % 3], "key": ("C minor", "D", "NA")[number % 3],
            "bpm": "" if number == 4 else str(60.5 + number),
            "caption": "a slow song|slow and sad" if number % 2 else "",
        })  # fmt: skip
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


def digest(tree: Any) -> str:
    text = json.dumps(tree, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def recorded(out: Path, summary: Any, music: Path) -> dict[str, Any]:
    """Digests of a set and of its summary, without the paths of this machine."""
    facts = {name: value for name, value in asdict(summary).items() if name not in ("out", "seconds")}
    record = json.loads((out / "build.json").read_text())
    return {
        "shards": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*.tar"))},
        "manifest": json.loads((out / "manifest.json").read_text())["hash"],
        "recipe": record["recipe"],
        "summary": digest(json.loads(json.dumps(facts, default=str).replace(str(music), "MUSIC"))),
    }


def test_a_labelled_folder_gives_the_recorded_set(tmp_path: Path) -> None:
    music = tmp_path / "music"
    table = read_labels(make_music(music))
    seen: list[Progress] = []
    summary = build(read_folder(music, table).clips, tmp_path / "set", CONFIG, progress=seen.append)
    assert recorded(tmp_path / "set", summary, music) == {
        "shards": SHARDS, "manifest": MANIFEST, "recipe": RECIPE, "summary": SUMMARY
    }  # fmt: skip
    assert [(now.done, now.total, now.rejected, now.resumed) for now in seen] == [
        (4, 13, 0, 0), (8, 13, 1, 0), (12, 13, 1, 0), (13, 13, 1, 0)
    ]  # fmt: skip
    assert [len(group) for group in summary.same_audio] == [2]


def test_a_folder_without_labels_gives_the_recorded_set(tmp_path: Path) -> None:
    music = tmp_path / "music"
    make_music(music).unlink()
    summary = build(read_folder(music).clips, tmp_path / "set", CONFIG)
    assert digest(recorded(tmp_path / "set", summary, music)) == UNLABELLED
