"""Two towers on several gloo ranks: world size decides nothing but speed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.settings import to_tree
from data_shards.build.build import BuildConfig, build
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from tests.distributed.training import Quiet, train_rank
from trainers.config import ExperimentConfig
from trainers.loop import World, train
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

pytestmark = pytest.mark.dist

Ranks = Callable[..., list[Any]]
MakeConfig = Callable[..., ExperimentConfig]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioned") / "set"
    clips = corpus(SyntheticConfig(tracks=12, seconds=6.0, valid_share=0.0, test_share=0.0, captions=10, seed=0))
    build(clips, folder, BuildConfig(workers=1))
    return folder


def rows_and_weights(folder: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    return list(read_metrics(folder / "metrics.jsonl")), open_snapshot(folder).model_state()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss__pairs": "sigmoid", "loss__exchange": "ring"},
        {"optim__micro_batch": 3, "encoder__batch_norm": "micro"},
    ],
)
def test_two_ranks_train_as_one_process(
    ranks: Ranks, make_config: MakeConfig, captioned: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    given = {
        "data__labelled": str(captioned),
        "data__batch": 12,
        "data__b_s": 1.0,
        "views__count": 2,
        "loss__objective": "music_text",
        "loss__learnable": True,
        "loss__temperature": 0.07,
        "text__encoder": "words",
        "text__hidden": 16,
        "text__swap__start": 0.5,
        "optim__steps": 3,
        "run__snapshot_every": 3,
    }
    config = make_config(**(given | settings))
    folders = [tmp_path / name for name in ("one", "two")]
    one, two = (replace(config, run=replace(config.run, dir=str(folder))) for folder in folders)
    assert train(one, World(), Quiet()) == 0
    assert ranks(2, train_rank, to_tree(two), timeout_s=240) == [0, 0]
    (rows, weights), (again, same) = map(rows_and_weights, folders)
    for name in ("loss", "loss/audio", "scale", "swap/present", "texts/equal", "modality_gap", "swap/guarded"):
        assert [row[name] for row in again] == pytest.approx([row[name] for row in rows], rel=2e-3, abs=1e-6), name
    for name, value in weights.items():
        torch.testing.assert_close(same[name], value, rtol=2e-2, atol=2e-3, msg=name)
