"""Whether `counterpoint embed` of a folder keeps every core busy, and how many hours of music a second it embeds.

    python -m benchmarks.embed_folder [--songs 1000] [--encoder mel_cnn sample_cnn]

A folder of links to twenty rendered songs of 30 s, FLAC; an encoder at its first weights. Busy is the processor time of
this process and all below it over the clock times the cores. On a machine that others use too, only what they left
could be had: "of what was left" is that time over itself and what the kernel counted as idle meanwhile.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch

from cluster.processes.cpu_time import cpu_watch
from cluster.settings import load_config
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from evaluation.embeddings.files import embed_files
from trainers.config import ExperimentConfig
from trainers.inference.frozen import FrozenEncoder

RESULTS = Path(__file__).parent / "results"
ENCODERS = {"sample_cnn": "wave", "tune_plus": "wave", "mel_cnn": "mel"}
RENDERED, SONG_S = 20, 30.0


def make_songs(folder: Path, songs: int) -> None:
    """``songs`` links to a few rendered songs."""
    (folder / "rendered").mkdir()
    (folder / "songs").mkdir()
    files = []
    for number, clip in enumerate(corpus(SyntheticConfig(tracks=RENDERED, seconds=SONG_S, seed=0))):
        files.append(folder / "rendered" / f"{number}.flac")
        wave, rate = clip.audio.read()
        soundfile.write(files[-1], wave, rate)
    for number in range(songs):
        os.link(files[number % len(files)], folder / "songs" / f"{number:05d}.flac")


def idle_s() -> float:
    """Seconds that all cores together have been idle since the machine started."""
    words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    return (int(words[4]) + int(words[5])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, folder: Path, songs: int) -> dict[str, Any]:
    """One folder by one encoder."""
    keys = [f"encoder.name={name}", f"frontend.kind={ENCODERS[name]}"]
    encoder = FrozenEncoder(load_config(ExperimentConfig, None, keys), None, hash="", provenance={})
    cores = len(os.sched_getaffinity(0))
    with cpu_watch() as seconds:
        idle, began = idle_s(), time.perf_counter()
        embedded = embed_files(encoder, folder / "songs", folder / f"{name}.parquet")
        clock_s, left_s = time.perf_counter() - began, idle_s() - idle
    cpu_s = sum(seconds().values())
    assert embedded.rows == songs
    return {
        "encoder": name,
        "songs": songs,
        "threads": torch.get_num_threads(),
        "clock_s": clock_s,
        "cpu_s": cpu_s,
        "busy": cpu_s / (clock_s * cores),
        "of_what_was_left": cpu_s / (cpu_s + left_s),
        "hours_a_second": songs * SONG_S / 3600 / clock_s,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=1000)
    parser.add_argument("--encoder", nargs="+", choices=ENCODERS, default=["mel_cnn", "sample_cnn"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="counterpoint-songs-") as folder:
        make_songs(Path(folder), asked.songs)
        rows = [measure(name, Path(folder), asked.songs) for name in asked.encoder]
    lines = [
        "# Embedding a folder of songs of 30 s",
        "",
        "`python -m benchmarks.embed_folder`; busy: processor time over clock times cores; left: by other processes.",
        "",
        "| encoder | songs | clock, s | CPU-s | busy | of what was left | hours of music a second | load |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['encoder']} | {row['songs']:,} | {row['clock_s']:.1f} | {row['cpu_s']:.1f} | {row['busy']:.0%} "
            f"| {row['of_what_was_left']:.0%} | {row['hours_a_second']:.2f} | {row['load']:.0f} |"
        )
    place = RESULTS / f"embed_folder-{platform.machine()}"
    place.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    place.with_suffix(".md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
