"""What a snapshot costs the training thread: written in line, and in the background from a copy.

Run as ``python -m benchmarks.snapshots [--gb 1] [--folder DIR]``. The state is a model and Adam's two moments, ``--gb``
in all. A loop of small matrix products stands for the training loop: its rate is measured while nothing is written and
while a copy is, with its longest pause, which shows whether the writer holds the interpreter's lock.
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
        rows += _background(Path(folder) / "background", model, optimizer)
    for row in rows:
        print(
            ", ".join(f"{name} {value:.3f}" if isinstance(value, float) else str(value) for name, value in row.items())
        )
    record = {"machine": platform.machine(), "gb": layers * 48e6 / 1e9, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "snapshots.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _in_line(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    began = time.perf_counter()
    SnapshotWriter(folder, keep=1, background=False).save(1, model, optimizer, ABOUT)
    waited = time.perf_counter() - began
    return {"how": "in line", "waited_s": waited, "share_of_a_minute": waited / MINUTE}


def _background(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    writer, rows = SnapshotWriter(folder, keep=1, background=True), []
    for number in range(3):
        alone, _ = _rate(lambda: False)
        began = time.perf_counter()
        writer.save(number, model, optimizer, ABOUT)
        waited = time.perf_counter() - began
        thread = writer._thread
        assert thread is not None
        beside, pause = _rate(thread.is_alive)
        written = time.perf_counter() - began
        writer.wait()
        rows.append(
            {
                "how": "background, first" if number == 0 else "background",
                "waited_s": waited,
                "share_of_a_minute": waited / MINUTE,
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
