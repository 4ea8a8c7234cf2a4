"""A whole training on one of several gloo ranks, as `ranks` runs it."""

from typing import Any

from cluster.settings import validate
from trainers.config import ExperimentConfig
from trainers.distributed import collectives
from trainers.loop import World, train


class Quiet:
    """Reports nothing."""

    def report(self, metrics: Any) -> None:
        pass


def train_rank(tree: dict[str, Any]) -> int:
    """Train by the tree of a configuration; the exit code."""
    config = validate(ExperimentConfig, tree, "test")
    return train(config, World(rank=collectives.rank(), size=collectives.world_size()), Quiet())
