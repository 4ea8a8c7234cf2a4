"""Keys ``views.*``: the views of a clip. No torch here: a wrong key is refused before torch is imported."""

from dataclasses import dataclass
from typing import Literal

from cluster.settings import Config


@dataclass(frozen=True, kw_only=True)
class ViewsConfig(Config):
    """How many views of a clip, how long, and from where."""

    count: int = 2
    """M, views a clip, ≥ 1."""
    samples: int = 59_049
    """T, samples a view; 3^10 is SampleCNN's, 2.7 s at 22,050 Hz."""
    pair: Literal["adjacent", "near"] = "adjacent"
    """``adjacent``: two side by side, more anywhere in M segments; ``near``: at most 5 s apart."""
    chunk: int = 256
    """Rows at once: bounds the memory that making views takes."""
    placement: Literal["trainer", "pool"] = "trainer"
    """``trainer``: each training worker its own; ``pool``: Ray actors make them one step ahead; same numbers"""
    pool_workers: int = 1
    """Actors of each training worker under ``pool``, ≥ 1; each makes whole steps, and so many are made ahead."""
    pool_gpus: float = 0.0
    """GPUs Ray reserves for an actor, in [0, 1]; 0 = it works on ``resources.cpus_per_worker`` cores."""

    def __post_init__(self) -> None:
        self.require(">= 1", "count", "samples", "chunk", "pool_workers")
        self.require("in [0, 1]", "pool_gpus")
