"""A report beside the run that made its encoder: values, page and figures in MLflow."""

import logging
from pathlib import Path

from cluster.settings import RunError, UserError, validate
from cluster.tracking import Tracker
from cluster.tracking_config import TrackingConfig
from evaluation.report.comparison import compared, differences_from
from evaluation.report.rows import shortest
from evaluation.report.write import Report

_log = logging.getLogger(__name__)


def log_report(report: Report, preset: str | None = None) -> str | None:
    """Add a report to the tracked run of its snapshot.

    What was logged before stays: a snapshot evaluated again has both values in its curves. A report that lies in a
    folder of its own keeps its files apart under that folder's name.

    Args:
        report: of `evaluate`.
        preset: name of the evaluation, where a run may have several: its values are a group of their own.

    Returns:
        Where to look at it, or None where the encoder's run is not here or was not tracked, or the tracker fails: a
        warning gives the reason, for the report itself is whole.
    """
    about = report.tree["provenance"]
    if about.get("snapshot") is None:  # a user's encoder: no run of ours made it
        return None
    run_dir = Path(about["snapshot"]).parent.parent
    if not (run_dir / "tracking").is_dir():
        return None
    values = report.flat()
    if preset:
        values = {f"evaluation-{preset}/{name.partition('/')[2]}": value for name, value in values.items()}
    values |= _compared_with(report, f"evaluation-{preset}" if preset else "evaluation")
    own = "" if report.folder.resolve() == run_dir.resolve() else f"/{report.folder.name}"
    try:
        config = validate(TrackingConfig, about["pretraining"]["config"]["tracking"], str(run_dir))
        with Tracker(config, run_dir) as tracker:
            tracker.metrics(values, step=about["step"], again=True)
            for name in ("report.json", "report.html", "report.md"):
                tracker.artifact(report.folder / name, folder=f"report{own}")
            for figure in report.figures.values():
                tracker.artifact(figure, folder=f"figures{own}")
            tracker.close(tracker.ended)
    except (UserError, RunError, OSError) as error:
        _log.warning("%s: the report is not shown in MLflow (%s)", report.folder, error)
        return None
    return tracker.url


def _compared_with(report: Report, group: str) -> dict[str, float]:
    """The paired differences that a terminal shows, a group of charts for every encoder that is compared with."""
    values: dict[str, float | None] = {}
    for name in compared(report.tree):
        for one in (one for one in differences_from(report.tree, name) if one.metric in shortest(report.tree)):
            key = f"{group}-against-{name}/{one.metric.replace('/', '.')}"
            values |= {key: one.value, f"{key}.low": one.low, f"{key}.high": one.high, f"{key}.p_holm": one.p_holm}
    return {key: value for key, value in values.items() if value is not None}
