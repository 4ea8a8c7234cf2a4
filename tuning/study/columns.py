"""Whether the evaluations of a row give what the study's columns show, before the row is trained."""

from cluster.refusals import Refusals
from cluster.validation.messages import nearest
from evaluation.config import EvaluationConfig
from evaluation.tasks.kind import metric_names
from trainers.config import ExperimentConfig
from trainers.inference.spaces import space_names
from tuning.study.config import Evaluation, Metric, parse_metric


def check_columns(row: str, experiment: ExperimentConfig, asked: Evaluation, config: EvaluationConfig) -> None:
    """Refuse metrics that an evaluation does not report, and spaces that it does not evaluate or the encoder lacks.

    Raises:
        UserError: names the column or the row, and what there is.
    """
    refusals = Refusals()
    known = [f"{name}/{metric}" for name, task in config.tasks.items() for metric in metric_names(task, config.ks)]
    for column, text in asked.metrics.items():
        metric = parse_metric(text)
        if metric.space and metric.space not in config.spaces:
            evaluated, remedy = ", ".join(config.spaces) or "none", f"set: {{spaces: [{metric.space}]}}"
            refusals.add(f"column {column}: its evaluation has spaces {evaluated}; add it: {remedy}")
        if why := _missing(metric, config, known):
            refusals.add(f"column {column}: {asked.preset} {why}")
    there = space_names(experiment)
    for space in config.spaces:
        if there is not None and space not in there:
            refusals.add(
                f"row {row}: {asked.preset} evaluates the space {space}, its encoder has {', '.join(there)}; "
                "set the evaluation's rows, or head.variant"
            )
    refusals.require_none()


def _missing(metric: Metric, config: EvaluationConfig, known: list[str]) -> str:
    """Why an evaluation has no such metric; empty where it has, or where its analyses name theirs themselves."""
    name, measured = metric.name, config.equivariance.enabled
    if metric.condition and not config.robustness.enabled:
        return f"measures nothing under {metric.condition}; set robustness.severities or robustness.corruptions"
    if name in known or (measured and name.partition("/")[0] not in config.tasks):
        return ""
    if name.startswith("distance/"):
        return "measures no distance; set equivariance.semitones or equivariance.rates"
    return f"gives no {name}{nearest(name, known) or '; it gives ' + ', '.join(known)}"
