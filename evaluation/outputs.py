"""The places that an evaluation writes to. Imports no torch, so that a wrong place is refused at once."""

from pathlib import Path

from cluster.files.outputs import require_writable_file, require_writable_folder
from evaluation.config import EvaluationConfig
from evaluation.metrics.samples import RESAMPLES

FILES = ("report.json", "report.md", "report.html", "report.csv", "report.tex", RESAMPLES)
"""Beside the figures."""


def check_outputs(out: Path, config: EvaluationConfig) -> None:
    """Try every place that an evaluation writes to."""
    folders = {"--out": [out, out / "splits"], "cache": [Path(config.cache or out / "embeddings")]}
    folders["data.cache"] = [Path(config.data.cache)] if config.data.cache else []
    for key, places in folders.items():
        for place in places:
            require_writable_folder(place, key if key != "cache" or config.cache else "--out")
    for name in FILES:
        if (out / name).exists():
            require_writable_file(out / name, "--out")
