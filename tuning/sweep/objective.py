"""What a trial is worth: metrics of its frozen encoder on the validation split; the test split stays unseen."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cluster.files.locks import sole_writer
from cluster.settings import RunError, UserError, to_tree, validate
from evaluation.config import EvaluationConfig
from evaluation.tasks.kind import metric_names
from tuning.sweep.config import ObjectiveConfig, read_evaluation


def objective_evaluation(config: ObjectiveConfig, shards: str | None) -> EvaluationConfig:
    """The objective's evaluation: only the tasks that its metrics need, on the validation split.
    For a metric that no task gives the UserError names those there are.
    """
    tree = dict(read_evaluation(config))
    tasks = validate(EvaluationConfig, tree, config.evaluation).tasks
    known = reported(config.evaluation, tree)
    unknown = [metric for metric in config.metrics if metric not in known]
    if unknown:
        raise UserError(
            f"objective.metrics: {config.evaluation} gives no {', '.join(unknown)}; it gives {', '.join(known)}"
        )
    wanted = {metric.partition("/")[0] for metric in config.metrics}
    kept: dict[str, Any] = {name: tree["tasks"][name] for name in tasks if name in wanted}
    for section in ("robustness", "equivariance", "projection", "against", "claims"):
        tree.pop(section, None)
    tree |= {
        "data": {**tree.get("data", {}), "shards": shards},
        "tasks": kept,
        "seeds": config.seeds,
        "split": "valid",
    }
    return validate(EvaluationConfig, tree, config.evaluation)


def reported(where: str, tree: Mapping[str, Any]) -> list[str]:
    """Every metric that an evaluation preset reports, ``task/metric``."""
    config = validate(EvaluationConfig, tree, where)
    return [f"{name}/{metric}" for name, task in config.tasks.items() for metric in metric_names(task, config.ks)]


def check_targets(config: EvaluationConfig) -> None:
    """Refuse shards on which a metric would be undefined or have no clips, before anything is trained.
    The UserError names the task and what is missing; none is optional here.
    """
    from data_shards.read.reader import ShardSet
    from evaluation.runnable import read_targets

    assert config.data.shards is not None
    needed = {name: replace(task, optional=False) for name, task in config.tasks.items()}
    with ShardSet.open(config.data.shards) as shards:
        try:
            read_targets(shards.index, replace(config, tasks=needed))
        except UserError as error:
            raise UserError(f"objective: {config.data.shards}: {error}") from None


def evaluate_run(run_dir: Path, evaluation: EvaluationConfig, metrics: tuple[str, ...], out: Path) -> list[float]:
    """Evaluate a run's last snapshot, show the report beside it in the tracker, and return the metrics.
    Raises RunError if one is undefined.
    """
    from evaluation.encoders.encoder import SUBJECT
    from evaluation.evaluate import evaluate_encoders
    from evaluation.report.tracking import log_report
    from trainers.inference.frozen import load_encoder

    trained = load_encoder(run_dir, evaluation.device, trust_code=True)  # the sweep's own preset named it
    about = {key: trained.provenance.get(key) for key in ("snapshot", "step")} | {"pretraining": trained.provenance}
    with sole_writer(out, "choose another sweep.dir"):
        report = evaluate_encoders({SUBJECT: trained}, evaluation, out, about=about)
    log_report(report, objective=metrics if evaluation.split == "valid" else ())  # a test value is no objective
    shutil.rmtree(out / "embeddings", ignore_errors=True)  # a sweep keeps one snapshot a trial, from which they come
    values = [report.tree["metrics"][metric]["value"] for metric in metrics]
    if None in values:
        undefined = [metric for metric, value in zip(metrics, values, strict=True) if value is None]
        raise RunError(
            f"{', '.join(undefined)} is undefined on the {evaluation.split} clips of {evaluation.data.shards}"
        )
    return [float(value) for value in values]


def on_split(evaluation: EvaluationConfig, split: Literal["test", "valid"], device: str) -> dict[str, Any]:
    """The same evaluation on a split and a device, as a tree that travels to a trial."""
    return to_tree(replace(evaluation, split=split, device=device))
