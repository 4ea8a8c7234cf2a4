"""A whole training on one of several gloo ranks, as `ranks` runs it."""

import sys
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


def train_own_rank(tree: dict[str, Any], folder: str) -> int:
    """The same with the user's modules in a folder; the rank's process has served other tests, and will serve more."""
    sys.path.insert(0, folder)
    try:
        return train_rank(tree)
    finally:
        sys.path.remove(folder)
