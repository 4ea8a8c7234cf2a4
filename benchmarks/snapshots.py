"""What a snapshot costs the training thread: written in line, and in the background from a copy.

Run as ``python -m benchmarks.snapshots [--gb 1] [--folder DIR]``. The state is a model and Adam's two moments, ``--gb``
in all. A loop of small matrix products stands for the training loop: its rate is measured while nothing is written and
while a copy is, with its longest pause, which shows whether the writer holds the interpreter's lock. Beside the time
that `save` takes stands the processor time of its thread: what it would wait on a machine with nothing beside.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainers.state import background
from trainers.state.background import SnapshotWriter

RESULTS = Path(__file__).parent / "results"
ABOUT: dict[str, Any] = {"config": {}, "data_hash": "", "provenance": {}}
MINUTE = 60.0


def main() -> None:
    """Measure, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default a temporary one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    layers = max(1, round(arguments.gb * 1e9 / 12 / 4_000_000))
    model = nn.Sequential(*(nn.Linear(2_000, 2_000, bias=False) for _ in range(layers)))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = [_in_line(Path(folder) / "line", model, optimizer)]
        for how, nice in (("background, training's priority", 0), ("background", background.NICE)):
            background.NICE = nice
            rows += _background(Path(folder) / how, how, model, optimizer)
    for row in rows:
        print(
            ", ".join(f"{name} {value:.3f}" if isinstance(value, float) else str(value) for name, value in row.items())
        )
    record = {"machine": platform.machine(), "gb": layers * 48e6 / 1e9, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "snapshots.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _in_line(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    waited, processor = _save(SnapshotWriter(folder, keep=1, background=False), 1, model, optimizer)
    return {"how": "in line", "waited_s": waited, "waited_cpu_s": processor, "share_of_a_minute": processor / MINUTE}


def _save(
    writer: SnapshotWriter, number: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    """Seconds that `save` takes, and those of a processor."""
    began, began_cpu = time.perf_counter(), time.thread_time()
    writer.save(number, model, optimizer, ABOUT)
    return time.perf_counter() - began, time.thread_time() - began_cpu


def _background(folder: Path, how: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    writer, rows = SnapshotWriter(folder, keep=1, background=True), []
    writer.reserve(model, optimizer)
    writer.wait()
    for number in range(2):
        alone, _ = _rate(lambda: False)
        waited, processor = _save(writer, number, model, optimizer)
        began = time.perf_counter()
        thread = writer._thread
        assert thread is not None
        beside, pause = _rate(thread.is_alive)
        written = time.perf_counter() - began
        writer.wait()
        rows.append(
            {
                "how": how,
                "waited_s": waited,
                "waited_cpu_s": processor,
                "share_of_a_minute": processor / MINUTE,
                "written_after_s": written,
                "longest_pause_s": pause,
                "rate_beside": beside / alone,
            }
        )
    return rows


def _rate(going: Any) -> tuple[float, float]:
    """Small products a second for a second, or as long as something goes on, and the longest pause between two."""
    one = torch.ones(128, 128)
    began = last = time.perf_counter()
    count, pause = 0, 0.0
    while going() or last - began < 1.0:
        one = (one @ one).clamp(-1, 1)
        now = time.perf_counter()
        pause, last, count = max(pause, now - last), now, count + 1
    return count / (last - began), pause


if __name__ == "__main__":
    main()
