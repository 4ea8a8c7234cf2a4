"""Probes: all seeds of a task on two models as one batch, against the same heads one after another.

Run as ``python -m benchmarks.probes [--device cuda] [--seeds 5]``. "Alone" is our own code, a head at a time: losses
must agree. "Plain loop" is the usual script, one head at a time: TensorDataset and a shuffling DataLoader of 64,
nn.Linear, nn.Dropout, torch.optim.Adam at its defaults, ``loss.item()`` every step, the validation set in batches. It
draws its own random numbers, so its losses agree in the mean only. "Floor" is the two 512×512 products and the fused
Adam step of each batch, measured alone: no code for this protocol in float32 is faster.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from evaluation.probes import Head, ProbeData, train_heads
from evaluation.tasks import Task

RESULTS = Path(__file__).parent / "results"
OUTPUTS = 24
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
        losses += train_heads(task, *data, OUTPUTS, group).losses
    return clock() - started, losses


def plain_loop(task: Task, data: tuple[ProbeData, ProbeData], head: Head) -> float:
    """One head as one would write it; its best validation loss."""
    torch.manual_seed(head.seed)
    sets = [
        TensorDataset(part.x_AKE[head.model], part.y_K.float() if task.kind == "tags" else part.y_K) for part in data
    ]
    train, valid = DataLoader(sets[0], task.batch, shuffle=True), DataLoader(sets[1], task.batch)
    last = [nn.Dropout(task.dropout), nn.Linear(512, OUTPUTS, bias=False)]
    net = nn.Sequential(*([nn.Linear(512, 512, bias=False), nn.ReLU()] if task.head == "mlp" else []), *last)
    net.to(data[0].x_AKE.device)
    loss_of = nn.BCEWithLogitsLoss() if task.kind == "tags" else nn.CrossEntropyLoss()
    optimiser = torch.optim.Adam(net.parameters(), lr=task.learning_rate, weight_decay=task.weight_decay)
    best = float("inf")
    for _ in range(task.max_epochs):
        net.train()
        for x, y in train:
            optimiser.zero_grad()
            loss = loss_of(net(x), y)
            loss.backward()
            loss.item()
            optimiser.step()
        net.eval()
        with torch.no_grad():
            losses = [(loss_of(net(x), y).item(), len(x)) for x, y in valid]
        best = min(best, sum(loss * n for loss, n in losses) / sum(n for _, n in losses))
    return best


def floor(task: Task, steps: int, device: str) -> float:
    """Seconds of the products of the large layer and of the optimiser alone, for one head."""
    clock = time.perf_counter if device != "cpu" else time.process_time
    width = 512 if task.head == "mlp" else OUTPUTS
    x, g, weight = (
        torch.randn(shape, device=device) for shape in ((task.batch, 512), (task.batch, width), (512, width))
    )
    out, weight.grad = torch.empty_like(g), torch.zeros_like(weight)
    optimiser = torch.optim.Adam([weight], fused=True)
    started = clock()
    for _ in range(steps):
        torch.mm(x, weight, out=out)
        torch.mm(x.T, g, out=weight.grad)
        optimiser.step()
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=2000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    heads = [Head(model, seed) for model in range(2) for seed in range(asked.seeds)]
    lines = [f"{len(heads)} heads, {asked.clips} clips × 512, 20 epochs, {asked.device}, one thread", ""]
    lines += [
        "| task | plain loop, s | alone, s | together, s | plain / together | floor, s | largest difference of loss |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    rows = []
    for name, task in TASKS.items():
        data = make_data(task.kind, asked.clips, asked.device)
        run(task, data, [heads[:2]])
        alone_s, alone = run(task, data, [[head] for head in heads])
        together_s, together = run(task, data, [heads])
        gap = max(abs(a - b) for a, b in zip(alone, together, strict=True))
        assert gap < 1e-3, f"{name}: losses differ by {gap}"
        clock = time.perf_counter if asked.device != "cpu" else time.process_time
        started = clock()
        plain = [plain_loop(task, data, head) for head in heads]
        plain_s = clock() - started
        drift = abs(sum(plain) - sum(together)) / sum(plain)
        assert drift < 0.05, f"{name}: the plain loop's losses differ by {drift:.0%}"
        floor_s = len(heads) * floor(task, task.max_epochs * -(-data[0].x_AKE.shape[1] // task.batch), asked.device)
        row = {"plain_s": plain_s, "alone_s": alone_s, "together_s": together_s, "floor_s": floor_s}
        rows.append({"task": name, **row, "loss_gap": gap})
        cells = [
            f"{plain_s:.2f}",
            f"{alone_s:.2f}",
            f"{together_s:.2f}",
            f"{plain_s / together_s:.1f}",
            f"{floor_s:.2f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {gap:.1e} |")
    RESULTS.mkdir(exist_ok=True)
    machine = torch.cuda.get_device_name().replace(" ", "-") if asked.device == "cuda" else platform.machine()
    (RESULTS / f"probes-{machine}.md").write_text("\n".join(lines) + "\n")
    (RESULTS / f"probes-{machine}.json").write_text(json.dumps({**vars(asked), "rows": rows}) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
