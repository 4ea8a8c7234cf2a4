"""How much slower two threads are beside one busy process, with threads that spin and threads that sleep.

Turns of active and passive waiting, quiet and beside a neighbour, each in a process of its own:
`python benchmarks/neighbour.py`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from cluster.machine.process import WAIT_POLICY, num_cores

STEPS = """
import sys, time
import torch
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
model = torch.nn.Sequential(*(layer for _ in range(6) for layer in (torch.nn.Conv1d(64, 64, 3), torch.nn.ReLU())))
wave = torch.randn(16, 64, 2048)
def step():
    model.zero_grad()
    model(wave).square().mean().backward()
step()
for _ in range(int(sys.argv[2])):
    started = time.perf_counter()
    step()
    print(time.perf_counter() - started)
"""


def spin() -> None:
    """A neighbour that wants a whole core."""
    while True:
        pass


def seconds(policy: str, *, threads: int, steps: int, busy: bool) -> list[float]:
    neighbour = multiprocessing.get_context("fork").Process(target=spin, daemon=True)
    if busy:
        neighbour.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", STEPS, str(threads), str(steps)],
            env=os.environ | {WAIT_POLICY: policy},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        if busy:
            neighbour.kill()
            neighbour.join()
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    threads = num_cores()
    found: dict[tuple[str, bool], list[float]] = {}
    load = os.getloadavg()[0]
    for _ in range(given.rounds):
        for policy in ("ACTIVE", "PASSIVE"):
            for busy in (False, True):
                found.setdefault((policy, busy), []).extend(
                    seconds(policy, threads=threads, steps=given.steps, busy=busy)
                )
    rows = []
    for policy in ("ACTIVE", "PASSIVE"):
        quiet, beside = (1e3 * statistics.median(found[policy, busy]) for busy in (False, True))
        rows.append({"policy": policy, "quiet_ms": quiet, "beside_ms": beside, "times": beside / quiet})
    about = {
        "machine": platform.machine(),
        "threads": threads,
        "steps": given.steps * given.rounds,
        "load_before": load,
    }
    name = f"neighbour-{platform.machine()}-{threads}threads"
    (given.out / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    lines = [
        f"A step of six convolutions on {threads} threads, median of {about['steps']} by turns; beside: one process",
        f"that spins. Load of the machine before it began: {load:.1f}.",
        "",
        "| OMP_WAIT_POLICY | quiet, ms | beside a busy process, ms | times slower |",
        "|---|---|---|---|",
        *(f"| {r['policy']} | {r['quiet_ms']:.1f} | {r['beside_ms']:.1f} | {r['times']:.2f} |" for r in rows),
    ]
    (given.out / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
