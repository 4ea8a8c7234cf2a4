"""How long `counterpoint search open-mel FOLDER` takes over many songs, before and after its index is there.

    python -m benchmarks.search [--songs 10000] [--rounds 3]

Songs are distinct WAV files of 3 s: two tones and noise, so that the folder costs little to make and each is decoded,
embedded and found as any file is. Rows: the command that embeds the folder; the same command again, from start to exit
(most of it imports); and in one process with the encoder loaded, which is how a service asks: a query of a file of 30 s
with the scan of the folder, and the search in the index alone. CPU-seconds, and wall seconds beside them.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.base import ROOT, counterpoint
from evaluation.encoders.encoder import ENCODER
from evaluation.encoders.sources import open_encoder
from evaluation.search.query import search
from evaluation.search.track_index import read_index

RESULTS = Path(__file__).parent / "results"
MODEL = "open-mel"
RATE, SONG_S, QUERY_S = 22_050, 3.0, 30.0


def song(number: int, seconds: float) -> NDArray[np.float32]:
    """(T,) of two tones and noise, another for every number."""
    draw = np.random.default_rng(number)
    time_T = np.arange(int(seconds * RATE)) / RATE
    low, high = draw.uniform(80, 400), draw.uniform(400, 4000)
    wave_T = 0.3 * np.sin(2 * np.pi * low * time_T) + 0.2 * np.sin(2 * np.pi * high * time_T)
    noise_T = draw.uniform(0.01, 0.1) * draw.standard_normal(len(time_T))
    return (wave_T + noise_T).astype(np.float32)


def timed(call: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Medians of wall and CPU seconds; the first call is not counted."""
    call()
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall_s": statistics.median(walls), "cpu_s": statistics.median(cpus)}


def measure(songs: int, rounds: int) -> dict[str, dict[str, float]]:
    """Rows of the table."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, query, index = Path(name) / "songs", Path(name) / "query.wav", Path(name) / "index"
        folder.mkdir()
        for number in range(songs):
            soundfile.write(folder / f"{number:06d}.wav", song(number, SONG_S), RATE)
        soundfile.write(query, song(0, QUERY_S), RATE)
        command = ["search", MODEL, str(folder), str(query), "--index", str(index)]
        for row in ("the command, without an index", "the command, with the index"):
            cost = counterpoint(ROOT, command, {})
            rows[row] = {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s}
        with open_encoder(MODEL, heads=True) as pool:
            encoder = pool[ENCODER]
            answer = search(encoder, folder, query, index=index).answers[0]
            assert answer.nearest[0].path.endswith("000000.wav"), answer.nearest
            rows["a query, encoder loaded"] = timed(lambda: search(encoder, folder, query, index=index), rounds)
            rows["a query of the index, folder not scanned"] = timed(lambda: search(encoder, index, query), rounds)
        found = read_index(index)
        query_QW = np.random.default_rng(0).standard_normal((1, found.width)).astype(np.float32)
        rows["nearest ten of the index"] = timed(lambda: found.search(query_QW, 10), rounds)
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows = measure(given.songs, given.rounds)
    lines = ["| | CPU-s | wall s |", "|---|---:|---:|"]
    lines += [f"| {name} | {row['cpu_s']:.3f} | {row['wall_s']:.3f} |" for name, row in rows.items()]
    text = f"# search {MODEL}, {given.songs:,} songs ({platform.machine()})\n\n`python -m benchmarks.search`\n\n"
    text += "\n".join(lines)
    print(text)
    (RESULTS / f"search-{platform.machine()}.md").write_text(text + "\n", encoding="utf-8")
    (RESULTS / f"search-{platform.machine()}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
