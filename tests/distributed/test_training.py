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
import torch

from cluster.settings import flatten, to_tree
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from tests.distributed.training import train_own_rank, train_rank
from trainers.config import ExperimentConfig
from trainers.distributed import collectives
from trainers.losses.supervised import supervised_loss
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

pytestmark = pytest.mark.dist

Ranks = Callable[..., list[Any]]
MakeConfig = Callable[..., ExperimentConfig]


def run(ranks: Ranks, world: int, config: ExperimentConfig, *, own: Path | None = None, **changes: Any) -> Path:
    steps = changes.pop("steps", config.optim.steps)
    config = replace(config, optim=replace(config.optim, steps=steps), run=replace(config.run, **changes))
    call = (train_own_rank, to_tree(config), str(own)) if own else (train_rank, to_tree(config))
    assert ranks(world, *call, timeout_s=120) == [0] * world
    return Path(config.run.dir)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl")]


def weights(folder: Path) -> bytes:
    return (open_snapshot(folder).path / "model.safetensors").read_bytes()


@pytest.fixture
def config(make_config: MakeConfig) -> ExperimentConfig:
    return make_config(data__batch=12, optim__steps=4, run__snapshot_every=1)


def test_a_snapshot_names_what_any_rank_replaced_since_the_run_began(
    ranks: Ranks, config: ExperimentConfig, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    build(corpus(SyntheticConfig(tracks=16, seconds=4.0, valid_share=0.0, test_share=0.0)), shards, BuildConfig())
    index = read_index(shards)
    for row in range(0, len(index), 3):
        with (shards / index.shards[index.shard[row]].name).open("r+b") as file:
            file.seek(int(index.offset[row] + index.size[row] // 2))
            file.write(b"\xff\x00\xff\x00")
    data = replace(config.data, labelled=str(shards), b_s=1.0, max_replaced=1.0)
    config = replace(config, data=data)
    named = {}
    for world in (1, 2):
        folder = str(tmp_path / str(world))
        run(ranks, world, config, dir=folder, steps=2)
        named[world] = open_snapshot(run(ranks, world, config, dir=folder)).provenance["replaced"]
    assert len(named[1]) > 4
    assert {one[0] for one in named[1]} > {0, 3}
    assert sorted(map(tuple, named[2])) == sorted(map(tuple, named[1]))


OWN = """
from torch import nn

class Drops(nn.Module):
    reads, width = "mel", 8

    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv1d(64, 8, 3), nn.Dropout(0.4)

    def forward(self, mel):
        return self.drop(self.conv(mel).mean(2))
"""


def test_two_ranks_resume_a_network_with_dropout_bit_for_bit(
    ranks: Ranks, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_network_of_ranks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    name = {"encoder__name": "own_network_of_ranks:Drops", "encoder__channels": None}
    config = make_config(data__batch=12, optim__steps=4, run__snapshot_every=1, **name)
    unbroken = run(ranks, 2, config, own=tmp_path, dir=str(tmp_path / "unbroken"))
    run(ranks, 2, config, own=tmp_path, dir=str(tmp_path / "broken"), steps=2)
    broken = run(ranks, 2, config, own=tmp_path, dir=str(tmp_path / "broken"))
    assert losses(unbroken) == losses(broken)
    assert weights(unbroken) == weights(broken)


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
    tree["resources.num_workers"] = 1  # the default: the world is torchrun's, no rank starts Ray
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


@pytest.mark.parametrize(("objective", "column"), [("bce", "tags"), ("cross_entropy", "key")])
def test_supervised_baselines_have_the_loss_of_one_rank_on_any(
    ranks: Ranks, make_config: MakeConfig, tmp_path: Path, objective: str, column: str
) -> None:
    config = make_config(
        data__batch=12,
        data__b_s=1,
        data__vocabulary=column,
        loss__objective=objective,
        head__width=None,
        optim__steps=3,
    )
    one, two = (losses(run(ranks, world, config, dir=str(tmp_path / str(world)))) for world in (1, 2))
    assert two[0] == pytest.approx(one[0], rel=2e-6)
    assert two == pytest.approx(one, rel=2e-3)


def supervised_gradient(objective: str) -> tuple[float, list[float]]:
    """Loss and DDP's mean gradient of rows r::W, of which only some ranks hold labelled ones."""
    g = torch.Generator().manual_seed(0)
    features, labels = torch.randn(12, 5, dtype=torch.float64, generator=g), torch.zeros(12, 4, dtype=torch.bool)
    labels[::2] = torch.rand(6, 4, generator=g) < 0.6
    mine = slice(collectives.rank(), None, collectives.world_size())
    weight = torch.randn(5, 4, dtype=torch.float64, generator=g).requires_grad_()
    loss = supervised_loss(features[mine] @ weight, labels[mine], objective=objective)
    (gradient,) = torch.autograd.grad(loss, weight)
    return loss.item(), collectives.all_reduce(gradient, "mean").flatten().tolist()


@pytest.mark.parametrize("objective", ["bce", "cross_entropy"])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_supervised_gradient_is_that_of_the_global_batch(ranks: Ranks, objective: str, world: int) -> None:
    value, gradient = supervised_gradient(objective)
    answers = ranks(world, supervised_gradient, objective)
    assert len({loss for loss, _ in answers}) == 1, "the same bits on every rank"
    assert answers[0][0] == pytest.approx(value, rel=1e-12)
    assert answers[0][1] == pytest.approx(gradient, rel=1e-10)


def test_ranks_agree_on_the_quick_score_and_on_the_figures_of_the_pair_matrix(
    ranks: Ranks, make_config: MakeConfig, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    source = SyntheticConfig(tracks=21, seconds=4.0, valid_share=0.5, test_share=0.0, seed=0)
    build(corpus(source), shards, BuildConfig(workers=1))
    config = make_config(
        data__labelled=str(shards),
        data__batch=12,
        optim__steps=2,
        optim__precision="bfloat16",
        optim__ema_decay=0.9,
        run__quick_every=1,
    )
    one, two = (
        list(read_metrics(run(ranks, world, config, dir=str(tmp_path / str(world))) / "metrics.jsonl"))
        for world in (1, 2)
    )
    for name in ("positives", "sparsity", "sparsity_labelled"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one]), name
    for name in ("alignment", "uniformity", "effective_rank"):  # of bfloat16 products
        found, expected = ([row[name] for row in rows if name in row] for rows in (two, one))
        assert len(expected) >= 1, name
        assert found == pytest.approx(expected, rel=0.01), name
    assert [row["quick/knn"] for row in two] == pytest.approx([row["quick/knn"] for row in one], abs=0.05)
    assert open_snapshot(tmp_path / "2" / "snapshots" / "best").score == max(row["quick/knn"] for row in two)


def searches_unused() -> bool:
    used, idle = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

    class Model(torch.nn.Module):
        def __init__(self, *, idle: torch.nn.Module | None) -> None:
            super().__init__()
            self.used, self.idle = used, idle

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.used(x), x

    found = []
    for part in (None, idle):
        wrapped = collectives.data_parallel(Model(idle=part), torch.ones(2, 3))
        assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
        found.append(wrapped.find_unused_parameters)
        for _ in range(2):  # the second forward is where DDP refuses what the first left unfinished
            torch.autograd.backward(wrapped(torch.ones(2, 3))[0].sum())
    return found == [False, True]


def test_unused_parameters_are_searched_only_where_an_example_leaves_some(ranks: Ranks) -> None:
    assert ranks(2, searches_unused) == [True, True]
