"""What a pretraining puts on its page in MLflow besides curves: its description, and its encoder as a model."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.settings import RunError, UserError, flatten, to_tree
from cluster.tracking import Tracker
from cluster.tracking.pages import NOTE, description, metrics_table, settings_table
from trainers.config import ExperimentConfig

_log = logging.getLogger(__name__)


def settings_part(settings: Mapping[str, Any]) -> str:
    """The part of a description that names the settings, by dotted key, that differ from their defaults."""
    return settings_table(settings, flatten(to_tree(ExperimentConfig())))


def describe(tracker: Tracker, config: ExperimentConfig, metrics: Mapping[str, Any]) -> None:
    """Write the description: the metrics of the last step, where there are some, and the settings."""
    tracker.tags({NOTE: description(metrics_table(metrics), settings_part(flatten(to_tree(config))))})


def log_encoder(tracker: Tracker, folder: Path) -> None:
    """Give the tracker the encoder of a run's last snapshot; a warning says why where that cannot be done."""
    from trainers.inference.export import save_program
    from trainers.inference.frozen import load_encoder

    with tempfile.TemporaryDirectory(prefix="counterpoint-program-") as made:
        program = Path(made, "encoder.pt2")
        try:
            encoder = load_encoder(folder, trust_code=True)  # the user named its code in this run
            save_program(encoder, program)
        except (UserError, RunError, OSError, RuntimeError, ValueError) as error:  # a network of the user's own
            _log.warning("%s: the encoder is not shown as a model in MLflow (%s)", folder, error)
            return
        step = int(encoder.provenance["step"])
        tracker.model(program, samples=encoder.samples, width=encoder.width, step=step)
