"""`python -m benchmarks.loss --gpu`: the fused kernels on one GPU against the tiles and against torch.compile.

First every way is checked against float64 on the device. Then a sweep times tilings of the two kernels at
49,152 rows; then each way is timed at each size, the fused one with the committed tilings and with the best ones found.
Two floors: 4·N²·d, the products that no exact method avoids, and 6·N²·d, those of kernels whose programs share nothing
(each pair is computed twice), both over the rate of a large bfloat16 product of the same run. Whatever would not
end before the time is up is left out and named. Torch and Triton suffice: no other package of the project is needed.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.loss import TEMPERATURE, WIDTH, Rows, make_rows, product_rate, timed, write_results
from benchmarks.loss_compiled import compiled_tiles
from trainers.losses.contrastive.loss import contrastive_loss
from trainers.losses.contrastive.triton import launch
from trainers.losses.contrastive.triton.launch import Tiling

DEVICE = "cuda"
SIZES = (49_152, 196_608, 1_048_576)
TILE = 4_096
SHARP = 0.02
"""A temperature that wants a running maximum, and two exponentials a pair."""
CANDIDATES = {
    "sums": [
        Tiling(128, 64, 8, 3, 2),
        Tiling(128, 128, 8, 3, 1),
        Tiling(64, 64, 4, 4, 3),
        Tiling(64, 128, 4, 3, 1),
    ],
    "gradient": [
        Tiling(128, 64, 8, 3, 1),
        Tiling(64, 64, 4, 3, 2),
        Tiling(128, 32, 8, 4, 1),
        Tiling(128, 128, 8, 2, 1),
    ],
}


class Way(NamedTuple):
    """One way to compute the pairs."""

    kernel: Literal["tiles", "fused"]
    half: bool = True
    temperature: float = TEMPERATURE
    surroundings: Callable[[], Any] = nullcontext
    largest: int = SIZES[-1]


WAYS = {
    "fused": Way("fused"),
    "tiles": Way("tiles"),
    "compiled": Way("tiles", surroundings=compiled_tiles, largest=196_608),
    "fused, sharp": Way("fused", temperature=SHARP, largest=49_152),
    "tiles, sharp": Way("tiles", temperature=SHARP, largest=49_152),
    "fused, float32": Way("fused", half=False, largest=49_152),
    "tiles, float32": Way("tiles", half=False, largest=49_152),
}


def loss_of(rows: Rows, way: Way) -> Tensor:
    with torch.autocast(DEVICE, torch.bfloat16, enabled=way.half):
        return contrastive_loss(*rows, temperature=way.temperature, tile=TILE, kernel=way.kernel)


def step(rows: Rows, way: Way) -> Tensor:
    """Forward and backward: the gradient."""
    return torch.autograd.grad(loss_of(rows, way), rows.z)[0]


def check() -> list[str]:
    """Errors of every way against float64; raises where one is beyond what its products explain."""
    lines = ["| way | rows | error of the loss | error of the gradient |", "|---|---|---|---|"]
    for num_rows in (1_000, 8_192):
        rows = make_rows(num_rows, DEVICE)
        double = rows._replace(z=rows.z.detach().double().requires_grad_())
        for name, way in WAYS.items():
            if name == "compiled" and num_rows % TILE:
                continue  # every other shape of a tile would be compiled as well
            exact = Way("tiles", half=False, temperature=way.temperature)
            expected, gradient = loss_of(double, exact).item(), step(double, exact)
            with way.surroundings():
                value, got = loss_of(rows, way).item(), step(rows, way).double()
            of_value = abs(value / expected - 1)
            of_gradient = float((got - gradient).norm() / gradient.norm())
            lines.append(f"| {name} | {num_rows:,} | {of_value:.1e} | {of_gradient:.1e} |")
            print(lines[-1], flush=True)
            bounds = (2e-6, 2e-5) if not way.half else (1e-4, 1e-2) if way.temperature == TEMPERATURE else (1e-3, 2e-2)
            if not (of_value < bounds[0] and of_gradient < bounds[1]):
                raise SystemExit(f"{name} is wrong at {num_rows} rows: {of_value:.1e}, {of_gradient:.1e}")
    return lines


def median_s(work: Callable[[], object], repeats: int) -> float:
    return statistics.median(timed(work, DEVICE) for _ in range(repeats))


@contextmanager
def tilings(**chosen: Tiling) -> Iterator[None]:
    """Other tilings of the bfloat16 kernels inside the block."""
    before = dict(launch.TILINGS)
    for kernel, tiling in chosen.items():
        launch.TILINGS[kernel, torch.bfloat16] = tiling
    try:
        yield
    finally:
        launch.TILINGS.update(before)


def sweep(deadline: float) -> tuple[dict[str, Tiling], list[str]]:
    """The fastest tiling of each kernel at the smallest size, and a table of all."""
    rows, way = make_rows(SIZES[0], DEVICE), WAYS["fused"]
    best: dict[str, Tiling] = {}
    lines = ["| kernel | rows × cols | warps | stages | resident | ms |", "|---|---|---|---|---|---|"]
    for kernel, candidates in CANDIDATES.items():
        found: dict[Tiling, float] = {}
        for tiling in candidates:
            if found and time.monotonic() > deadline:
                break
            with tilings(**{kernel: tiling}):
                work: Callable[[], object] = lambda: step(rows, way)  # noqa: E731
                if kernel == "sums":
                    work = lambda: loss_of(rows._replace(z=rows.z.detach()), way)  # noqa: E731
                try:
                    work()
                    found[tiling] = median_s(work, 7)
                except Exception as error:  # a tiling that does not fit is a finding, and no reason to stop
                    lines.append(f"| {kernel} | {tiling.rows} × {tiling.cols} | | | | {type(error).__name__} |")
                    continue
            lines.append(
                f"| {kernel} | {tiling.rows} × {tiling.cols} | {tiling.warps} | {tiling.stages} | {tiling.resident} "
                f"| {found[tiling] * 1e3:.3f} |"
            )
            print(lines[-1], flush=True)
        best[kernel] = min(found, key=found.__getitem__)
    lines += ["", "The sums' time is that of a loss without gradient, the gradient's that of a whole step."]
    return best, lines


def measure(rows: Rows, way: Way, repeats: int) -> dict[str, float]:
    """Seconds of a step and of its forward sums alone, and the rise of allocated memory."""
    with way.surroundings():
        step(make_rows(2 * TILE, DEVICE), way)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = median_s(lambda: step(rows, way), repeats)
        memory = torch.cuda.max_memory_allocated() - before
        plain = rows._replace(z=rows.z.detach())
        sums = median_s(lambda: loss_of(plain, way), repeats)
    return {"seconds": seconds, "sums_s": sums, "memory_mb": memory / 1e6}


def run(sizes: list[int], budget_s: float) -> None:
    """All of it, within about ``budget_s`` seconds."""
    began = time.monotonic()
    checks = check()
    rate = product_rate(DEVICE)
    best, swept = sweep(began + budget_s / 2)
    changed = any(launch.TILINGS[kernel, torch.bfloat16] != tiling for kernel, tiling in best.items())
    ways = {"fused, best tilings": WAYS["fused"], **WAYS} if changed else WAYS
    table: list[dict[str, float | str]] = []
    for num_rows in sizes:
        rows = make_rows(num_rows, DEVICE)
        for name, way in ways.items():
            known = [row for row in table if row["name"] == name]
            expected = float(known[-1]["seconds"]) * (num_rows / float(known[-1]["rows"])) ** 2 if known else 0.0
            left = budget_s - (time.monotonic() - began)
            if num_rows > way.largest or 2 * expected > left:
                print(f"| {num_rows:,} | {name} | left out: {expected:.0f} s a step, {left:.0f} s are left |")
                continue
            repeats = 7 if expected < 0.2 else 1
            with tilings(**best) if name == "fused, best tilings" else nullcontext():
                metrics = measure(rows, way, repeats)
            table.append({"rows": num_rows, "name": name, "rate": rate, **metrics})
            print(as_markdown(table[-1:]).splitlines()[-1], flush=True)
        del rows
    parts = ["## Errors", *checks, "", "## Tilings", *swept, "", f"Best: {best}", "", "## Steps", as_markdown(table)]
    write_results("loss", DEVICE, table, "\n".join(parts))


def as_markdown(table: list[dict[str, float | str]]) -> str:
    """One line a measurement, with its distance to both floors."""
    lines = [
        "| rows | way | step ms | of it sums ms | over 4·N²·d | over 6·N²·d | memory MB | TFLOP/s of a product |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        seconds, floor_s = float(row["seconds"]), 4 * float(row["rows"]) ** 2 * WIDTH / float(row["rate"])
        lines.append(
            f"| {row['rows']:,} | {row['name']} | {seconds * 1e3:.2f} | {float(row['sums_s']) * 1e3:.2f} "
            f"| {seconds / floor_s:.2f} | {seconds / floor_s / 1.5:.2f} | {row['memory_mb']:.0f} "
            f"| {float(row['rate']) / 1e12:.0f} |"
        )
    return "\n".join(lines)
