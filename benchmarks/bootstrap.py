"""CPU-seconds and memory of the bootstrap of AUROC and AP, a tag and head: in blocks, and as written down plainly.

Run as ``python -m benchmarks.bootstrap [--clips 1000 10000 100000] [--rounds 3]``.

"Plain" holds the weights of all resamples, and the cumulative sums of all of them for each tag; it is how the package
did it before. "Blocks" is `evaluation.tasks.tags`. Both ways take turns, each in its own process; CPU-seconds are
medians over the rounds. Memory is the rise of the peak of resident memory over what the process held with its inputs.
The two give the same values to 1e-12 (`tests/evaluation/metrics/test_confidence.py`).
"""

import argparse
import json
import platform
import resource
import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.apart import rows_apart
from evaluation.metrics.confidence import draw_resamples
from evaluation.targets.target import Target
from evaluation.tasks.tags import Tags

RESULTS = Path(__file__).parent / "results"
WAYS = ("plain", "blocks")
PLAIN_CLIPS = 10_000
"""At most for the plain way; ten times as many need 8 GB."""
Floats = NDArray[np.float64]


def plain_weights(clusters_K: list[str], resamples: int, seeds: int, rng: np.random.Generator) -> tuple[Floats, ...]:
    """Weights of the set and its resamples (R, K), seeds drawn (R, S), weights without each group (G, K)."""
    names, code_K = np.unique(np.asarray(clusters_K), return_inverse=True)
    drawn = rng.integers(len(names), size=(resamples, len(names)))
    row = np.arange(resamples)[:, None]
    counts = np.bincount((row * len(names) + drawn).ravel(), minlength=resamples * len(names))
    weights_RK = counts.reshape(resamples, len(names))[:, code_K].astype(np.float64)
    seeds_RS = rng.integers(seeds, size=(resamples, seeds))
    groups = min(len(names), 100)
    group_K = (rng.permutation(len(names)) % groups)[code_K]
    return (
        np.concatenate([np.ones((1, len(code_K))), weights_RK]),
        np.concatenate([np.arange(seeds)[None], seeds_RS]),
        (group_K != np.arange(groups)[:, None]).astype(np.float64),
    )


def plain_auroc_and_ap(scores_K: Floats, truth_K: NDArray[np.bool_], weights_RK: Floats) -> tuple[Floats, Floats]:
    """Both metrics of one tag in every resample (R,), by cumulative sums over all clips."""
    order_K = np.argsort(-scores_K, kind="stable")
    ends_G = np.flatnonzero(np.append(np.diff(scores_K[order_K]), 1.0))
    weights_RK = weights_RK[:, order_K]
    hits_RG = np.cumsum(weights_RK * truth_K[order_K], 1)[:, ends_G]
    taken_RG = np.cumsum(weights_RK, 1)[:, ends_G]
    misses_RG = taken_RG - hits_RG
    new_hits_RG = np.diff(hits_RG, axis=1, prepend=0)
    new_misses_RG = np.diff(misses_RG, axis=1, prepend=0)
    positives_R, negatives_R = hits_RG[:, -1], misses_RG[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        area_R = (new_misses_RG * (hits_RG - new_hits_RG / 2)).sum(1) / (positives_R * negatives_R)
        precision_RG = np.where(taken_RG > 0, hits_RG / taken_RG, 0.0)
        ap_R = (new_hits_RG * precision_RG).sum(1) / positives_R
    return area_R, ap_R


def make_work(clips: int) -> tuple[Floats, Target]:
    """Scores (S, K, C) of one head for one tag that a twentieth of the clips has, two clips an artist."""
    rng = np.random.default_rng(0)
    truth_KC = rng.random((clips, 1)) < 0.05
    scores_SKC = (truth_KC + rng.standard_normal((clips, 1)))[None]
    names = np.array([f"artist {i // 2}" for i in range(clips)])
    return scores_SKC, Target(np.arange(clips), np.full(clips, "test"), names, names, truth_KC, ("tag",))


def measure(way: str, clips: int, resamples: int) -> dict[str, float]:
    """CPU-seconds and the rise of the peak, MB, of one way in this process."""
    few = draw_resamples(list(map(str, range(100))), resamples=100, seeds=1, rng=np.random.default_rng(0))
    Tags().score_probe(*make_work(100), few)  # imports and first calls
    scores_SKC, test = make_work(clips)
    clusters, rng = test.artist_K.tolist(), np.random.default_rng(0)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if way == "plain":
        weights_RK, _, left_out_GK = plain_weights(clusters, resamples, 1, rng)
        plain_auroc_and_ap(scores_SKC[0, :, 0], test.values[:, 0], np.concatenate([weights_RK, left_out_GK]))
    else:
        Tags().score_probe(scores_SKC, test, draw_resamples(clusters, resamples=resamples, seeds=1, rng=rng))
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"cpu_s": time.process_time() - started, "mb": rise * 1024 / 1e6}


def _cell(rows: list[dict[str, float]]) -> str:
    if not rows:
        return "– | –"
    return f"{statistics.median(row['cpu_s'] for row in rows):.2f} | {max(row['mb'] for row in rows):,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="measure one way here and print a line of JSON")
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(measure(asked.way, asked.clips[0], asked.resamples)))
        return
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for clips in asked.clips:
        for _ in range(asked.rounds):
            for way in WAYS if clips <= PLAIN_CLIPS else WAYS[1:]:
                words = ["--way", way, "--clips", str(clips), "--resamples", str(asked.resamples)]
                rows, ended = rows_apart("benchmarks.bootstrap", words, 600)
                if not rows:
                    print(f"{clips} clips, {way}: {ended}")
                found.setdefault(str(clips), {}).setdefault(way, []).extend(rows)
    lines = [f"# Bootstrap of AUROC and AP, one tag and head, {asked.resamples} resamples and the jackknife", ""]
    lines += [f"| clips | {' | '.join(f'{way}: CPU-s | MB' for way in WAYS)} |", "|---" * (1 + 2 * len(WAYS)) + "|"]
    for clips_, ways in found.items():
        cells = [_cell(ways.get(way, [])) for way in WAYS]
        lines.append(f"| {int(clips_):,} | {' | '.join(cells)} |")
    place = RESULTS / f"bootstrap-{platform.machine()}"
    place.with_suffix(".md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    place.with_suffix(".json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
