"""Exact nearest neighbours: this project's search against torch's full product and scikit-learn's brute force.

Run as ``python -m benchmarks.knn [--base 100000] [--queries 10000] [--width 512]``; one thread, CPU-seconds.
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

from evaluation.retrieval import search, unit_rows

RESULTS = Path(__file__).parent / "results"
K = 10


def by_torch(query_QE: NDArray[np.float32], base_DE: NDArray[np.float32]) -> NDArray[np.int64]:
    """Blocks of queries against the whole base, and torch's topk."""
    base, parts = torch.from_numpy(base_DE), torch.split(torch.from_numpy(query_QE), 256)
    return np.concatenate([(part @ base.T).topk(K).indices.numpy() for part in parts])


def by_scikit_learn(query_QE: NDArray[np.float32], base_DE: NDArray[np.float32]) -> NDArray[np.int64]:
    """Brute force on unit vectors, where the Euclidean order is that of the cosine."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(base_DE).kneighbors(query_QE, return_distance=False)
    return np.asarray(found, np.int64)


def by_us(query_QE: NDArray[np.float32], base_DE: NDArray[np.float32]) -> NDArray[np.int64]:
    """The base as a stream of shards, their best merged."""
    return search(query_QE, np.array_split(base_DE, max(1, len(base_DE) // 100_000)), K)[1]


WAYS: dict[str, Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.int64]]] = {
    "counterpoint": by_us,
    "torch": by_torch,
    "scikit-learn": by_scikit_learn,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    base, query = (unit_rows(rng.standard_normal((n, asked.width), np.float32)) for n in (asked.base, asked.queries))
    rows, found = {}, {}
    for name, way in WAYS.items():
        way(query[:64], base[:4096])
        started = time.process_time()
        found[name] = way(query, base)
        rows[name] = round(time.process_time() - started, 2)
    agree = {name: float((found[name] == found["counterpoint"]).mean()) for name in WAYS}
    assert min(agree.values()) > 0.999, agree
    lines = [f"Top {K} of {asked.queries:,} queries in {asked.base:,} × {asked.width}, CPU-seconds", ""]
    lines += ["| way | CPU-s | times ours |", "|---|---|---|"]
    lines += [f"| {name} | {cpu_s} | {cpu_s / rows['counterpoint']:.2f} |" for name, cpu_s in rows.items()]
    RESULTS.mkdir(exist_ok=True)
    stem = f"knn-{platform.machine()}"
    (RESULTS / f"{stem}.md").write_text("\n".join(lines) + "\n")
    (RESULTS / f"{stem}.json").write_text(json.dumps({**vars(asked), "cpu_s": rows, "same_rows": agree}) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
