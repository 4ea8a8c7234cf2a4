"""Forward and backward of the semi-supervised loss against dense autograd and the authors' formula.

    python -m benchmarks.loss                     768, 3,072, 12,288 and 49,152 rows on one CPU thread
    python -m benchmarks.loss --rows 12288 --only ours
    python -m benchmarks.loss --gpu               up to 1,048,576 rows on one GPU, see `loss_gpu`

Each figure comes from a process of its own: median CPU-seconds of the repeats, and the rise of resident memory over
what was there before the first call. The floor is 4·N²·d, the products that no exact method avoids, over the rate of a
large matrix product. That rate is measured anew after every step, for a shared machine changes its pace; "over floor"
is the median of the ratios.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.losses.contrastive.loss import contrastive_loss

WIDTH, TAGS, TAG_RATE, TEMPERATURE = 128, 50, 0.07, 0.1
RESULTS = Path(__file__).parent / "results"
AUTHORS_LIMIT, DENSE_LIMIT = 768, 12_288
"""Rows beyond which a peer needs more memory than machines like this have."""


class Rows(NamedTuple):
    """Arguments of the loss."""

    z: Tensor
    clip_id: Tensor
    labels: Tensor


def make_rows(num_rows: int, device: str = "cpu") -> Rows:
    """Two views a clip, half the clips labelled, no zeros anywhere but in the labels."""
    g = torch.Generator().manual_seed(0)
    clips = num_rows // 2
    labels = (torch.rand(clips, TAGS, generator=g) < TAG_RATE) & (torch.arange(clips) < clips // 2)[:, None]
    clip_id = torch.randint(-(2**62), 2**62, (clips,), generator=g)
    z = torch.randn(num_rows, WIDTH, generator=g).to(device).requires_grad_()
    return Rows(z, clip_id.repeat(2).to(device), labels.repeat(2, 1).to(device))


def ours(rows: Rows) -> Tensor:
    """The product's loss."""
    return contrastive_loss(*rows, temperature=TEMPERATURE)


def dense(rows: Rows) -> Tensor:
    """The same loss as N × N matrices under automatic differentiation."""
    z = torch.nn.functional.normalize(rows.z, dim=1)
    score = z @ z.T / TEMPERATURE
    tags = rows.labels.to(z.dtype)
    weight = (tags @ tags.T).clamp(max=1).masked_fill(rows.clip_id[:, None] == rows.clip_id, 1).fill_diagonal_(0)
    log_p = score - score.fill_diagonal_(-torch.inf).logsumexp(1, keepdim=True)
    log_p = log_p.masked_fill(weight == 0, 0)
    return -((weight * log_p).sum(1) / weight.sum(1).clamp(min=1)).mean()


def authors(rows: Rows) -> Tensor:
    """The released formula: rows compared as [N, N, d] and labels as [N, N, C], 1e-6 inside the logarithm."""
    score = torch.nn.functional.cosine_similarity(rows.z[:, None], rows.z[None], dim=2) / TEMPERATURE
    tags = rows.labels.float()
    left, right = tags[:, None].expand(-1, len(tags), -1), tags[None].expand(len(tags), -1, -1)
    same_tag = ((left == right) * (left == 1)).any(2)
    other = 1 - torch.eye(len(tags))
    positive = (same_tag | (rows.clip_id[:, None] == rows.clip_id)) * other
    sigma = score.exp()
    p = sigma * positive / (sigma * other).sum(1, keepdim=True)
    return -((torch.log(p + 1e-6) * positive).sum(1) / positive.sum(1).clamp(min=1)).mean()


PEERS: dict[str, Callable[[Rows], Tensor]] = {"ours": ours, "dense": dense, "authors": authors}


def product_rate(device: str = "cpu") -> float:
    """FLOP/s of a large matrix product on random data: float32 on a CPU, bfloat16 on a GPU."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(timed(lambda: a @ a, device) for _ in range(5))


def timed(work: Callable[[], object], device: str) -> float:
    """CPU-seconds of a call, or seconds between events around it on a GPU."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    began = time.process_time()
    work()
    return time.process_time() - began


def resident_bytes(kind: str) -> int:
    """``VmRSS``, what is resident now, or ``VmHWM``, its peak since the last reset (Linux)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(kind))
    return int(line.split()[1]) * 1024


def measure(name: str, num_rows: int, repeats: int) -> dict[str, float]:
    """Time and memory of one implementation at one size; meant for a process of its own."""
    torch.set_num_threads(1)
    function = PEERS[name]

    def step(rows: Rows) -> None:
        torch.autograd.grad(function(rows), rows.z)

    step(make_rows(64))
    rows = make_rows(num_rows)
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    seconds = [timed(lambda: step(rows), "cpu")]
    # Before the first product, or the memory that it frees would hide what the steps need.
    memory = resident_bytes("VmHWM") - before
    rates = [product_rate()]
    for _ in range(repeats - 1):
        seconds.append(timed(lambda: step(rows), "cpu"))
        rates.append(product_rate())
    over = [spent * rate / (4 * num_rows**2 * WIDTH) for spent, rate in zip(seconds, rates, strict=True)]
    medians = {"seconds": seconds, "rate": rates, "over_floor": over}
    return {name: statistics.median(values) for name, values in medians.items()} | {"memory_mb": memory / 1e6}


def measured_apart(name: str, num_rows: int, repeats: int) -> dict[str, float]:
    """`measure` in a fresh process with one thread."""
    command = [sys.executable, "-m", "benchmarks.loss", "--measure", name, "--rows", str(num_rows)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--repeats", str(repeats)], env=environment, capture_output=True, text=True, check=True
    )
    metrics: dict[str, float] = json.loads(done.stdout)
    return metrics


def compare(sizes: list[int], names: list[str], repeats: int) -> list[dict[str, float | str]]:
    """All implementations at all sizes they can bear, peers of one size one after another."""
    table: list[dict[str, float | str]] = []
    for num_rows in sizes:
        for name in names:
            if num_rows > {"authors": AUTHORS_LIMIT, "dense": DENSE_LIMIT}.get(name, num_rows):
                continue
            metrics = measured_apart(name, num_rows, min(repeats, 3) if num_rows > 10_000 else repeats)
            table.append({"rows": num_rows, "name": name, **metrics})
            print(as_markdown(table[-1:]).splitlines()[-1], flush=True)
    return table


def as_markdown(table: list[dict[str, float | str]]) -> str:
    """One line a measurement, with its ratio to ours at the same size."""
    base = {row["rows"]: float(row["seconds"]) for row in table if row["name"] == "ours"}
    lines = [
        "| rows | loss | CPU-s | over floor | times ours | memory MB | GFLOP/s of a product |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table:
        ratio = f"{float(row['seconds']) / base[row['rows']]:.2f}" if row["rows"] in base else "–"
        lines.append(
            f"| {row['rows']:,} | {row['name']} | {row['seconds']:.4g} | {row['over_floor']:.2f} | {ratio} "
            f"| {row['memory_mb']:.0f} | {float(row['rate']) / 1e9:.0f} |"
        )
    return "\n".join(lines)


def machine_name(device: str) -> str:
    """Short name for the results file."""
    if device == "cuda":
        return torch.cuda.get_device_name().lower().replace(" ", "-")
    return f"cpu-{os.cpu_count()}core"


def write_results(name: str, device: str, table: list[dict[str, float | str]], markdown: str) -> None:
    """``results/NAME-MACHINE.json`` and ``.md``, with what ran it."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{name}-{machine_name(device)}"
    versions = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    load = os.getloadavg()[0]
    stem.with_suffix(".json").write_text(
        json.dumps({"schema": 1, **versions, "load_average": load, "table": table}, indent=1) + "\n"
    )
    note = f"torch {torch.__version__}, one thread, load average {load:.1f} on {os.cpu_count()} cores when it ended."
    if device == "cuda":
        note = f"torch {torch.__version__} on {torch.cuda.get_device_name()}."
    stem.with_suffix(".md").write_text(f"# {name}\n\n{note}\n\n{markdown}\n")
    print(f"\n{markdown}\n\n{stem}.json\n{stem}.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", help="sizes N")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS), help="implementations")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--gpu", action="store_true", help="one GPU, bfloat16 products under autocast")
    parser.add_argument("--budget", type=float, default=170, help="seconds that --gpu may take")
    parser.add_argument("--measure", choices=list(PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.rows[0], options.repeats)))
    elif options.gpu:
        from benchmarks import loss_gpu  # it imports this module

        if not torch.cuda.is_available():
            sys.exit("--gpu: torch finds no GPU here; leave the flag out to measure the CPU")
        loss_gpu.run(options.rows or list(loss_gpu.SIZES), options.budget)
    else:
        table = compare(options.rows or [768, 3_072, 12_288, 49_152], options.only, options.repeats)
        write_results("loss", "cpu", table, as_markdown(table))


if __name__ == "__main__":
    main()
