"""The whole training on several gloo ranks: world size decides nothing but speed."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import flatten, to_tree, validate
from trainers import collectives
from trainers.config import ExperimentConfig
from trainers.loop import World, train
from trainers.metrics_log import read_metrics
from trainers.snapshot import open_snapshot

pytestmark = pytest.mark.dist

Ranks = Callable[..., list[Any]]
MakeConfig = Callable[..., ExperimentConfig]


class Quiet:
    def report(self, figures: Any) -> None:
        pass


def train_rank(tree: dict[str, Any]) -> int:
    config = validate(ExperimentConfig, tree, "test")
    return train(config, World(rank=collectives.rank(), size=collectives.world_size()), Quiet())


def run(ranks: Ranks, world: int, config: ExperimentConfig, **changes: Any) -> Path:
    steps = changes.pop("steps", config.optim.steps)
    config = replace(config, optim=replace(config.optim, steps=steps), run=replace(config.run, **changes))
    assert ranks(world, train_rank, to_tree(config), timeout_s=120) == [0] * world
    return Path(config.run.dir)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl")]


def weights(folder: Path) -> bytes:
    return (open_snapshot(folder).path / "model.safetensors").read_bytes()


@pytest.fixture
def config(make_config: MakeConfig) -> ExperimentConfig:
    return make_config(data__batch=12, optim__steps=4, run__snapshot_every=1)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_any_number_of_ranks_has_the_loss_of_one(
    ranks: Ranks, config: ExperimentConfig, tmp_path: Path, world: int
) -> None:
    one = losses(run(ranks, 1, config, dir=str(tmp_path / "one")))
    many = losses(run(ranks, world, config, dir=str(tmp_path / "many")))
    assert many[0] == pytest.approx(one[0], rel=2e-6)
    # Later steps differ by how floating-point sums were ordered, which Adam's division amplifies.
    assert many == pytest.approx(one, rel=2e-3)


@pytest.mark.parametrize("world", [2, 3])
def test_a_run_resumed_on_the_same_ranks_ends_with_the_same_bits(
    ranks: Ranks, config: ExperimentConfig, tmp_path: Path, world: int
) -> None:
    whole = run(ranks, world, config, dir=str(tmp_path / "whole"))
    for steps in (1, 3, 4):
        parts = run(ranks, world, config, dir=str(tmp_path / "parts"), steps=steps)
    assert losses(parts) == losses(whole)
    assert weights(parts) == weights(whole)


def test_torchrun_trains_as_any_two_ranks_do(ranks: Ranks, config: ExperimentConfig, tmp_path: Path) -> None:
    two = run(ranks, 2, config, dir=str(tmp_path / "two"))
    tree = flatten(to_tree(replace(config, run=replace(config.run, dir=str(tmp_path / "torchrun")))))
    words = [f"{key}={json.dumps(value)}" for key, value in tree.items()]
    (tmp_path / "preset.yaml").write_text("")
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "counterpoint", "pretrain"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "preset.yaml"), *words],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("snapshots/last") == 1
    assert losses(tmp_path / "torchrun") == losses(two)
    assert weights(tmp_path / "torchrun") == weights(two)


def test_a_learnable_temperature_moves_alike_on_any_number_of_ranks(
    ranks: Ranks, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(data__batch=12, optim__steps=4, loss__learnable=True)
    found = []
    for world in (1, 3):
        folder = run(ranks, world, config, dir=str(tmp_path / str(world)))
        found.append(float(open_snapshot(folder).model_state()["loss.log_temperature"]))
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert abs(found[0] - math.log(0.1)) > 1e-4


def test_micro_batches_are_the_same_however_they_are_spread(
    ranks: Ranks, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(data__batch=12, optim__steps=3, optim__micro_batch=3, encoder__batch_norm="micro")
    one, two, four = (losses(run(ranks, world, config, dir=str(tmp_path / str(world)))) for world in (1, 2, 4))
    assert two == pytest.approx(one, rel=2e-3)
    assert four == pytest.approx(one, rel=2e-3)


def test_restarts_with_four_then_two_then_three_ranks_see_the_same_batches(
    ranks: Ranks, config: ExperimentConfig, tmp_path: Path
) -> None:
    one = losses(run(ranks, 1, config, dir=str(tmp_path / "one")))
    for world, steps in ((4, 1), (2, 3), (3, 4)):
        folder = run(ranks, world, config, dir=str(tmp_path / "many"), steps=steps)
    assert losses(folder) == pytest.approx(one, rel=2e-3)
