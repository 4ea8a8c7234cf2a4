"""What heads that leave an effect out (LOEV) and own blocks (LOEV++) add to a training step, measured by turns.

    python -m benchmarks.loev [--only mel_cnn] [--turns 5] [--clips 6]

CPU-seconds of one thread for forward, loss, backward and update of the same views, four of a clip; the views themselves
cost every row the same and are left out, so a whole step's ratio is nearer to 1. Turns: every row takes one step, then
every row again, so that a busy machine slows all alike; a ratio is the median over turns of the row's step over the
plain step of the same turn.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from cluster.machine.process import keep_freed_memory
from cluster.settings import load_config
from trainers.config import ExperimentConfig
from trainers.frontends.frontend import build_frontend
from trainers.step import StepTrainer
from trainers.views.views import Views

VIEWS, RATE = 4, 22_050
EFFECTS = ("pitch", "stretch")
RESULTS = Path(__file__).parent / "results"
ENCODERS: dict[str, dict[str, Any]] = {
    "sample_cnn": {"frontend.kind": "wave", "views.samples": 59_049},
    "mel_cnn": {"frontend.kind": "mel", "views.samples": 59_049},
    "nfnet": {"frontend.kind": "mule", "views.samples": 66_000, "encoder.channels": 64},
}
"""Each with its front-end; the NFNet at a sixteenth of F0's parameters."""


def trainer(encoder: str, clips: int, variant: tuple[str, ...], own_blocks: int) -> StepTrainer:
    """A step of the encoder; without effects the plain one."""
    tree: dict[str, Any] = {"encoder.name": encoder, "data.batch": clips, "data.b_s": 0.0, "views.count": VIEWS}
    tree |= ENCODERS[encoder] | {"augment.preset": "loev", "head.variant": variant, "encoder.own_blocks": own_blocks}
    return StepTrainer(load_config(ExperimentConfig, None, tree), num_tags=0, device=torch.device("cpu"))


def make_views(encoder: str, clips: int) -> Views:
    """Noise as the encoder reads it, with effects drawn for half of the views."""
    g = torch.Generator().manual_seed(0)
    rows = clips * VIEWS
    tree = {"encoder.name": encoder} | ENCODERS[encoder]
    config = load_config(ExperimentConfig, None, tree)
    wave_NT = 0.1 * torch.randn(rows, config.views.samples, generator=g)
    received = {effect: torch.rand(rows, generator=g) < 0.5 for effect in EFFECTS}
    with torch.no_grad():
        seen = build_frontend(config.frontend, RATE)(wave_NT)
    labels = torch.zeros(rows, 0, dtype=torch.bool)
    clip_id = torch.arange(clips).repeat(VIEWS)
    return Views(seen, clip_id, labels, None, received)  # type: ignore[arg-type]  # what was drawn is not read


def measure(encoder: str, clips: int, turns: int) -> list[dict[str, Any]]:
    """One row each for the plain step, three heads, and three heads with 1, 2 and 3 own blocks."""
    torch.manual_seed(0)
    views = make_views(encoder, clips)
    cases = {"plain": ((), 0), "3 heads": (EFFECTS, 0)} | {f"own_blocks={n}": (EFFECTS, n) for n in (1, 2, 3)}
    trainers = {name: trainer(encoder, clips, *case) for name, case in cases.items()}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(turns + 1):  # the first is not counted
        for name, one in trainers.items():
            began = time.process_time()
            one.train_step(views, turn)
            seconds[name].append(time.process_time() - began)
    rows = []
    for name, times in seconds.items():
        ratios = [mine / plain for mine, plain in zip(times[1:], seconds["plain"][1:], strict=True)]
        weights = trainers[name].model.projector.parameters()
        rows.append(
            {
                "encoder": encoder,
                "row": name,
                "rows": clips * VIEWS,
                "turns": turns,
                "step_s": median(times[1:]),
                "ratio": median(ratios),
                "least": min(ratios),
                "most": max(ratios),
                "parameters": sum(weight.numel() for weight in weights),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| encoder | step | views | turns | parameters, encoder and heads | CPU-s a step | over plain (least–most) |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        spread = f"{row['ratio']:.2f} ({row['least']:.2f}–{row['most']:.2f})"
        lines.append(
            f"| {row['encoder']} | {row['row']} | {row['rows']} | {row['turns']} | {row['parameters']:,} "
            f"| {row['step_s']:.2f} | {spread} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write ``results/loev-MACHINE.json`` and ``.md``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=ENCODERS)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--clips", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    place = RESULTS / f"loev-{platform.machine()}.json"
    if place.exists():
        rows = [row for row in json.loads(place.read_text())["rows"] if row["encoder"] != asked.only and asked.only]
    for encoder in [asked.only] if asked.only else ENCODERS:
        rows += measure(encoder, asked.clips, asked.turns)
        print(table(rows))
        place.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")
        place.with_suffix(".md").write_text(f"CPU, one thread.\n\n{table(rows)}")


if __name__ == "__main__":
    main()
