"""What an evaluation asks for against what the set, the encoders and the tasks can give, before anything is embedded.

A mistake that is found after an hour of embedding has cost an hour; each is one message with the key and the remedy.
"""

from collections.abc import Iterable

from cluster.settings import UserError
from cluster.validation.messages import nearest
from evaluation.analyses.equivariance import check_tracks
from evaluation.analyses.projection import check_projection
from evaluation.config import EvaluationConfig
from evaluation.embeddings.embed import check_rate
from evaluation.encoders.encoder import SUBJECT, spaces_of
from evaluation.encoders.sources import is_factory, load_any
from evaluation.inputs import EvaluationInputs
from evaluation.report.published import protocols
from evaluation.tasks.kind import kind_of, metric_names
from trainers.inference.spaces import space_in


def check_request(inputs: EvaluationInputs) -> None:
    """Refuse whatever could not be answered."""
    shards, config = inputs.shards, inputs.config
    for encoder in inputs.encoders.values():
        check_rate(encoder, shards.rate, shards.uri, resample=config.chunking.resample)
    spaces = spaces_of(inputs.encoders[SUBJECT])
    for space in config.spaces:
        space_in(spaces, space, "spaces")
    _check_names(inputs)
    if config.robustness.enabled and not any(config.tasks[name].probe for name in inputs.targets):
        raise UserError(
            f"robustness is of probes, and none of {', '.join(inputs.targets)} has one; set tasks.NAME.probe=true"
        )
    if config.projection.task is not None:
        check_projection(inputs)
    if config.equivariance.enabled:
        check_tracks(inputs)


def check_own_evaluation(config: EvaluationConfig) -> None:
    """Make the own kinds of an evaluation's tasks, and run the own encoders that it compares with.

    Raises:
        UserError: names the part and what does not fit.
    """
    for task in config.tasks.values():
        kind_of(task)
    for source in config.against.values():
        if is_factory(source):
            load_any(source)


def _check_names(inputs: EvaluationInputs) -> None:
    config = inputs.config
    metrics = [f"{name}/{metric}" for name in inputs.targets for metric in metric_names(config.tasks[name], config.ks)]
    for claim in config.claims:
        _known("claims", claim, metrics)
    for name, task in config.tasks.items():
        if task.published is not None:
            _known(f"tasks.{name}.published", task.published, protocols())


def _known(key: str, word: str, known: Iterable[str]) -> None:
    names = list(known)
    if word not in names:
        raise UserError(f"{key}: no {word}" + (nearest(word, names) or f"; known: {', '.join(names)}"))
