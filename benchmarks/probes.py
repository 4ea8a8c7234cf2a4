"""Probes: all seeds of a task on two models as one batch, against the same heads one after another.

Run as ``python -m benchmarks.probes [--device cuda] [--seeds 5]``. Scores must agree. Both sides run the same code, so
the ratio is what batching alone brings; a head of 512 units is bound by arithmetic on a CPU and by launches on a GPU.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from evaluation.probes import Head, ProbeData, train_heads
from evaluation.tasks import Task

RESULTS = Path(__file__).parent / "results"
TASKS = {
    "tags, MLP": Task(column="x", kind="tags", probe=True, max_epochs=20, patience=20),
    "classes, MLP": Task(column="x", kind="class", probe=True, max_epochs=20, patience=20),
    "classes, linear": Task(column="x", kind="class", probe=True, head="linear", max_epochs=20, patience=20),
}


def make_data(kind: str, clips: int, device: str) -> tuple[ProbeData, ProbeData]:
    draws = torch.Generator().manual_seed(0)
    x_AKE = torch.randn(2, clips, 512, generator=draws)
    signal = x_AKE[0, :, :24] + torch.randn(clips, 24, generator=draws)
    y_K = signal > 1 if kind == "tags" else signal.argmax(1)
    cut = 4 * clips // 5
    x_AKE, y_K = x_AKE.to(device), y_K.to(device)
    return ProbeData(x_AKE[:, :cut], y_K[:cut]), ProbeData(x_AKE[:, cut:], y_K[cut:])


def run(task: Task, data: tuple[ProbeData, ProbeData], groups: list[list[Head]]) -> tuple[float, list[float]]:
    """Seconds and best validation losses of heads trained group by group."""
    clock = time.perf_counter if data[0].x_AKE.is_cuda else time.process_time  # a CPU is shared with others
    started = clock()
    losses: list[float] = []
    for group in groups:
        losses += train_heads(task, *data, 24, group).losses
    return clock() - started, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=2000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    heads = [Head(model, seed) for model in range(2) for seed in range(asked.seeds)]
    lines = [f"{len(heads)} heads, {asked.clips} clips × 512, 20 epochs, {asked.device}, one thread", ""]
    lines += ["| task | one by one, s | together, s | ratio | largest difference of loss |", "|---|---|---|---|---|"]
    rows = []
    for name, task in TASKS.items():
        data = make_data(task.kind, asked.clips, asked.device)
        run(task, data, [heads[:2]])
        alone_s, alone = run(task, data, [[head] for head in heads])
        together_s, together = run(task, data, [heads])
        gap = max(abs(a - b) for a, b in zip(alone, together, strict=True))
        assert gap < 1e-3, f"{name}: losses differ by {gap}"
        rows.append({"task": name, "alone_s": alone_s, "together_s": together_s, "loss_gap": gap})
        lines.append(f"| {name} | {alone_s:.2f} | {together_s:.2f} | {alone_s / together_s:.1f} | {gap:.1e} |")
    RESULTS.mkdir(exist_ok=True)
    machine = torch.cuda.get_device_name().replace(" ", "-") if asked.device == "cuda" else platform.machine()
    (RESULTS / f"probes-{machine}.md").write_text("\n".join(lines) + "\n")
    (RESULTS / f"probes-{machine}.json").write_text(json.dumps({**vars(asked), "rows": rows}) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
