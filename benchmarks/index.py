"""The index of a set of a million and of ten million clips: building, opening, sampling, in CPU-seconds and memory.

Run as ``python -m benchmarks.index [--clips 1000000 10000000] [--folder DIR]``. No audio is written: the rows are
those of 30 s clips, 256 a shard, with two tag columns, a key and a tempo. A process opens the set while another has it
open, so that pages both have mapped count as shared; memory is that of ``/proc/self/smaps_rollup``, in MB, after minus
before. Private = pages that no other process has; anonymous = those that are not of a file at all.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
CLIPS_A_SHARD, BLOCKS, FRAMES = 256, 21, 661_500
TAGS = tuple(f"tag {number}" for number in range(50))
MB = 1e6


def main() -> None:
    """Measure every size in processes of its own, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--folder", type=Path, help="for the sets; default a temporary one, 2 GB for ten million")
    parser.add_argument("--child", choices=[*CHILDREN], help="used by the benchmark itself")
    arguments = parser.parse_args()
    if arguments.child:
        found = CHILDREN[arguments.child](arguments.folder, arguments.clips[0])
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
        sys.stdin.readline()  # stays, with the set open, until the parent is done
        return
    rows = []
    for clips in arguments.clips:
        with tempfile.TemporaryDirectory() as temporary:
            rows.append(_of(arguments.folder or Path(temporary), clips))
            _print(rows[-1])
    record = {"machine": platform.processor() or platform.machine(), "python": platform.python_version(), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "index.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _of(folder: Path, clips: int) -> dict[str, Any]:
    place = folder / str(clips)
    row: dict[str, Any] = {"clips": clips}
    if not (place / "manifest.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        row["build"] = _child("build", place, clips)[0]
    row["bytes"] = sum(path.stat().st_size for path in place.iterdir())
    row["open"] = _child("open", place, clips, beside="open")[0]
    row["sampler"] = _child("sampler", place, clips, beside="sampler")[0]
    return row


def _child(name: str, folder: Path, clips: int, *, beside: str | None = None) -> list[dict[str, Any]]:
    """What processes measure; with ``beside`` a first one holds the set open while the second is measured."""
    words = [sys.executable, "-m", "benchmarks.index", "--folder", str(folder), "--clips", str(clips), "--child"]
    started = []
    for kind in (*([beside] if beside else []), name):
        process = subprocess.Popen([*words, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        started.append((process, json.loads(process.stdout.readline())))
    for process, _ in started:
        process.communicate("\n")
    return [found for _, found in reversed(started)]


def build(folder: Path, clips: int) -> dict[str, float]:
    """Write the index from entries made one shard at a time."""
    from data_shards.build.index_writer import write_index

    began = time.process_time()
    with _Highest() as highest:
        write_index(folder, shards(clips))
    return {"cpu_s": time.process_time() - began, "peak_anonymous_mb": highest.anonymous / MB}


def open_(folder: Path, _: int) -> dict[str, float]:
    """Open the index, all that it imports being imported."""
    from data_shards.format.index import read_index

    before, began = memory(), time.process_time()
    index = read_index(folder)
    found = {"cpu_s": time.process_time() - began, **{name: (memory()[name] - before[name]) / MB for name in before}}
    _kept.append(index)
    return found


def sampler(folder: Path, _: int) -> dict[str, float]:
    """Start the sampler of a set that is labelled and unlabelled at once, and plan steps."""
    from data_shards.format.index import read_index
    from data_shards.sampling.config import DataConfig
    from data_shards.sampling.sampler import Sampler

    index = read_index(folder)
    before, began = memory(), time.process_time()
    made = Sampler(DataConfig(batch=4_096, b_s=0.05, p_s=0.1), index, index, seed=0, frames=100_000)
    found = {"cpu_s": time.process_time() - began, **{name: (memory()[name] - before[name]) / MB for name in before}}
    _kept.append((index, made))
    for name, config in {
        "plan_96_ms": DataConfig(batch=96),
        "plan_4096_ms": DataConfig(batch=4_096),
        "plan_4096_blocks_ms": DataConfig(batch=4_096, block_shards=64),
    }.items():
        planned = Sampler(config, index, index, seed=0)
        began = time.process_time()
        for step in range(100):
            planned.plan(step)
        found[name] = (time.process_time() - began) * 10
    return found


CHILDREN = {"build": build, "open": open_, "sampler": sampler}
_kept: list[Any] = []


def shards(clips: int) -> Iterator[Any]:
    """Shards with their entries, as a scan would give them; a tenth of the clips has tags."""
    from data_shards.format.entries import Entry
    from data_shards.format.shard_file import ShardFile

    rng = np.random.default_rng(0)
    for number, first in enumerate(range(0, clips, CLIPS_A_SHARD)):
        count, name = min(CLIPS_A_SHARD, clips - first), f"shard-{number:05d}.tar"
        crc = rng.integers(0, 2**32, (count, BLOCKS)).tolist()
        tags = rng.integers(0, len(TAGS), (count, 3)).tolist()
        yield (
            ShardFile(
                name=name, size=count * 1_400_000, clips=count, sha256=f"{number:064x}", probes=tuple(range(16))
            ),
            [
                Entry(
                    key=f"clip-{first + row:08d}", shard=name, offset=1_536 + row * 1_330_000, size=44 + 2 * FRAMES,
                    frames=FRAMES, rate=22_050, codec="pcm16", pcm_offset=44, crc=tuple(crc[row]),
                    label_offset=512 + row * 1_330_000, label_size=200, label_crc=row,
                    track=f"track-{(first + row) // 3:08d}", artist=f"artist {(first + row) // 30}",
                    split="train" if row % 10 else "test", licence="CC BY 4.0",
                    multilabel={"tags": tuple(sorted({TAGS[tag] for tag in tags[row]})) if row % 10 == 1 else ()},
                    categorical={"key": "C minor" if row % 2 else "D major"}, numeric={"bpm": 120.0}, captions=(),
                )
                for row in range(count)
            ],
        )  # fmt: skip


def memory() -> dict[str, int]:
    """Bytes of this process by kind."""
    kinds = {"Rss": 0, "Private_Clean": 0, "Private_Dirty": 0, "Anonymous": 0}
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in kinds:
            kinds[name] = int(rest.split()[0]) * 1024
    private = kinds["Private_Clean"] + kinds["Private_Dirty"]
    return {"private": private, "anonymous": kinds["Anonymous"], "shared": kinds["Rss"] - private}


class _Highest:
    """The most anonymous memory that a thread of its own sees, twenty times a second."""

    def __enter__(self) -> "_Highest":
        self.anonymous, self._before = 0, memory()["anonymous"]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self.anonymous = max(self.anonymous, memory()["anonymous"] - self._before)


def _print(row: dict[str, Any]) -> None:
    sys.stdout.write(f"{row['clips']:,} clips, {row['bytes'] / MB:,.0f} MB on disk\n")
    for name in ("build", "open", "sampler"):
        if name in row:
            sys.stdout.write(
                f"  {name:8}" + ", ".join(f"{key} {value:,.3f}" for key, value in row[name].items()) + "\n"
            )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
