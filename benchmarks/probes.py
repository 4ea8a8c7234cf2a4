"""Probes: all tasks × seeds on two models as `evaluation.probes.training` trains them, against one head after another.

Run as ``python -m benchmarks.probes [--device cuda] [--seeds 5] [--clips 1000] [--epochs 2] [--threads 1]``.
The tasks are those of Table 3 and tempo, with their heads, dropout and number of outputs, on random embeddings of 512
and at most so many clips (the sets' own sizes would change nothing in the ratio of steps).

"Plain loop" is the usual script, one head at a time: TensorDataset and a shuffling DataLoader of 64, nn.Linear,
nn.Dropout, torch.optim.Adam at its defaults, ``loss.item()`` every step, the validation set in batches; one head a task
is timed and counted for all. "Alone" is our own code with a head at a time: its losses must be those of the heads
together. "Floor" is what no code for this protocol in float32 escapes: the two large products of each batch and one
fused Adam kernel, its weights in the cache. All ways take turns, and ratios are medians over the rounds: a CPU is
shared with others. With one thread CPU-seconds count, with several (or on a GPU) those of a clock.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cluster.settings import ROOT, load_config
from evaluation.config import EvaluationConfig, Task
from evaluation.probes.heads import Adam
from evaluation.probes.training import Head, ProbeData, train_heads

RESULTS = Path(__file__).parent / "results"
WIDTH, MODELS = 512, 2
OUTPUTS = {
    "mtat/top50": 50, "mtat/all": 188, "jamendo/top50": 50, "jamendo/genre": 87, "jamendo/instrument": 40,
    "jamendo/mood": 56, "nsynth/pitch": 112, "nsynth/instrument": 11, "giantsteps/key": 24, "gtzan/genre": 10,
    "vocalset/singer": 20, "vocalset/technique": 17, "medleydb/instrument": 20, "emomusic/arousal": 1,
    "emomusic/valence": 1, "tempo/tempo": 1,
}  # fmt: skip
"""Preset and task of conf/evaluation → columns of the head."""
WAYS = ("plain", "alone", "together", "floor")


@dataclass(frozen=True)
class Work:
    """One task to train."""

    name: str
    task: Task
    outputs: int
    train: ProbeData
    valid: ProbeData


def make_work(name: str, clips: int, epochs: int, device: str) -> Work:
    """A task of the presets on random embeddings that say a little of random targets."""
    preset, _, wanted = name.partition("/")
    config = load_config(EvaluationConfig, ROOT / "conf" / "evaluation" / f"{preset}.yaml", {})
    task, outputs = replace(config.tasks[wanted], max_epochs=epochs, patience=epochs), OUTPUTS[name]
    draws = torch.Generator().manual_seed(0)
    x_AKE = torch.randn(MODELS, clips, WIDTH, generator=draws)
    signal_KC = x_AKE[0, :, :outputs] + torch.randn(clips, outputs, generator=draws)
    numbers = task.kind in ("number", "tempo")
    y_K = signal_KC > 1 if task.kind == "tags" else signal_KC[:, 0] if numbers else signal_KC.argmax(1)
    x_AKE, y_K, cut = x_AKE.to(device), y_K.to(device), 4 * clips // 5
    return Work(name, task, outputs, ProbeData(x_AKE[:, :cut], y_K[:cut]), ProbeData(x_AKE[:, cut:], y_K[cut:]))


def plain_loop(work: Work, head: Head) -> float:
    """One head as one would write it; its best validation loss."""
    torch.manual_seed(head.seed)
    task, tags = work.task, work.task.kind == "tags"
    sets = [TensorDataset(x.x_AKE[head.model], x.y_K.float() if tags else x.y_K) for x in (work.train, work.valid)]
    train, valid = DataLoader(sets[0], task.batch, shuffle=True), DataLoader(sets[1], task.batch)
    last = [nn.Dropout(task.dropout), nn.Linear(WIDTH, work.outputs, bias=False)]
    net = nn.Sequential(*([nn.Linear(WIDTH, 512, bias=False), nn.ReLU()] if task.head == "mlp" else []), *last)
    net.to(work.train.x_AKE.device)
    losses: dict[str, nn.Module] = {"tags": nn.BCEWithLogitsLoss(), "tempo": nn.MSELoss(), "number": nn.MSELoss()}
    loss_of = losses.get(task.kind, nn.CrossEntropyLoss())
    numbers = task.kind in ("number", "tempo")
    optimiser = torch.optim.Adam(net.parameters(), lr=task.learning_rate, weight_decay=task.weight_decay)
    best = float("inf")
    for _ in range(task.max_epochs):
        net.train()
        for x, y in train:
            optimiser.zero_grad()
            loss = loss_of(net(x).squeeze(1) if numbers else net(x), y)
            loss.backward()
            loss.item()
            optimiser.step()
        net.eval()
        with torch.no_grad():
            found = [(loss_of(net(x).squeeze(1) if numbers else net(x), y).item(), len(x)) for x, y in valid]
        best = min(best, sum(loss * n for loss, n in found) / sum(n for _, n in found))
    return best


def floor(work: Work) -> None:
    """The products of the large layer, and the optimiser, of one head."""
    device, batch = work.train.x_AKE.device, work.task.batch
    out = 512 if work.task.head == "mlp" else work.outputs
    x_BE, g_BF = torch.randn(batch, WIDTH, device=device), torch.randn(batch, out, device=device)
    adam = Adam.of([torch.randn(1, out, WIDTH, device=device)], learning_rate=1e-3, weight_decay=0.0)
    product = torch.empty_like(g_BF)
    for _ in range(work.task.max_epochs * -(-work.train.x_AKE.shape[1] // batch)):
        torch.mm(x_BE, adam.weights[0][0].T, out=product)
        torch.mm(g_BF.T, x_BE, out=adam.gradients[0][0])
        adam.step()


def measure(work: Work, heads: list[Head], clock: Callable[[], float]) -> tuple[dict[str, float], float]:
    """Seconds of every way for all heads of a task, and the largest difference of a loss, alone and together."""
    on_gpu, seconds, gap = work.train.x_AKE.is_cuda, {}, 0.0
    train = (work.task, work.train, work.valid, work.outputs)
    for way in WAYS:
        started = clock()
        if way == "plain":
            plain_loop(work, heads[0])
        elif way == "floor":
            floor(work)
        elif way == "alone":
            alone = [train_heads(*train, [head]).losses[0] for head in heads]
        else:
            together = train_heads(*train, heads).losses
            gap = max(abs(a - b) for a, b in zip(alone, together, strict=True))
        if on_gpu:
            torch.cuda.synchronize()
        seconds[way] = (clock() - started) * (len(heads) if way in ("plain", "floor") else 1)
    return seconds, gap


def row(name: str, rounds: list[dict[str, float]]) -> str:
    """A line of the table: medians of seconds, and of each round's own ratios."""
    mid = {way: statistics.median(one[way] for one in rounds) for way in WAYS}
    ratio = statistics.median(one["plain"] / one["together"] for one in rounds)
    over = statistics.median(one["together"] / one["floor"] for one in rounds)
    best = statistics.median(one["plain"] / one["floor"] for one in rounds)
    return f"| {name} | {' | '.join(f'{mid[way]:.2f}' for way in WAYS)} | {ratio:.1f} | {over:.2f} | {best:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    clock = time.process_time if asked.device == "cpu" and asked.threads == 1 else time.perf_counter
    heads = [Head(model, seed) for model in range(MODELS) for seed in range(asked.seeds)]
    works = [make_work(name, asked.clips, asked.epochs, asked.device) for name in OUTPUTS]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in OUTPUTS}
    measure(works[0], heads[:1], clock)
    for _ in range(asked.rounds):
        for work in works:
            seconds, gap = measure(work, heads, clock)
            assert gap < 1e-4, f"{work.name}: losses differ by {gap}"
            found[work.name].append(seconds)
    rows = dict(found)
    for title, chosen in (
        ("all MLP heads", [w.name for w in works if w.task.head == "mlp"]),
        ("all linear heads", [w.name for w in works if w.task.head == "linear"]),
        ("all tasks", [w.name for w in works]),
    ):
        rows[title] = [{way: sum(found[name][r][way] for name in chosen) for way in WAYS} for r in range(asked.rounds)]
    unit = "CPU-s" if clock is time.process_time else "s"
    lines = [
        f"{len(heads)} heads a task, {asked.clips} clips × {WIDTH}, {asked.epochs} epochs, {asked.device}, "
        f"{asked.threads} thread(s), {unit}, medians of {asked.rounds} rounds",
        "",
        "| task | plain loop | alone | together | floor | plain / together | together / floor | plain / floor |",
        "|---" * 8 + "|",
        *(row(name, rounds) for name, rounds in rows.items()),
    ]
    RESULTS.mkdir(exist_ok=True)
    machine = torch.cuda.get_device_name().replace(" ", "-") if asked.device == "cuda" else platform.machine()
    stem = f"probes-{machine}" + (f"-{asked.threads}threads" if asked.threads > 1 else "")
    (RESULTS / f"{stem}.md").write_text("\n".join(lines) + "\n")
    (RESULTS / f"{stem}.json").write_text(json.dumps({**vars(asked), "rounds": rows}) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
