"""What tests of studies read of the folders of their rows."""

import json
from pathlib import Path
from typing import Any

from trainers.state.metrics_log import read_metrics


def steps(folder: Path, row: str) -> list[int]:
    """Steps that a row of seed 0 has logged."""
    return [line["step"] for line in read_metrics(folder / "rows" / row / "seed-0" / "metrics.jsonl")]


def workers(folder: Path, row: str) -> list[dict[str, Any]]:
    """Where the workers of a row of seed 0 run: node and pid, by rank."""
    files = sorted((folder / "rows" / row / "seed-0" / "workers").glob("rank-*.json"))
    return [json.loads(file.read_text()) for file in files]
