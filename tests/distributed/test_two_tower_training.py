"""Two towers on several gloo ranks: world size decides nothing but speed, in chunks too."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.settings import to_tree, validate
from data_shards.build.build import BuildConfig, build
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from trainers.config import ExperimentConfig
from trainers.distributed import collectives
from trainers.loop import World, train
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

pytestmark = pytest.mark.dist

Ranks = Callable[..., list[Any]]
MakeConfig = Callable[..., ExperimentConfig]


class Quiet:
    def report(self, metrics: Any) -> None:
        pass


def train_rank(tree: dict[str, Any]) -> int:
    config = validate(ExperimentConfig, tree, "test")
    return train(config, World(rank=collectives.rank(), size=collectives.world_size()), Quiet())


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioned") / "set"
    clips = corpus(SyntheticConfig(tracks=12, seconds=6.0, valid_share=0.0, test_share=0.0, captions=10, seed=0))
    build(clips, folder, BuildConfig(workers=1))
    return folder


def rows_and_weights(
    ranks: Ranks, world: int, config: ExperimentConfig, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    placed = replace(config, run=replace(config.run, dir=str(folder)))
    assert ranks(world, train_rank, to_tree(placed), timeout_s=120) == [0] * world
    return list(read_metrics(folder / "metrics.jsonl")), open_snapshot(folder).model_state()


@pytest.mark.parametrize("settings", [{}, {"loss__pairs": "sigmoid", "loss__exchange": "ring"}])
def test_ranks_and_chunks_train_as_one_process(
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
        "optim__steps": 4,
        "run__snapshot_every": 4,
    }
    config = make_config(**(given | settings))
    rows, weights = rows_and_weights(ranks, 1, config, tmp_path / "one")
    for world in (2, 3):
        again, same = rows_and_weights(ranks, world, config, tmp_path / f"ranks-{world}")
        for name in ("loss", "loss/audio", "scale", "swap/present", "texts/equal", "modality_gap", "swap/guarded"):
            assert [row[name] for row in again] == pytest.approx([row[name] for row in rows], rel=2e-3, abs=1e-6), name
        for name, value in weights.items():
            torch.testing.assert_close(same[name], value, rtol=2e-2, atol=2e-3, msg=lambda text, n=name: f"{n}: {text}")
    micro = replace(
        config, optim=replace(config.optim, micro_batch=4), encoder=replace(config.encoder, batch_norm="micro")
    )
    chunks, _ = rows_and_weights(ranks, 1, micro, tmp_path / "chunks")
    shared, _ = rows_and_weights(ranks, 3, micro, tmp_path / "chunks-of-ranks")
    assert [row["loss"] for row in shared] == pytest.approx([row["loss"] for row in chunks], rel=2e-3)
