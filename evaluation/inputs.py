"""What every stage of an evaluation works on."""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.progress import SILENT, Progress
from data_shards.read.reader import ShardSet
from evaluation.config import EvaluationConfig
from evaluation.encoders.pool import Pool
from evaluation.targets.target import Target


@dataclass(frozen=True)
class EvaluationInputs:
    """The set, the encoders, the tasks that run, and the configuration."""

    shards: ShardSet
    encoders: Pool
    """By name; the one that is reported is `SUBJECT`."""
    targets: Mapping[str, Target]
    """Of the tasks that run."""
    config: EvaluationConfig
    progress: Progress = SILENT
