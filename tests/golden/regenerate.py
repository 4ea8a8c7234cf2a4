"""The golden loss trace: twenty steps of a tiny run on CPU. ``make golden`` writes it; say in the commit why it moved.

The trace pins the numbers of the whole pipeline (rendering, shards, sampling, augmentation, front-end, encoder,
BatchNorm, loss, optimiser). A refactoring that claims to change no numbers leaves it as it is.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cluster.settings import load_config
from data_shards.build.build import BuildConfig, build
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from trainers.config import ExperimentConfig
from trainers.loop import World, train
from trainers.state.metrics_log import read_metrics

TRACE = Path(__file__).with_name("loss_trace.json")
STEPS = 20


class _Quiet:
    def report(self, metrics: Any) -> None:
        pass


def trace(folder: Path) -> list[float]:
    """Losses of twenty steps on one thread: twelve labelled and twelve unlabelled tracks of six seconds, batch 8."""
    whole = SyntheticConfig(tracks=12, seconds=6.0, valid_share=0.0, test_share=0.0, seed=7)
    bare = [
        replace(clip, multilabel={}, categorical={}, numeric={})
        for clip in corpus(SyntheticConfig(tracks=12, seconds=6.0, valid_share=0.0, test_share=0.0, seed=8))
    ]
    build(corpus(whole), folder / "labelled", BuildConfig(workers=1))
    build(bare, folder / "unlabelled", BuildConfig(workers=1))
    config = load_config(
        ExperimentConfig,
        None,
        {
            "data.labelled": str(folder / "labelled"),
            "data.unlabelled": str(folder / "unlabelled"),
            "data.batch": 8,
            "data.b_s": 0.5,
            "views.samples": 16_384,
            "frontend.kind": "mel",
            "encoder.name": "mel_cnn",
            "encoder.channels": 4,
            "optim.steps": STEPS,
            "optim.learning_rate": 1e-3,
            "tracking.enabled": False,
            "run.dir": str(folder / "run"),
        },
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(config, World(), _Quiet())
    finally:
        torch.set_num_threads(threads)
    return [row["loss"] for row in read_metrics(folder / "run" / "metrics.jsonl")]


def main() -> None:
    """Write the trace of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        losses = trace(Path(folder))
    TRACE.write_text(json.dumps({"torch": torch.__version__, "losses": losses}, indent=1) + "\n")


if __name__ == "__main__":
    main()
