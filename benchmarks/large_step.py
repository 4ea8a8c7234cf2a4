"""One exact step of the loss over many rows on this CPU, checked against float64 code that sees one anchor at a time.

Run as ``python -m benchmarks.large_step [--rows 262144] [--anchors 512]``. Rows are those of `benchmarks.loss`: two
views a clip, half the clips labelled. Memory is what the process holds at its peak beyond what it held with the rows
made. For each sampled anchor the reference computes, in float64 and over all rows, its normaliser, its positives, and
the gradient of the whole loss for its row. The gradient also needs the normalisers of the other anchors: those of the
step are taken, which the sampled anchors check. Differences are relative: to the value, and to the largest entry of a
row's gradient.
"""

import argparse
import json
import platform
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.index import memory
from benchmarks.loss import TEMPERATURE, WIDTH, make_rows
from trainers.losses.contrastive import streaming
from trainers.losses.contrastive.loss import contrastive_loss
from trainers.losses.contrastive.pairs import sort_rows

RESULTS = Path(__file__).parent / "results"
MIB = 1 << 20


def main() -> None:
    """Take one step, check it, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument("--anchors", type=int, default=512)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = make_rows(arguments.rows)
    normalisers: list[Tensor] = []
    _keep_normalisers(normalisers)
    peak = _Peak()
    began, began_cpu = time.perf_counter(), time.process_time()
    loss = contrastive_loss(*rows, temperature=TEMPERATURE)
    torch.autograd.backward(loss)
    row: dict[str, Any] = {
        "rows": arguments.rows,
        "width": WIDTH,
        "loss": loss.item(),
        "cpu_s": time.process_time() - began_cpu,
        "wall_s": time.perf_counter() - began,
        "loss_memory_mib": peak.stop() / MIB,
        "gathered_memory_mib": arguments.rows * WIDTH * 4 / MIB,
    }
    assert rows.z.grad is not None
    order = sort_rows(rows.clip_id, rows.labels.any(1))
    lse = np.empty(arguments.rows)
    lse[order.numpy()] = normalisers[0].double().numpy()
    anchors = np.sort(np.random.default_rng(0).choice(arguments.rows, arguments.anchors, replace=False))
    row |= _check(rows, lse, rows.z.grad.double().numpy(), anchors)
    print(json.dumps(row, indent=1))
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": platform.machine(), **row}
    (RESULTS / f"large_step_{arguments.rows}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _check(rows: Any, lse: NDArray[Any], gradient_ND: NDArray[Any], anchors: NDArray[Any]) -> dict[str, Any]:
    """Largest relative differences over the sampled anchors."""
    z = rows.z.detach().double().numpy()
    norm = np.linalg.norm(z, axis=1)
    unit_ND, ids, tags = z / norm[:, None], rows.clip_id.numpy(), rows.labels.numpy()
    number = _numbers_of_positives(ids, tags)
    has = number > 0
    share = np.divide(1.0, number, out=np.zeros(len(ids)), where=has)
    worst_value = worst_gradient = 0.0
    for i in anchors.tolist():
        score = unit_ND @ unit_ND[i] / TEMPERATURE
        positive = (tags & tags[i]).any(1) | (ids == ids[i])
        positive[i] = False
        assert positive.sum() == number[i]
        others = np.delete(score, i)
        exact = others.max() + np.log(np.exp(others - others.max()).sum())
        worst_value = max(worst_value, abs(lse[i] - exact) / abs(exact))
        h = np.exp(score - exact) * has[i] + np.exp(score - lse) * has - positive * (share[i] + share)
        h[i] = 0
        pull = h @ unit_ND / (TEMPERATURE * len(ids))
        row = (pull - (pull @ unit_ND[i]) * unit_ND[i]) / norm[i]
        worst_gradient = max(worst_gradient, np.abs(gradient_ND[i] - row).max() / np.abs(row).max())
    return {
        "anchors": len(anchors),
        "largest_difference_of_a_normaliser": worst_value,
        "largest_difference_of_a_gradient": worst_gradient,
    }


def _numbers_of_positives(ids: NDArray[Any], tags: NDArray[Any]) -> NDArray[Any]:
    """Positives of every row: other views of its clip, and rows with a common tag; one distinct tag set at a time."""
    packed, set_of_row = np.unique(np.packbits(tags, axis=1), axis=0, return_inverse=True)
    sets = np.unpackbits(packed, axis=1, count=tags.shape[1]).astype(np.float32)
    times = np.bincount(set_of_row, minlength=len(sets)).astype(np.float64)
    with_common = np.empty(len(sets))
    for begin in range(0, len(sets), 512):
        with_common[begin : begin + 512] = (sets[begin : begin + 512] @ sets.T > 0) @ times
    _, clip, views = np.unique(ids, return_inverse=True, return_counts=True)
    found = with_common[set_of_row.reshape(-1)]
    return np.where(tags.any(1), found - 1, views[clip] - 1).astype(
        np.float64
    )  # views of a labelled clip share its tags


def _keep_normalisers(found: list[Tensor]) -> None:
    """Keep the normalisers that the step computes, in the order of its rows."""
    plain = streaming._anchors_of

    def keeping(*arguments: Any) -> Any:
        result = plain(*arguments)
        found.append(result[2][0])
        return result

    streaming._anchors_of = keeping  # type: ignore[assignment]


class _Peak:
    """The most memory of this process beyond what it holds now, seen ten times a second."""

    def __init__(self) -> None:
        self._before = self._most = memory()["anonymous"]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Bytes."""
        self._ended.set()
        self._thread.join()
        return self._most - self._before

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self._most = max(self._most, memory()["anonymous"])


if __name__ == "__main__":
    main()
