"""What runs in a sweep: jobs, and where they come from."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Curve = list[tuple[int, float]]
"""(step, value) in order."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep: what travels to its actor."""

    name: str
    experiment: dict[str, Any]
    """Tree of an `ExperimentConfig`, its folder among it."""
    evaluation: dict[str, Any]
    """Tree of an `EvaluationConfig`."""
    metrics: tuple[str, ...]
    parent: str
    """Folder of the sweep, under which the tracker shows the run."""
    metric: str | None = None
    """Column of metrics.jsonl that is reported while the run is under way."""
    evaluation_cpus: float = 0.0
    """Cores, and GPUs, of a task that evaluates; 0 evaluates in the actor, which holds its own."""
    evaluation_gpus: float = 0.0

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.experiment["run"]["dir"])

    def packed(self) -> dict[str, Any]:
        """As Tune carries it: one string, which is no search space."""
        return {"job": json.dumps(asdict(self))}

    @classmethod
    def unpacked(cls, config: Mapping[str, Any]) -> "Job":
        """From what Tune carried."""
        tree = json.loads(config["job"])
        return cls(**tree | {"metrics": tuple(tree["metrics"])})


class Source(ABC):
    """Where jobs come from, and what is reported about them; numbers name them."""

    @abstractmethod
    def next(self) -> tuple[int, Job] | None:
        """The next job; None when there is none left."""

    def reported(self, number: int, row: Mapping[str, Any]) -> None:  # noqa: B027 who shows nothing needs none
        """A metric of a job under way."""

    @abstractmethod
    def done(self, number: int, result: Mapping[str, Any], curve: Curve) -> None:
        """A job has its values."""

    @abstractmethod
    def stopped(self, number: int, curve: Curve) -> None:
        """The scheduler stopped it."""

    def crashed(self, number: int, reason: str) -> None:  # noqa: B027
        """It crashed and is started again."""

    @abstractmethod
    def again(self, number: int) -> None:
        """Hand it out once more."""

    @abstractmethod
    def failed(self, number: int, reason: str) -> None:
        """It crashed once too often."""
