"""Exact nearest neighbours: this project's search against faiss flat, torch's full product and scikit-learn.

Run as ``python -m benchmarks.knn [--base 100000 1000000] [--queries 10000] [--width 512] [--device cuda]``. On a CPU:
one thread, CPU-seconds, the base held as a stream of shards by us and whole by the others. With ``--device cuda``:
seconds of our product and top-k on that device, the copies to it and back among them.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.metrics.neighbours import search, unit_rows

RESULTS = Path(__file__).parent / "results"
K = 10
SHARD_ROWS = 100_000
SCIKIT_ROWS = 100_000
"""Its brute force takes some times as long as the others; on a larger base it is left out."""
Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


def by_faiss(query_QE: Vectors, base_DE: Vectors) -> Rows:
    """The flat index over the whole base."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(base_DE.shape[1])
    index.add(base_DE)
    return np.asarray(index.search(query_QE, K)[1], np.int64)


def by_torch(query_QE: Vectors, base_DE: Vectors) -> Rows:
    """Blocks of queries against the whole base, and torch's topk."""
    base, parts = torch.from_numpy(base_DE), torch.split(torch.from_numpy(query_QE), 256)
    return np.concatenate([(part @ base.T).topk(K).indices.numpy() for part in parts])


def by_scikit_learn(query_QE: Vectors, base_DE: Vectors) -> Rows:
    """Brute force on unit vectors, where the Euclidean order is that of the cosine."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(base_DE).kneighbors(query_QE, return_distance=False)
    return np.asarray(found, np.int64)


def by_us(query_QE: Vectors, base_DE: Vectors, device: str = "cpu") -> Rows:
    """The base as a stream of shards, their best merged."""
    return search(query_QE, np.array_split(base_DE, max(1, len(base_DE) // SHARD_ROWS)), K, device=device)[1]


WAYS: dict[str, Callable[[Vectors, Vectors], Rows]] = {
    "counterpoint": by_us,
    "faiss flat": by_faiss,
    "torch": by_torch,
    "scikit-learn": by_scikit_learn,
}


def measure(base_rows: int, queries: int, width: int, device: str) -> dict[str, float]:
    """Seconds of every way, after checking that all find the same rows.

    Args:
        base_rows: rows of the base.
        queries: rows that are searched for.
        width: of an embedding.
        device: ``cpu``, or where ours searches instead; its rows are then compared with faiss's for 64 queries.
    """
    rng = np.random.default_rng(0)
    base, query = (unit_rows(rng.standard_normal((rows, width), np.float32)) for rows in (base_rows, queries))
    if device != "cpu":
        by_us(query[:64], base[:4096], device)
        started = time.perf_counter()
        found = by_us(query, base, device)
        seconds = {"counterpoint": time.perf_counter() - started}
        _same(found[:64], by_faiss(query[:64], base), "faiss flat")
        return seconds
    seconds, ours = {}, None
    for name, way in WAYS.items():
        if name == "scikit-learn" and base_rows > SCIKIT_ROWS:
            continue
        way(query[:64], base[:4096])
        started = time.process_time()
        found = way(query, base)
        seconds[name] = time.process_time() - started
        ours = found if ours is None else ours
        _same(found, ours, name)
        print(f"{base_rows:,} × {width}: {name} {seconds[name]:.1f} s", flush=True)
    return seconds


def _same(found: Rows, ours: Rows, name: str) -> None:
    share = float((found == ours).mean())
    assert share > 0.999, f"{name}: {share:.2%} of the rows are ours"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=int, nargs="+", default=[100_000])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    on_cpu = asked.device == "cpu"
    machine = platform.machine() if on_cpu else torch.cuda.get_device_name().replace(" ", "-")
    lines = [f"Top {K} of {asked.queries:,} queries, width {asked.width}, {machine}", ""]
    lines += [f"| base | way | {'CPU-s' if on_cpu else 's'} | times ours |", "|---|---|---|---|"]
    tree = {}
    for base_rows in asked.base:
        seconds = measure(base_rows, asked.queries, asked.width, asked.device)
        tree[base_rows] = {name: round(value, 2) for name, value in seconds.items()}
        for name, value in seconds.items():
            lines.append(f"| {base_rows:,} | {name} | {value:.1f} | {value / seconds['counterpoint']:.2f} |")
    RESULTS.mkdir(exist_ok=True)
    stem = f"knn-{machine}"
    (RESULTS / f"{stem}.md").write_text("\n".join(lines) + "\n")
    (RESULTS / f"{stem}.json").write_text(json.dumps({**vars(asked), "seconds": tree}) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
