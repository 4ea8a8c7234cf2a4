"""A report beside the run that made its encoder: values, page and figures in MLflow."""

import logging
from collections.abc import Sequence
from pathlib import Path

from cluster.settings import RunError, UserError, flatten, validate
from cluster.tracking import Tracker
from cluster.tracking.apart import is_running
from cluster.tracking.config import TrackingConfig
from cluster.tracking.pages import NOTE, description, evaluation_name, objective_name, picture, table
from evaluation.encoders.encoder import SUBJECT
from evaluation.report.comparison import compared, differences_from
from evaluation.report.rows import comparison_rows, reference, shortest, text_rows
from evaluation.report.write import Report
from trainers.monitor.run_page import settings_part

_log = logging.getLogger(__name__)


def log_report(report: Report, preset: str | None = None, *, objective: Sequence[str] = ()) -> str | None:
    """Add a report to the tracked run of its snapshot.

    What was logged before stays: a snapshot evaluated again has both values in its curves. A report that lies in a
    folder of its own keeps its files apart under that folder's name.

    Args:
        report: of `evaluate`.
        preset: name of the evaluation, where a run may have several: its values are a group of their own.
        objective: metrics that a sweep maximises: they are the run's first group of curves.

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
    found = report.flat()
    values = {evaluation_name(name, preset): value for name, value in found.items()}
    values |= {objective_name(name): found[name] for name in objective if name in found}
    values |= _differences(report, preset)
    own = "" if report.folder.resolve() == run_dir.resolve() else f"/{report.folder.name}"
    try:
        config = validate(TrackingConfig, about["pretraining"]["config"]["tracking"], str(run_dir))
        with Tracker(config, run_dir, apart=is_running()) as tracker:  # MLflow is imported there, and not here again
            tracker.metrics(values, step=about["step"], again=True)
            for name in ("report.json", "report.html", "report.md"):
                tracker.artifact(report.folder / name, folder=f"report{own}")
            for figure in report.figures.values():
                tracker.artifact(figure, folder=f"figures{own}")
            tracker.dataset("evaluation", about["manifest_hash"], about["evaluation"]["data"]["shards"], "evaluation")
            settings = settings_part(flatten(about["pretraining"]["config"]))
            seen = [picture(f"figures{own}/{figure.name}") for figure in report.figures.values()][:1]
            tracker.tags({NOTE: description(*_short_tables(report), *seen, settings)})
            tracker.close(tracker.ended)
    except (UserError, RunError, OSError) as error:
        _log.warning("%s: the report is not shown in MLflow (%s)", report.folder, error)
        return None
    return tracker.url


def _short_tables(report: Report) -> list[str]:
    """Of a description: what a terminal shows, and a table for every encoder that is compared with."""
    baseline, shown = reference(report.tree), shortest(report.tree)
    rows = [
        [f"`{row.metric}`", f"{row.value} {row.interval}", row.baselines[baseline], row.difference]
        for row in text_rows(report.tree)
        if row.metric in shown
    ]
    tables = [table(["metric", SUBJECT, baseline, f"difference from {baseline}"], rows)]
    for name in compared(report.tree):
        head, rows = comparison_rows(report.tree, name)
        tables.append(table(head, [[f"`{row[0]}`", *row[1:]] for row in rows]))
    return tables


def _differences(report: Report, preset: str | None) -> dict[str, float]:
    """The paired differences that a terminal shows, a group of charts for every encoder that is compared with."""
    values: dict[str, float | None] = {}
    for name in compared(report.tree):
        for one in (one for one in differences_from(report.tree, name) if one.metric in shortest(report.tree)):
            key = evaluation_name(one.metric, preset, against=name)
            values |= {key: one.value, f"{key}.low": one.low, f"{key}.high": one.high, f"{key}.p_holm": one.p_holm}
    return {key: value for key, value in values.items() if value is not None}
