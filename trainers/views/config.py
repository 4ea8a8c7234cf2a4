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
        for name in ("count", "samples", "chunk", "pool_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.pool_gpus <= 1:
            raise ValueError(f"pool_gpus must be in [0, 1], got {self.pool_gpus}")
