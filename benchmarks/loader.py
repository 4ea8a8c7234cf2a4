"""Windows a CPU-second from shards against webdataset's sequential reading and decoding one file a clip.

    python -m benchmarks.loader                   400 clips of 30 s, windows of 5.4 s, page cache warm
    python -m benchmarks.loader --clips 100 --repeats 3

One thread, CPU-seconds, median of the repeats, all from one run. The floor is the same bytes moved by `preadv` from the
places of the index into one buffer, without looking at them. Two more numbers show what a training process sees: whole
batches from `BatchLoader`, and how long a step twice as long as their reading waits for one that was read ahead.
Last, the same batches by two threads and by two processes (torch's DataLoader), which decides what `BatchLoader` uses.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from data_shards.build.build import BuildConfig, build
from data_shards.format.records import SAMPLE_RATE, Clip
from data_shards.read.loader import BatchLoader
from data_shards.read.reader import ShardSet
from data_shards.sampling.config import DataConfig

CLIP_S, WINDOW_FRAMES = 30.0, 2 * 59_049
RESULTS = Path(__file__).parent / "results"
GOALS = {"pcm16 unchecked": 8_000, "pcm16 checksums": 5_000}
"""Windows a CPU-second."""
Work = Callable[[], int]
"""Reads windows and returns how many."""


@dataclass(frozen=True)
class Music:
    """Decaying tones over noise: no zeros, and about as hard to compress as music."""

    seed: int

    @property
    def name(self) -> str:
        """What an error message calls it."""
        return f"music {self.seed}"

    def read(self) -> tuple[NDArray[np.float32], int]:
        """Samples and rate."""
        rng = np.random.default_rng(self.seed)
        time_s = np.arange(round(CLIP_S * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
        hz = 110 * 2 ** (rng.integers(0, 36, 4) / 12)
        notes = sum(np.sin(2 * np.pi * f * time_s) * np.exp(-3 * (time_s % (0.3 + 0.1 * k))) for k, f in enumerate(hz))
        noise = rng.standard_normal(len(time_s), dtype=np.float32)
        return (0.15 * notes + 0.01 * (noise + np.roll(noise, 1))).astype(np.float32), SAMPLE_RATE


def windows(shards: ShardSet, count: int) -> list[tuple[int, int]]:
    """Random places: (row, first sample)."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(shards.index), count)
    return [(int(row), int(rng.integers(0, shards.index.frames[row] - WINDOW_FRAMES))) for row in rows]


def read_windows(shards: ShardSet, places: list[tuple[int, int]]) -> Work:
    """The product's reader."""
    wave_T = np.empty(WINDOW_FRAMES, np.int16)

    def work() -> int:
        for row, start in places:
            shards.read_into(row, start, wave_T)
        return len(places)

    return work


def move_bytes(shards: ShardSet, places: list[tuple[int, int]]) -> Work:
    """The floor: the same bytes through `preadv` alone."""
    buffer = memoryview(bytearray(2 * WINDOW_FRAMES))
    index = shards.index
    where = [
        (shards._file(int(index.shard[row])), int(index.offset[row] + index.pcm_offset[row]) + 2 * start)
        for row, start in places
    ]

    def work() -> int:
        for file, offset in where:
            os.preadv(file.fd, [buffer], offset)
        return len(where)

    return work


def webdataset_sequential(folder: Path, decode: bool) -> Work:
    """The library's own pipeline over the same shards; with `decode` each clip becomes samples and a window is cut."""
    import webdataset

    urls = sorted(str(path) for path in folder.glob("*.tar"))
    rng = np.random.default_rng(0)

    def work() -> int:
        count = 0
        for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
            if decode:
                wave_T = np.frombuffer(sample["wav"], "<i2", offset=44)
                start = int(rng.integers(0, len(wave_T) - WINDOW_FRAMES))
                wave_T[start : start + WINDOW_FRAMES].copy()
            count += 1
        return count

    return work


def decode_files(folder: Path, count: int) -> Work:
    """A random window of a random file by seeking, as a dataset of loose files does it."""
    rng = np.random.default_rng(0)
    files = sorted(folder.iterdir())

    def work() -> int:
        for _ in range(count):
            with soundfile.SoundFile(files[int(rng.integers(len(files)))]) as file:
                file.seek(int(rng.integers(0, file.frames - WINDOW_FRAMES)))
                file.read(WINDOW_FRAMES, dtype="int16")
        return count

    return work


def load_batches(folder: Path, steps: int) -> Work:
    """Whole batches, labels and all."""
    config = _unlabelled(folder)

    def work() -> int:
        with BatchLoader(config, frames=WINDOW_FRAMES, seed=0, num_threads=1) as loader:
            return sum(len(batch.wave_BT) for batch in loader.batches(0, steps))

    return work


def waits(folder: Path, steps: int) -> tuple[float, float]:
    """How a step twice as long as the reading of a batch waits for the next one, after the first.

    A machine that others use wakes a sleeper late now and then; a mean over steps would measure that, so the middle
    wait is taken, and how many batches were there when they were asked for (within a tenth of their reading).

    Returns:
        share of the step's time that the middle wait is, share of the batches that were ready.
    """
    with BatchLoader(_unlabelled(folder), frames=WINDOW_FRAMES, seed=0, num_threads=1) as loader:
        started = time.perf_counter()
        for _ in loader.batches(0, steps):
            pass
        read_s = (time.perf_counter() - started) / steps
        stream: Iterator[object] = loader.batches(steps, 2 * steps)
        next(stream)
        waited_s = []
        for _ in range(steps - 1):
            time.sleep(2 * read_s)  # a GPU's step leaves the CPU free
            asked = time.perf_counter()
            next(stream)
            waited_s.append(time.perf_counter() - asked)
        middle_s = statistics.median(waited_s)
        return middle_s / (2 * read_s + middle_s), statistics.mean(wait < read_s / 10 for wait in waited_s)


class Steps(torch.utils.data.Dataset[torch.Tensor]):
    """Step by step the windows of `BatchLoader`, opened anew in each process that reads from it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loader: BatchLoader | None = None

    def __getitem__(self, step: int) -> torch.Tensor:
        if self._loader is None:
            self._loader = BatchLoader(_unlabelled(self._folder), frames=WINDOW_FRAMES, seed=0, num_threads=1)
        (batch,) = self._loader.batches(step, step + 1)
        return batch.wave_BT


def by_threads(folder: Path, steps: int) -> int:
    """The product's way: two threads of this process."""
    with BatchLoader(_unlabelled(folder), frames=WINDOW_FRAMES, seed=0, num_threads=2) as loader:
        return sum(len(batch.wave_BT) for batch in loader.batches(0, steps))


def by_processes(folder: Path, steps: int) -> int:
    """Two processes, each with its own index and files; batches come back through shared memory."""
    # Forked, so that they start at no cost and their CPU-seconds are counted here: nothing of ours runs meanwhile.
    loader = torch.utils.data.DataLoader(
        Steps(folder), batch_size=None, sampler=range(steps), num_workers=2, multiprocessing_context="fork"
    )
    return sum(len(wave_BT) for wave_BT in loader)


def rate_by(read: Callable[[Path, int], int], folder: Path, steps: int) -> tuple[float, float]:
    """Windows a CPU-second, of all processes together, and windows a second: of 3·steps less those of steps.

    The difference leaves out what starting costs.
    """
    counts = []
    for number in (steps, 3 * steps):
        cpu_s, wall_s = _cpu_s(), time.perf_counter()
        windows = read(folder, number)
        counts.append((windows, _cpu_s() - cpu_s, time.perf_counter() - wall_s))
    (few, few_cpu_s, few_s), (many, many_cpu_s, many_s) = counts
    return (many - few) / (many_cpu_s - few_cpu_s), (many - few) / (many_s - few_s)


def threads_or_processes(folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Medians of `rate_by`, by codec and way."""
    rates = {}
    for codec, steps in (("pcm16", 30), ("flac", 3)):
        for name, read in (("2 threads", by_threads), ("2 processes", by_processes)):
            found = [rate_by(read, folder / codec, steps) for _ in range(repeats)]
            rates[f"{codec}, {name}"] = {
                "per_cpu_s": statistics.median(cpu for cpu, _ in found),
                "per_s": statistics.median(wall for _, wall in found),
            }
    return rates


def _unlabelled(folder: Path) -> DataConfig:
    return DataConfig(unlabelled=str(folder), b_s=0.0)


def _cpu_s() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def median_rate(work: Work, repeats: int) -> float:
    """Windows a CPU-second, the median of the repeats after one that warms up."""
    work()
    rates = []
    for _ in range(repeats):
        started = time.process_time()
        count = work()
        rates.append(count / (time.process_time() - started))
    return statistics.median(rates)


def prepare(folder: Path, clips: int) -> None:
    """Shards in both codecs and loose files of the same clips."""
    music = [Clip(key=f"clip-{seed:05d}", audio=Music(seed), track=str(seed)) for seed in range(clips)]
    build(music, folder / "pcm16", BuildConfig(workers=1))
    build(music[: clips // 4], folder / "flac", BuildConfig(workers=1, codec="flac"))
    for extension in ("wav", "flac", "mp3"):
        (folder / f"loose-{extension}").mkdir()
        for clip in music[:40]:
            wave, rate = clip.audio.read()
            soundfile.write(folder / f"loose-{extension}" / f"{clip.key}.{extension}", wave, rate)


def measure(folder: Path, *, count: int, repeats: int) -> dict[str, float]:
    """All rates, by name."""
    rates: dict[str, float] = {}
    with ShardSet.open(folder / "pcm16", checksums=False) as shards:
        places = windows(shards, count)
        rates["floor: preadv"] = median_rate(move_bytes(shards, places), repeats)
        rates["pcm16 unchecked"] = median_rate(read_windows(shards, places), repeats)
    with ShardSet.open(folder / "pcm16") as shards:
        rates["pcm16 checksums"] = median_rate(read_windows(shards, places), repeats)
    with ShardSet.open(folder / "flac") as shards:
        rates["flac checksums"] = median_rate(read_windows(shards, windows(shards, max(40, count // 20))), repeats)
    rates["batches, pcm16 checksums"] = median_rate(load_batches(folder / "pcm16", max(4, count // 96)), repeats)
    rates["webdataset sequential, raw"] = median_rate(webdataset_sequential(folder / "pcm16", decode=False), repeats)
    rates["webdataset sequential, window"] = median_rate(webdataset_sequential(folder / "pcm16", decode=True), repeats)
    for extension in ("wav", "flac", "mp3"):
        rates[f"file a clip, {extension}"] = median_rate(
            decode_files(folder / f"loose-{extension}", max(40, count // 20)), repeats
        )
    return rates


def as_markdown(table: dict[str, Any]) -> str:
    """The tables."""
    rates, ways = table["windows_per_cpu_s"], table["threads_or_processes"]
    base = rates["webdataset sequential, raw"]
    lines = [
        f"Loader: windows a CPU-second, one thread; {table['settings']}; {platform.processor() or platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}.",
        "",
        "| reading | windows/CPU-s | × webdataset sequential | share of the floor | goal |",
        "|---|---|---|---|---|",
    ]
    for name, rate in rates.items():
        goal = f"≥ {GOALS[name]:,}" if name in GOALS else ""
        lines.append(f"| {name} | {rate:,.0f} | {rate / base:.2f} | {rate / rates['floor: preadv']:.2f} | {goal} |")
    words = f"A step twice as long as the reading of a batch waits {table['wait_share']:.2%} of its time (median); "
    lines += ["", f"{words}{table['ready_share']:.0%} of the batches were ready when they were asked for.", ""]
    lines += ["| the same batches, checked | windows/CPU-s | windows/s |", "|---|---|---|"]
    lines += [f"| {name} | {way['per_cpu_s']:,.0f} | {way['per_s']:,.0f} |" for name, way in ways.items()]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--windows", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.clips)
        rates = measure(folder, count=options.windows, repeats=options.repeats)
        wait, ready = waits(folder / "pcm16", steps=60)
        ways = threads_or_processes(folder, options.repeats)
    settings = f"random windows of {WINDOW_FRAMES / SAMPLE_RATE:.2f} s of {options.clips} clips of {CLIP_S:g} s, "
    settings += f"page cache warm, median of {options.repeats}"
    table = {
        "settings": settings,
        "load_average": os.getloadavg()[0],
        "windows_per_cpu_s": rates,
        "wait_share": wait,
        "ready_share": ready,
        "threads_or_processes": ways,
        "goals": GOALS,
    }
    markdown = as_markdown(table)
    print(markdown)
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"loader-cpu-{len(os.sched_getaffinity(0))}core"
    stem.with_suffix(".json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown + "\n", encoding="utf-8")
    print(f"written: {stem}.json, {stem}.md")


if __name__ == "__main__":
    main()
