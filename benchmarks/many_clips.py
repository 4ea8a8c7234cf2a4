"""`shards build` of up to ten million clips: CPU-seconds and the most memory, by the product's own code.

Run as ``python -m benchmarks.many_clips [plan|folder|table|build] [--clips 100000 1000000] [--folder DIR]``.

- plan: a function of the user's own lists the clips (`list_own`), `build` checks them, hashes what identifies the set
  and makes every shard's job. All of a build but the writing: the jobs are counted in place of run.
- folder, table: the same from files below a folder (hard links to empty ones, a thousand a folder), without and with a
  CSV of their labels: split, track, artist, two tags, a key and a tempo.
- build: plan, then every shard is decoded, written, read back and indexed, and the set summarised. A sound is 50 ms of
  noise at 4 kHz, another for each clip, made in place of decoded: nothing else is replaced.

Memory is anonymous (not of files), of this process alone, after minus before, in MB; pages of files go back when
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.index import MB, RESULTS, _Highest
from data_shards.build.build import BuildConfig, BuildJob, build
from data_shards.build.writer import ShardResult
from data_shards.format.records import Clip, Listing
from data_shards.sources.folder import read_folder
from data_shards.sources.label_table import read_labels
from data_shards.sources.own import list_own

RATE_HZ, SECONDS = 4_000, 0.05
CONFIG = BuildConfig(rate=RATE_HZ, shortest_s=0.01, workers=1)
FILES_A_FOLDER, LINKS_A_FILE = 1_000, 50_000


@dataclass(frozen=True)
class ShortNoise:
    """Noise of one number."""

    number: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"noise {self.number}"

    def read(self) -> tuple[NDArray[np.float32], int]:
        """The samples and their rate."""
        wave = np.random.default_rng(self.number).random(int(SECONDS * RATE_HZ), np.float32)
        return wave - 0.5, RATE_HZ


def noises(clips: int) -> Iterator[Clip]:
    """Clips of ten a track and a hundred an artist, with the labels of a tagged set."""
    for number in range(clips):
        track = number // 10
        yield Clip(
            key=f"noise-{number:08d}",
            audio=ShortNoise(number),
            track=f"Artist {number // 100:06d} - Song {track:07d}",
            artist=f"Artist {number // 100:06d}",
            split="valid" if track % 20 == 0 else "test" if track % 20 == 1 else "train",
            multilabel={"tags": (f"tag {number % 50}", f"tag {number % 47}")},
            categorical={"key": f"key {number % 24}"},
            numeric={"bpm": 60.0 + number % 120},
        )


class _Planned(Exception):
    """Every job was made."""


def plan_of(clips: Iterable[Clip] | Listing, out: Path) -> None:
    """`build` up to its first shard, with every job made once more."""

    def count(_: Callable[[BuildJob], ShardResult], jobs: Sequence[BuildJob]) -> Iterable[ShardResult]:
        for job in jobs:
            assert job.clips
        raise _Planned

    try:
        build(clips, out, CONFIG, map_jobs=count)
    except _Planned:
        return


def plan(folder: Path, clips: int) -> None:
    """The plan of a function's clips."""
    plan_of(list_own("benchmarks.many_clips:noises", {"clips": clips}), folder / "set")


def folder_(folder: Path, clips: int) -> None:
    """The plan of a folder's files without labels."""
    listing = read_folder(folder / f"music-{clips}")
    assert len(listing.clips) == clips
    plan_of(listing.clips, folder / "set")


def table(folder: Path, clips: int) -> None:
    """The plan of a folder with a table of labels."""
    listing = read_folder(folder / f"music-{clips}", read_labels(folder / f"labels-{clips}.csv"))
    assert len(listing.clips) == clips
    plan_of(listing.clips, folder / "set")


def whole(folder: Path, clips: int) -> None:
    """A set, from a function's clips to its summary."""
    listing = list_own("benchmarks.many_clips:noises", {"clips": clips})
    summary = build(listing, folder / f"set-{clips}", CONFIG)
    assert summary.clips == clips


STAGES: dict[str, Callable[[Path, int], None]] = {"plan": plan, "folder": folder_, "table": table, "build": whole}


def make_files(folder: Path, clips: int) -> None:
    """The files of `folder_` and the CSV of `table`."""
    music, source = folder / f"music-{clips}", folder / "empty"
    if music.is_dir():
        return
    with (folder / f"labels-{clips}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "track_id", "artist", "tags", "key", "bpm"])
        for number, clip in enumerate(noises(clips)):
            path = f"Artist {number // FILES_A_FOLDER:06d}/{number % FILES_A_FOLDER:03d} - Song {number:08d}.wav"
            if number % LINKS_A_FILE == 0:
                source = folder / f"empty-{number}"
                source.touch()
            if number % FILES_A_FOLDER == 0:
                (music / path).parent.mkdir(parents=True)
            os.link(source, music / path)
            tags = "|".join(clip.multilabel["tags"])
            writer.writerow([path, clip.split, clip.track, clip.artist, tags, *clip.categorical.values(), 60.5])


def measure(stage: str, folder: Path, clips: int) -> dict[str, float]:
    """One stage, in a process of its own."""
    began = time.process_time()
    with _Highest() as highest:
        STAGES[stage](folder, clips)
    return {"clips": clips, "cpu_s": time.process_time() - began, "peak_anonymous_mb": highest.anonymous / MB}


def main() -> None:
    """Measure the stages, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", default=[*STAGES], choices=[*STAGES])
    parser.add_argument("--clips", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="for files and sets, 3 kB a clip; default a temporary one")
    parser.add_argument("--child", action="store_true", help="used by the benchmark itself")
    arguments = parser.parse_args()
    if arguments.child:
        found = measure(arguments.stages[0], arguments.folder, arguments.clips[0])
        sys.stdout.write(json.dumps(found) + "\n")
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for stage in arguments.stages:
            for clips in arguments.clips:
                if stage in ("folder", "table"):
                    make_files(folder, clips)
                words = [sys.executable, "-m", "benchmarks.many_clips", stage, "--clips", str(clips)]
                done = subprocess.run([*words, "--folder", str(folder), "--child"], stdout=subprocess.PIPE, check=True)
                rows.append({"stage": stage, **json.loads(done.stdout)})
                row = rows[-1]
                sys.stdout.write(
                    f"{stage:7}{clips:12,} clips {row['cpu_s']:9.1f} CPU-s {row['peak_anonymous_mb']:8.1f} MB\n"
                )
                sys.stdout.flush()
    record = {"machine": platform.processor() or platform.machine(), "python": platform.python_version(), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "many_clips.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
