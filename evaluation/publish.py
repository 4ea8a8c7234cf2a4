"""A report beside the run that made its encoder: values, page and figures in MLflow."""

from pathlib import Path

from cluster.settings import validate
from cluster.tracking import Tracker
from cluster.tracking_config import TrackingConfig
from evaluation.report import Report


def publish(report: Report) -> str | None:
    """Add a report to the tracked run of its snapshot.

    Returns:
        Where to look at it, or None where the encoder's run is not here or was not tracked.
    """
    about = report.tree["provenance"]
    if about.get("snapshot") is None:  # a user's encoder: no run of ours made it
        return None
    run_dir = Path(about["snapshot"]).parent.parent
    if not (run_dir / "tracking").is_dir():
        return None
    config = validate(TrackingConfig, about["pretraining"]["config"]["tracking"], str(run_dir))
    with Tracker(config, run_dir) as tracker:
        tracker.metrics(report.flat(), step=about["step"])
        for name in ("report.json", "report.html", "report.md"):
            tracker.artifact(report.folder / name, folder="report")
        for figure in report.figures.values():
            tracker.artifact(figure, folder="figures")
    return tracker.url
