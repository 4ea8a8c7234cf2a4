"""What `counterpoint embed` of a folder costs, this code and that of release 0.1, and how busy it keeps the cores.

    python -m benchmarks.embed_folder [--songs 200] [--rounds 3] [--encoder mel_cnn sample_cnn tune_plus]

A folder of links to twenty rendered songs of 30 s, FLAC; an encoder at its first weights, as many threads as torch
takes by itself. Every way runs in a process of its own, by turns; imports are not counted, decoding is. Busy is the
processor time over the clock times the cores. On a machine that others use too, only what they left could be had: "of
what was left" is that time over itself and what the kernel counted as idle meanwhile.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.base import ROOT, base_tree, measured

RESULTS = Path(__file__).parent / "results"
ENCODERS = {"sample_cnn": "wave", "tune_plus": "wave", "mel_cnn": "mel"}
WAYS = ("0.1", "now")
RENDERED, SONG_S = 20, 30.0
Row = dict[str, float]


def make_songs(folder: Path, songs: int) -> None:
    """``songs`` links to a few rendered songs."""
    import soundfile

    from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus

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


def measure(way: str, name: str, folder: str) -> None:
    """One way of one encoder in this process, printed as JSON; with 0.1 its modules come first on the path."""
    songs = sorted(Path(folder).iterdir())
    embed = _embed(way, name, Path(folder).with_name("embeddings.parquet"))
    idle, used, began = idle_s(), os.times(), time.perf_counter()
    embed(songs)
    clock_s, cpu_s = time.perf_counter() - began, sum(os.times()[:4]) - sum(used[:4])
    left_s = idle_s() - idle
    print(
        json.dumps(
            {
                "songs": len(songs),
                "clock_s": clock_s,
                "cpu_s": cpu_s,
                "busy": cpu_s / (clock_s * len(os.sched_getaffinity(0))),
                "of_what_was_left": cpu_s / (cpu_s + left_s),
                "hours_a_second": len(songs) * SONG_S / 3600 / clock_s,
            }
        )
    )


def _embed(way: str, name: str, out: Path) -> Callable[[list[Path]], Any]:
    from cluster.settings import load_config
    from trainers.config import ExperimentConfig

    config = load_config(ExperimentConfig, None, [f"encoder.name={name}", f"frontend.kind={ENCODERS[name]}"])
    if way == "0.1":
        from evaluation.catalogue import embed_files as embed_songs  # type: ignore[import-not-found]
        from trainers.frozen import FrozenEncoder as Encoder  # type: ignore[import-not-found]

        before = Encoder(config, None, hash="", provenance={})
        return lambda songs: embed_songs(before, songs, out)
    from evaluation.embeddings.files import embed_files
    from trainers.inference.frozen import FrozenEncoder

    now = FrozenEncoder(config, None, hash="", provenance={})
    return lambda songs: embed_files(now, songs[0].parent, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    asked = parser.parse_args()
    rows: dict[str, dict[str, list[Row]]] = {name: {way: [] for way in WAYS} for name in asked.encoder}
    with tempfile.TemporaryDirectory(prefix="counterpoint-songs-") as folder, base_tree() as base:
        make_songs(Path(folder), asked.songs)
        for _ in range(asked.rounds):
            for name in asked.encoder:
                for way in WAYS:
                    call = f"measure({way!r}, {name!r}, {folder + '/songs'!r})"
                    tree = base if way == "0.1" else ROOT
                    rows[name][way].append(measured(call, "benchmarks.embed_folder", tree, {}))
    text = table(rows)
    place = RESULTS / f"embed_folder-{platform.machine()}"
    place.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    place.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def table(rows: dict[str, dict[str, list[Row]]]) -> str:
    """CPU-s: medians of rounds; clock: the smallest; what is busy, and the hours: of that round."""
    lines = [
        f"# Embedding a folder of songs of 30 s, {len(os.sched_getaffinity(0))} shared cores",
        "",
        "`python -m benchmarks.embed_folder`; by turns; CPU-s: medians of rounds; the clock: the smallest, and what",
        "follows it of the same round; busy: processor time over clock times cores; left: by other processes.",
        "",
        "| encoder | songs | CPU-s: 0.1 | now | 0.1 / now | clock, s: 0.1 | now | 0.1 / now | busy | of what was left "
        "| hours of music a second |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, ways in rows.items():
        cpu = {way: median(row["cpu_s"] for row in found) for way, found in ways.items()}
        best = {way: min(found, key=lambda row: row["clock_s"]) for way, found in ways.items()}
        clock, now = {way: row["clock_s"] for way, row in best.items()}, best["now"]
        lines.append(
            f"| {name} | {now['songs']:.0f} | {cpu['0.1']:.1f} | {cpu['now']:.1f} | {cpu['0.1'] / cpu['now']:.2f} "
            f"| {clock['0.1']:.1f} | {clock['now']:.1f} | {clock['0.1'] / clock['now']:.2f} "
            f"| {now['busy']:.0%} | {now['of_what_was_left']:.0%} | {now['hours_a_second']:.2f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
