"""MagnaTagATune with its tags and FMA without any, in their published forms: built, verified and trained from."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from data_shards.build.build import BuildConfig, build
from data_shards.inspect.verify import verify
from data_shards.read.loader import BatchLoader
from data_shards.sources import datasets
from trainers.config import ExperimentConfig
from trainers.pretrain import pretrain

MakeConfig = Callable[..., ExperimentConfig]
USES = {"labelled": "mtat", "unlabelled": "fma"}


@pytest.fixture
def config(mtat: Path, fma_root: Path, tmp_path: Path, make_config: MakeConfig) -> ExperimentConfig:
    """Both sets, built as the command line builds them, and two steps of half labelled clips."""
    for name, root, variant in (("mtat", mtat, "top50"), ("fma", fma_root, "large")):
        build(datasets.list_clips(name, root, variant), tmp_path / f"shards-{name}", BuildConfig(workers=1))
        assert verify(tmp_path / f"shards-{name}") == []
    places = {f"data__{use}": str(tmp_path / f"shards-{name}") for use, name in USES.items()}
    return make_config(optim__steps=2, run__report_every=1, **places)


def test_mtat_with_tags_and_fma_without_are_trained_from_together(config: ExperimentConfig) -> None:
    assert pretrain(config) == 0
    rows = [json.loads(line) for line in (Path(config.run.dir) / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert losses[0] != losses[1]


def test_their_batches_hold_mtats_tags_and_none_of_fmas(config: ExperimentConfig) -> None:
    with BatchLoader(config.data, frames=32_768, seed=0) as loader:
        assert loader.vocabulary == tuple(f"tag {number:02d}" for number in range(50))
        for batch in loader.batches(0, 4):
            assert batch.labels_BC[:4].any(dim=1).all()
            assert not batch.labels_BC[4:].any()
            assert batch.wave_BT.any(dim=1).all()
            assert (batch.frames_B == 32_768).all()
