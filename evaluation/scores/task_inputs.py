"""One task's inputs, and the random draws that are keyed by its name.

Shape suffix: K test clips.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from evaluation.config import EvaluationConfig, Task
from evaluation.embeddings.embed import EmbeddingTable
from evaluation.encoders.towers import TextTower
from evaluation.kinds.kind import Kind, kind_of
from evaluation.metrics.confidence import Resamples, draw_resamples
from evaluation.targets.target import Target, parts_of


@dataclass(frozen=True)
class TaskInputs:
    """What a task's scores are computed from."""

    name: str
    """Keys the draws."""
    task: Task
    target: Target
    """Its known targets, which the task can answer (`evaluation.tasks`)."""
    tables: Mapping[str, EmbeddingTable]
    """Embeddings of the whole set by model; for a task about texts, in the space of the text tower."""
    config: EvaluationConfig
    towers: Mapping[str, TextTower] = field(default_factory=dict)
    """What embeds texts, by model."""

    @cached_property
    def kind(self) -> Kind:
        """Metrics and baselines, and the probe's loss of one about labels."""
        return kind_of(self.task)

    @cached_property
    def parts(self) -> dict[str, Target]:
        """What heads are trained on, what they stop on, and what is reported."""
        return parts_of(self.target, self.config.split)

    @property
    def test(self) -> Target:
        """What is reported."""
        return self.parts["test"]

    def generator(self, purpose: str) -> np.random.Generator:
        """The generator of one purpose of this task."""
        return generator(self.config, self.name, purpose)


def test_resamples(name: str, test: Target, config: EvaluationConfig) -> Resamples:
    """The resamples of a task: the same for every model, and for every condition it is tested under."""
    units = test.artist_K if config.confidence.cluster == "artist" else test.track_K
    rng = generator(config, name, "resamples")
    return draw_resamples(units.tolist(), resamples=config.confidence.resamples, seeds=config.seeds, rng=rng)


def generator(config: EvaluationConfig, *purpose: str) -> np.random.Generator:
    """The generator of one purpose: it depends on the configured seed and on names, never on what ran before."""
    return np.random.default_rng([config.seed, *"/".join(purpose).encode()])
