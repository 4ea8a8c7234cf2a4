"""Forward and backward of the two-tower loss against dense autograd, on one CPU thread.

    python -m benchmarks.two_tower                768, 3,072, 12,288 and 49,152 audio rows, as many texts
    python -m benchmarks.two_tower --rows 12288 --only ours sharp

Each figure comes from a process of its own: median CPU-seconds of the repeats, and the rise of resident memory over
what was there before the first call. The floor is 8·N·M·d, the products that no exact method avoids (s in both passes,
H with either tower), over the rate of a large matrix product: its rate and the step are measured by turns, for a shared
machine changes its pace; "over floor" is the median of the ratios. ``sigmoid`` passes once: 6·N·M·d.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.loss import WIDTH, product_rate, resident_bytes, timed, write_results
from trainers.losses.two_tower.loss import two_tower_loss

TAGS, TAG_RATE = 50, 0.07
DENSE_LIMIT = 12_288
"""Rows beyond which dense matrices need more memory than machines like this have."""


class Rows(NamedTuple):
    """Both towers' projections and the numbers of the rows."""

    z_audio: Tensor
    z_text: Tensor
    numbers: dict[str, Any]


def make_rows(num_rows: int, *, hard: bool = False) -> Rows:
    """One text a clip, or one and a swapped one with the tags of both; one text in eight is that of another clip."""
    g = torch.Generator().manual_seed(0)
    clip = torch.randint(-(2**62), 2**62, (num_rows,), generator=g)
    numbers: dict[str, Any] = {"clip_audio": clip, "clip_text": clip}
    if hard:
        says = torch.randint(-(2**62), 2**62, (2, num_rows), generator=g)
        says[0, : num_rows // 8] = says[0, num_rows // 8 : num_rows // 4]
        tags = torch.rand(2, num_rows, TAGS, generator=g) < TAG_RATE
        numbers = {
            "clip_audio": clip,
            "clip_text": clip.repeat(2),
            "hard": torch.arange(2 * num_rows) >= num_rows,
            "text_hash": says.flatten(),
            "tags_audio": tags[0],
            "tags_text": tags.flatten(0, 1),
        }
    texts = len(numbers["clip_text"])
    audio = torch.randn(num_rows, WIDTH, generator=g).requires_grad_()
    return Rows(audio, torch.randn(texts, WIDTH, generator=g).requires_grad_(), numbers)


def ours(rows: Rows, **settings: Any) -> Tensor:
    """The product's loss."""
    return two_tower_loss(rows.z_audio, rows.z_text, **rows.numbers, **settings)


def dense(rows: Rows) -> Tensor:
    """CLIP's formula as an N × M matrix under automatic differentiation."""
    audio, text = (torch.nn.functional.normalize(z, dim=1) for z in rows[:2])
    score = audio @ text.T / 0.07
    target = torch.arange(len(score))
    sides = [torch.nn.functional.cross_entropy(side, target) for side in (score, score.T)]
    return (sides[0] + sides[1]) / 2


class Peer(NamedTuple):
    """One implementation or one setting."""

    loss: Callable[[Rows], Tensor]
    hard: bool = False
    products: int = 4
    """Of 2·N·M·d each."""
    note: str = ""


PEERS: dict[str, Peer] = {
    "ours": Peer(ours, note="τ = 0.07"),
    "sharp": Peer(lambda rows: ours(rows, temperature=0.01), note="τ = 0.01: running maximum"),
    "swap": Peer(lambda rows: ours(rows), hard=True, note="N hard texts more, guard by 50 tags, equal texts"),
    "sigmoid": Peer(lambda rows: ours(rows, pairs="sigmoid"), products=3, note="pairs=sigmoid"),
    "dense": Peer(dense, note="N × M matrices"),
}


def measure(name: str, num_rows: int, repeats: int) -> dict[str, float]:
    """Time and memory of one implementation at one size; meant for a process of its own."""
    torch.set_num_threads(1)
    peer = PEERS[name]

    def step(rows: Rows) -> None:
        torch.autograd.grad(peer.loss(rows), rows[:2])

    step(make_rows(64, hard=peer.hard))
    rows = make_rows(num_rows, hard=peer.hard)
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    seconds = [timed(lambda: step(rows), "cpu")]
    # Before the first product, or the memory that it frees would hide what the steps need.
    memory = resident_bytes("VmHWM") - before
    rates = [product_rate()]
    for _ in range(repeats - 1):
        seconds.append(timed(lambda: step(rows), "cpu"))
        rates.append(product_rate())
    floor = 2 * peer.products * num_rows * len(rows.z_text) * WIDTH
    over = [spent * rate / floor for spent, rate in zip(seconds, rates, strict=True)]
    medians = {"seconds": seconds, "rate": rates, "over_floor": over}
    return {name: statistics.median(values) for name, values in medians.items()} | {"memory_mb": memory / 1e6}


def measured_apart(name: str, num_rows: int, repeats: int) -> dict[str, float]:
    """`measure` in a fresh process with one thread."""
    command = [sys.executable, "-m", "benchmarks.two_tower", "--measure", name, "--rows", str(num_rows)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--repeats", str(repeats)], env=environment, capture_output=True, text=True, check=True
    )
    metrics: dict[str, float] = json.loads(done.stdout)
    return metrics


def as_markdown(table: list[dict[str, float | str]]) -> str:
    """One line a measurement."""
    lines = [
        "| audio rows | loss | what | CPU-s | over floor | memory MB | GFLOP/s of a product |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['rows']:,} | {row['name']} | {PEERS[str(row['name'])].note} | {row['seconds']:.4g} "
        f"| {row['over_floor']:.2f} | {row['memory_mb']:.0f} | {float(row['rate']) / 1e9:.0f} |"
        for row in table
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[768, 3_072, 12_288, 49_152], help="sizes N")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS), help="implementations")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--measure", choices=list(PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.rows[0], options.repeats)))
        return
    table: list[dict[str, float | str]] = []
    for num_rows in options.rows:
        for name in options.only:
            if num_rows > DENSE_LIMIT and name in ("dense", "swap"):
                continue
            repeats = min(options.repeats, 3) if num_rows > 10_000 else options.repeats
            table.append({"rows": num_rows, "name": name, **measured_apart(name, num_rows, repeats)})
            print(as_markdown(table[-1:]).splitlines()[-1], flush=True)
    write_results("two_tower", "cpu", table, as_markdown(table))


if __name__ == "__main__":
    main()
