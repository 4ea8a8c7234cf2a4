"""How random batches are with stripes, beside the shuffles of mosaicml/streaming, and what machines fetch for them.

Run as ``python -m benchmarks.shuffles [--shards 128] [--batch 256]``. The peer is optional: an installed
``mosaicml-streaming``, or its wheel unpacked somewhere on PYTHONPATH; of it only ``streaming.base.shuffle`` is used,
which needs numpy alone. Clips are numbers, 256 to a shard; machines are 8, which are its canonical nodes and our ranks.

For each order, over epochs, with 1 where every order of the set is equally likely:

- pairs of a shard: how often two clips of one shard meet in a batch;
- meets again: how often two clips that met in an epoch meet in the next;
- moves: how far a clip's place changes between epochs;
- neighbours: how often two clips whose places are one shard apart or less are so in the next epoch;

and the bytes that the machines fetch together, in sets, and the shards that a machine draws from in 8 batches.
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_shards.sampling.stream import Stream
from data_shards.sampling.stripes import Stripes

RESULTS = Path(__file__).parent / "results"
SIZE = 256
"""Clips of a shard."""
MACHINES, EPOCHS, WINDOW = 8, 3, 8
BLOCK_SHARDS = 8
Epochs = Iterator[NDArray[np.int64]]
"""Of each epoch the clips, (steps, machines, clips of a machine's batch)."""


def main() -> None:
    """Measure, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    arguments = parser.parse_args()
    rows = []
    for block in (0, BLOCK_SHARDS):
        for stripes in (1, 2, 4, 8, 32):
            name = f"stripes={stripes}" + (f", block_shards={block}" if block else "")
            rows.append({"order": name, **_measure(_ours(arguments.shards, arguments.batch, stripes, block))})
    for name in ("py1e", "py1br", "py1s", "py2s", "naive"):
        if (shuffle := _peer(name)) is not None:
            label = name if name in ("py1s", "py2s", "naive") else f"{name}, blocks of {BLOCK_SHARDS} shards"
            rows.append({"order": label, **_measure(_theirs(shuffle, arguments.shards, arguments.batch))})
    record = {"machine": platform.machine(), **vars(arguments), "machines": MACHINES, "epochs": EPOCHS, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "shuffles"
    file.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(text := _table(rows), encoding="utf-8")
    print(text)


def _ours(shards: int, batch: int, stripes: int, block: int) -> Epochs:
    """Steps of an epoch, one after the other."""
    clips = np.arange(shards * SIZE)
    shard_of = (clips // SIZE).astype(np.int32)
    slots, steps = np.arange(batch), len(clips) // batch
    striped = Stripes("x", clips, shard_of, range(batch), stripes, seed=0, block_shards=block) if stripes > 1 else None
    plain = Stream("x", clips, shard_of, seed=0, block_shards=block)
    for epoch in range(EPOCHS):
        found = np.empty((steps, batch), np.int64)
        for step in range(steps):
            if striped:
                found[step] = striped.draw(epoch * steps + step, slots)[0]
            else:
                found[step] = plain.rows_at(*np.divmod((epoch * steps + step) * batch + slots, len(clips)))
        yield found.reshape(steps, batch // MACHINES, MACHINES).swapaxes(1, 2)  # rank r takes slots r::W


def _theirs(shuffle: Callable[..., NDArray[np.int64]], shards: int, batch: int) -> Epochs:
    """A canonical node draws from its part of the order, as many clips for each batch as the others."""
    sizes, each = np.full(shards, SIZE, np.int64), batch // MACHINES
    for epoch in range(EPOCHS):
        order = shuffle(sizes, MACHINES, 0, epoch, BLOCK_SHARDS * SIZE).reshape(MACHINES, -1)
        steps = order.shape[1] // each
        yield order[:, : steps * each].reshape(MACHINES, steps, each).swapaxes(0, 1)


def _peer(name: str) -> Callable[..., NDArray[np.int64]] | None:
    try:
        algorithms = import_module("streaming.base.shuffle").algos
    except ImportError:
        return None
    found: Callable[..., NDArray[np.int64]] = algorithms[name]
    return found


def _measure(epochs: Epochs) -> dict[str, Any]:
    orders = list(epochs)
    steps, _, each = orders[0].shape
    batch, clips = MACHINES * each, orders[0].size
    shards = [order // SIZE for order in orders]
    counts = [np.bincount(batch_of, minlength=1) for order in shards for batch_of in order.reshape(steps, -1)]
    pairs = np.mean([(count * (count - 1)).sum() for count in counts])
    same = (SIZE - 1) / (clips - 1)
    window = [np.unique(order[at : at + WINDOW, 0]).size for order in shards for at in range(0, steps, WINDOW)]
    fetched = sum(np.unique(np.stack([order[:, machine] for order in shards])).size for machine in range(MACHINES))
    return {
        "pairs_of_a_shard": pairs / (batch * (batch - 1)) / same,
        "meets_again": _meets_again(orders) / ((batch - 1) / (clips - 1)),
        "moves": float(np.mean([_moves(one, other) for one, other in _successive(orders)])) * 3,
        "neighbours": float(np.mean([_neighbours(one, other) for one, other in _successive(orders)])),
        "sets_fetched": fetched / (1 + int(max(order.max() for order in shards))),
        "shards_of_a_machine_in_8_batches": float(np.mean(window)),
    }


def _successive(orders: list[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Places of every clip that two successive epochs have, as shares of an epoch."""
    for one, other in pairwise(orders):
        places = [_places(order) for order in (one, other)]
        there = np.isfinite(places[0]) & np.isfinite(places[1])
        yield places[0][there], places[1][there]


def _places(order: NDArray[np.int64]) -> NDArray[np.float64]:
    places = np.full(int(order.max()) + 1, np.nan)
    places[order.reshape(-1)] = np.arange(order.size) / order.size
    return places


def _moves(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.abs(one - other).mean())


def _neighbours(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of clips that follow each other in one epoch the share that is at most a shard apart in the next, over chance."""
    apart = SIZE / len(one)
    near = np.abs(np.diff(other[np.argsort(one)])) <= apart
    return float(near.mean() / (2 * apart))


def _meets_again(orders: list[NDArray[np.int64]]) -> float:
    """Share of the pairs of a batch that are together in the next epoch too."""
    found = []
    for one, other in pairwise(orders):
        steps = len(one)
        batch_of = np.full(int(max(one.max(), other.max())) + 1, -1)
        batch_of[other.reshape(steps, -1)] = np.arange(steps)[:, None]
        for batch in one.reshape(steps, -1):
            _, count = np.unique(batch_of[batch][batch_of[batch] >= 0], return_counts=True)
            found.append((count * (count - 1)).sum() / (batch.size * (batch.size - 1)))
    return float(np.mean(found))


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---" + "|---:" * (len(names) - 1) + "|",
    ]
    for row in rows:
        cells = [row["order"], *(f"{row[name]:.3g}" for name in names[1:])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
