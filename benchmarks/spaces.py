"""Search by space: a mixture of three spaces of one saved index against one of them, and against indexes of one space.

Run as ``python -m benchmarks.spaces [--tracks 100000] [--width 512]``. CPU-seconds of one thread, the median of three
turns, index files read from the page cache and their checksums verified, as in every `counterpoint search`.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.search.mixture import query_rows, unit_slices
from evaluation.search.track_index import ROWS_A_PART, Track, TrackIndex, read_index, rewriting

RESULTS = Path(__file__).parent / "results"
NAMES = ("invariant", "pitch", "stretch")
K, TURNS = 10, 3
Vectors = NDArray[np.float32]


def places(names: tuple[str, ...], width: int) -> dict[str, slice]:
    """Columns of spaces of equal width, side by side."""
    return {name: slice(at * width, (at + 1) * width) for at, name in enumerate(names)}


def build(folder: Path, tracks: int, spaces: dict[str, slice]) -> TrackIndex:
    """A saved index of random embeddings, written part by part."""
    widths = {name: place.stop - place.start for name, place in spaces.items()}
    rng, total = np.random.default_rng(0), sum(widths.values())
    with rewriting(TrackIndex(folder, "random", total, "", "random", spaces=widths)) as writer:
        for first in range(0, tracks, ROWS_A_PART):
            count = min(ROWS_A_PART, tracks - first)
            h_DE = rng.standard_normal((count, total), np.float32)
            writer.add([Track(str(first + row)) for row in range(count)], unit_slices(h_DE, spaces))
    return read_index(folder)


def measure(tracks: int, width: int, queries: int) -> dict[str, float]:
    """CPU-seconds of each way to search, by turns.

    Args:
        tracks: rows of every index.
        width: of a space.
        queries: vectors searched at once.
    """
    three, wide, one = places(NAMES, width), places(NAMES[:1], 3 * width), places(NAMES[:1], width)
    h_QE = np.random.default_rng(1).standard_normal((queries, 3 * width), np.float32)
    even = dict.fromkeys(NAMES, 1.0)
    with tempfile.TemporaryDirectory() as scratch:
        indexes = {
            name: build(Path(scratch) / name, tracks, spaces)
            for name, spaces in (("three", three), ("wide", wide), ("one", one))
        }
        each = [query_rows(h_QE, three, {name: 1.0}) for name in NAMES]
        ways: dict[str, Callable[[], object]] = {
            "one space of three (`--by pitch`)": lambda: indexes["three"].search(each[1], K),
            "mixture of the three (`--by all`)": lambda: indexes["three"].search(query_rows(h_QE, three, even), K),
            "each of the three, one pass": lambda: indexes["three"].search(np.concatenate(each), K),
            "an index of one space, as wide as the three": lambda: indexes["wide"].search(
                query_rows(h_QE, wide, {NAMES[0]: 1.0}), K
            ),
            "an index of one space of that width": lambda: indexes["one"].search(
                query_rows(h_QE, one, {NAMES[0]: 1.0}), K
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, way in ways.items():
                started = time.process_time()
                way()
                seconds[name].append(time.process_time() - started)
    return {name: float(np.median(found)) for name, found in seconds.items()}


def main() -> None:
    import faiss

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracks", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 100])
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    lines = [f"Top {K} of {asked.tracks:,} tracks, three spaces of {asked.width}, {platform.machine()}, one thread", ""]
    lines += ["| queries | compared | CPU-s | times one space |", "|---|---|---|---|"]
    tree = {}
    for queries in asked.queries:
        seconds = measure(asked.tracks, asked.width, queries)
        tree[queries] = {name: round(value, 3) for name, value in seconds.items()}
        base = next(iter(seconds.values()))
        lines += [f"| {queries} | {name} | {value:.2f} | {value / base:.2f} |" for name, value in seconds.items()]
    stem = f"spaces-{platform.machine()}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}.md").write_text("\n".join(lines) + "\n")
    (RESULTS / f"{stem}.json").write_text(json.dumps({**vars(asked), "seconds": tree}) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
