"""The exact loss on 1, 2 and 4 gloo processes: work, bytes and memory of a rank against formulas, and a projection.

    python -m benchmarks.scaling

Each rank is one thread. CPU-seconds and not wall time: ranks may outnumber cores. Memory is the rise of a rank's
resident peak over what was there before the step.
"""

import argparse
import math
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.loss import TAGS, WIDTH, make_rows, resident_bytes, write_results
from trainers.distributed import collectives
from trainers.losses.contrastive.loss import contrastive_loss

GPU_RATE = 790e12
GPU_EFFICIENCY = 1 / 3
LINK_BYTES_S = 50e9
MESSAGE_S = 5e-6
ROWS_PER_GPU = 384
PROJECTED_WORLDS = (8, 64, 256, 1024)


def bytes_a_rank(exchange: str, world: int, rows: int, item: int = 4) -> int:
    """What one rank sends for one step, forward and backward; ``rows`` of its own, ``item`` bytes a number."""
    block = rows * (item * WIDTH + 8 + math.ceil(TAGS / 8))
    scalars, agreement = rows * 3 * item, 7 * 8
    if exchange == "gather":
        return (world - 1) * (block + scalars + agreement)
    sums, gradient = rows * 4 * 8, rows * item * WIDTH
    return world // 2 * (2 * block + sums + scalars + gradient) + (world - 1) * agreement


def flop_a_rank(exchange: str, world: int, rows: int) -> float:
    """Products of one rank: gather computes foreign pairs for its own side only, the ring for both sides at once."""
    own, foreign = rows**2, rows * rows * (world - 1)
    return (4 * own + (6 if exchange == "gather" else 4) * foreign) * WIDTH


def messages_a_rank(exchange: str, world: int) -> int:
    """Sequential messages of one rank: a ring all-gather of W ranks is W − 1 of them."""
    return 6 * (world - 1) if exchange == "gather" else world // 2 * 9 + 2 * (world - 1)


def measure_rank(rank: int, world: int, num_rows: int, repeats: int, meeting: str) -> dict[str, dict[str, float]]:
    """CPU-seconds, bytes and memory of one rank for both exchanges."""
    torch.set_num_threads(1)
    share = num_rows // world
    whole = make_rows(num_rows)
    mine = [part[rank * share : (rank + 1) * share].detach().clone() for part in whole]
    z = mine[0].requires_grad_()
    metrics: dict[str, dict[str, float]] = {}
    with collectives.process_group(
        timeout_s=600, rank=rank, world_size=world, init_method=f"file://{meeting}", backend="gloo"
    ):
        for exchange in ("gather", "ring"):
            contrastive_loss(z, mine[1], mine[2], exchange=exchange)
            seconds = []
            Path("/proc/self/clear_refs").write_text("5")
            before = resident_bytes("VmRSS")
            for _ in range(repeats):
                with collectives.counted() as traffic:
                    began = time.process_time()
                    loss = contrastive_loss(z, mine[1], mine[2], exchange=exchange)
                    torch.autograd.grad(loss, z)
                    seconds.append(time.process_time() - began)
            rise = resident_bytes("VmHWM") - before
            metrics[exchange] = {"cpu_s": min(seconds), "bytes": traffic.total, "memory_mb": rise / 1e6}
    return metrics


def _serve(connection: Any, arguments: tuple[Any, ...]) -> None:
    connection.send(measure_rank(*arguments))


def measure_world(world: int, num_rows: int, repeats: int) -> list[dict[str, dict[str, float]]]:
    """`measure_rank` on fresh processes."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(world)]
        ranks = [
            context.Process(target=_serve, args=(pipes[r][1], (r, world, num_rows, repeats, f"{folder}/meeting")))
            for r in range(world)
        ]
        for process in ranks:
            process.start()
        results = [ours.recv() for ours, _ in pipes]
        for process in ranks:
            process.join()
    return results


def measured_table(worlds: Sequence[int], num_rows: int, repeats: int) -> list[dict[str, float | str]]:
    """One line a world size and exchange, the slowest rank of each."""
    table: list[dict[str, float | str]] = []
    for world in worlds:
        results = measure_world(world, num_rows, repeats)
        for exchange in ("gather", "ring"):
            sent = {int(rank[exchange]["bytes"]) for rank in results}
            expected = bytes_a_rank(exchange, world, num_rows // world)
            assert sent == {expected}, f"{exchange} on {world} ranks sent {sent}, the formula gives {expected}"
            table.append(
                {
                    "world": world,
                    "exchange": exchange,
                    "cpu_s": max(rank[exchange]["cpu_s"] for rank in results),
                    "memory_mb": max(rank[exchange]["memory_mb"] for rank in results),
                    "bytes": expected,
                    "units": expected / (4 * num_rows * WIDTH),
                    "gflop": flop_a_rank(exchange, world, num_rows // world) / 1e9,
                }
            )
    return table


def fit(table: Sequence[dict[str, float | str]]) -> tuple[float, float]:
    """Least squares of CPU-seconds: seconds per GFLOP of products, and a constant per step."""
    work = torch.tensor([[float(row["gflop"]), 1.0] for row in table], dtype=torch.float64)
    seconds = torch.tensor([[float(row["cpu_s"])] for row in table], dtype=torch.float64)
    # Relative errors count: small steps must be met as well as large ones.
    slope, constant = torch.linalg.lstsq(work / seconds, torch.ones_like(seconds)).solution.flatten().tolist()
    return slope, constant


def measured_markdown(table: Sequence[dict[str, float | str]], slope: float, constant: float) -> str:
    """Measured beside fitted."""
    lines = [
        "| ranks | exchange | CPU-s a rank | model | bytes sent a rank = formula | in units of 4·N·d | memory MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table:
        model = slope * float(row["gflop"]) + constant
        lines.append(
            f"| {row['world']} | {row['exchange']} | {row['cpu_s']:.4f} | {model:.4f} | {row['bytes']:,} "
            f"| {row['units']:.3f} | {row['memory_mb']:.1f} |"
        )
    return "\n".join(lines)


def projection_markdown() -> str:
    """The same formulas with the numbers of a GPU cluster; nothing here was measured on one."""
    lines = [
        f"Projection, not a measurement. Assumed: {ROWS_PER_GPU} rows a GPU (192 clips, two views), d = {WIDTH}; "
        f"products at {GPU_RATE / 1e12:.0f} TFLOP/s (bf16, 8,192³) times {GPU_EFFICIENCY:.2f} "
        f"for all around them; {LINK_BYTES_S / 1e9:.0f} GB/s a GPU in a ring, {MESSAGE_S * 1e6:.0f} µs a message, "
        "nothing overlapped.",
        "",
        "| GPUs | rows N | exchange | products ms | sending ms | messages ms | step ms | memory of gathered rows MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for world in PROJECTED_WORLDS:
        for exchange in ("gather", "ring"):
            work = flop_a_rank(exchange, world, ROWS_PER_GPU) / (GPU_RATE * GPU_EFFICIENCY) * 1e3
            send = bytes_a_rank(exchange, world, ROWS_PER_GPU) / LINK_BYTES_S * 1e3
            wait = messages_a_rank(exchange, world) * MESSAGE_S * 1e3
            rows = world * ROWS_PER_GPU if exchange == "gather" else 3 * ROWS_PER_GPU
            lines.append(
                f"| {world:,} | {world * ROWS_PER_GPU:,} | {exchange} | {work:.2f} | {send:.2f} | {wait:.2f} "
                f"| {work + send + wait:.2f} | {rows * (4 * WIDTH + 4 * TAGS) / 1e6:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_072, help="global rows N")
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    table = measured_table(options.worlds, options.rows, options.repeats)
    slope, constant = fit(table)
    model = f"Model: CPU-s = {slope * 1e3:.2f} ms per GFLOP of products + {constant * 1e3:.1f} ms."
    markdown = f"N = {options.rows:,}, d = {WIDTH}\n\n{measured_markdown(table, slope, constant)}\n\n{model}\n\n"
    write_results("scaling", "cpu", table, markdown + projection_markdown())


if __name__ == "__main__":
    main()
