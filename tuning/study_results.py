"""From the reports of a study's runs to its table: means over seeds, paired intervals, claims.

All runs of a study are judged on the same resamples of the test set, so the difference of two rows is paired, draw by
draw; where a row has several seeds, a draw takes them with replacement, the same for every row.

Shape suffixes: S seeds, R resamples + 1; entry 0 is the test set itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from evaluation.confidence import as_row, holm, two_sided_p
from evaluation.report import REFERENCE, SUBJECT
from evaluation.resamples import RESAMPLES, load_resamples
from evaluation.robustness import CLEAN
from trainers.metrics_log import read_metrics
from tuning.study_config import Claim, Study
from tuning.study_plan import Plan, Run
from tuning.study_runs import is_done, judged_folder

LEVEL = 0.95
CHANGE = " change under "
BASELINES = (REFERENCE, "constant")
"""Models that a report has besides the run's own; the first run's stand for all."""
Values = dict[str, NDArray[np.float64]]
"""Column → values of a row on the test set and its resamples, (R,); one entry for figures of the training log."""


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    values: Values
    by_seed: dict[str, list[float | None]]
    """Column → the value of each seed; None where it is undefined (the sparsity of labels that are not there)."""
    seeds: int


def collect(plan: Plan) -> dict[str, Line]:
    """Rows whose runs are all done, and the baselines, by name.

    Args:
        plan: of the study.
    """
    lines = {}
    for row in plan.rows:
        runs = [run for run in plan.runs if run.row == row.name]
        if all(is_done(run) for run in runs):
            lines[row.name] = _line([_read(run, plan.study, SUBJECT) for run in runs])
    finished = next((run for run in plan.runs if is_done(run)), None)
    if finished is not None and plan.study.judges:
        lines |= {name: _line([_read(finished, plan.study, name)]) for name in BASELINES}
    return lines


def study_tree(plan: Plan, lines: Mapping[str, Line], failed: Mapping[str, str]) -> dict[str, Any]:
    """The study as plain JSON types."""
    study = plan.study
    columns = [column for judge in study.judges for column in judge.metrics] + list(study.figures)
    return {
        "schema_version": 1,
        "title": study.title,
        "source": study.source,
        "scale": plan.scale,
        "about": plan.about,
        "reduced": {key: {"paper": there, "here": here} for key, (there, here) in plan.reduced.items()},
        "columns": columns,
        "rows": [
            {
                "name": name,
                "place": next((row.place for row in plan.rows if row.name == name), {}),
                "seeds": line.seeds,
                "values": {column: as_row(values_R, LEVEL) for column, values_R in line.values.items()},
                "by_seed": line.by_seed,
                "published": study.published.get(name, {}),
            }
            for name, line in lines.items()
        ],
        "published": study.published,
        "claims": judge_claims(study.claims, lines),
        "failed": dict(failed),
        "missing": [row.name for row in plan.rows if row.name not in lines],
        "notes": list(study.notes),
    }


def judge_claims(claims: tuple[Claim, ...], lines: Mapping[str, Line]) -> list[dict[str, Any]]:
    """Every claim's difference, its interval, Holm's p over all of them, and whether it holds.

    A claim holds when the interval of the difference lies on its side of zero; it is undecided when a row is missing.
    """
    judged: list[dict[str, Any]] = []
    p_values: dict[int, float] = {}
    for number, claim in enumerate(claims):
        entry: dict[str, Any] = {name: getattr(claim, name) for name in ("says", "metric", "row", "over", "sign")}
        if {claim.row, claim.over} <= set(lines):
            delta_R = lines[claim.row].values[claim.metric] - lines[claim.over].values[claim.metric]
            entry |= as_row(delta_R, LEVEL)
            p_values[number] = two_sided_p(delta_R)
            low, high = entry["low"], entry["high"]
            entry["holds"] = low is not None and (low > 0 if claim.sign == "higher" else high < 0)
        judged.append({"holds": None} | entry)
    for number, p in holm(p_values).items():
        judged[number]["p_holm"] = p
    return judged


def over_seeds(values_SR: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over seeds, entry 0 over each once, every resample over its own draw of them with replacement.

    The draw depends on the shape alone, so that rows with as many seeds stay paired.

    >>> over_seeds(np.array([[1.0, 1.0], [3.0, 3.0]]))[0]
    np.float64(2.0)
    """
    seeds, resamples = values_SR.shape
    drawn_RS = np.random.default_rng([seeds, resamples]).integers(seeds, size=(resamples, seeds))
    drawn_RS[0] = np.arange(seeds)
    mean_R: NDArray[np.float64] = values_SR[drawn_RS, np.arange(resamples)[:, None]].mean(1)
    return mean_R


def late_median(run: Run, figure: str) -> float:
    """Median of a figure of metrics.jsonl over the second half of a run's steps; NaN where it has none."""
    rows = list(read_metrics(run.folder / "metrics.jsonl"))
    found = [row[figure] for row in rows[len(rows) // 2 :] if figure in row]
    return float(np.median(found)) if found else float("nan")


def _line(runs: list[Values]) -> Line:
    stacked = {column: np.stack([values[column] for values in runs]) for column in runs[0]}
    return Line(
        values={column: over_seeds(values_SR) for column, values_SR in stacked.items()},
        by_seed={
            column: [value if np.isfinite(value) else None for value in values_SR[:, 0].tolist()]
            for column, values_SR in stacked.items()
        },
        seeds=len(runs),
    )


def _read(run: Run, study: Study, model: str) -> Values:
    values: Values = {}
    for number, (judge, _) in enumerate(run.judges):
        found = load_resamples(judged_folder(run, number) / RESAMPLES)
        values |= {column: _metric(found, metric, model) for column, metric in judge.metrics.items()}
    if study.figures and model == SUBJECT:
        values |= {column: np.array([late_median(run, figure)]) for column, figure in study.figures.items()}
    return values


def _metric(found: Mapping[str, Mapping[str, NDArray[np.float64]]], metric: str, model: str) -> NDArray[np.float64]:
    """A metric of a report; ``tags/ap change under reverb`` is its relative change from clean audio."""
    name, changed, condition = metric.partition(CHANGE)
    wanted = [f"{name} under {condition}", f"{name} under {CLEAN}"] if changed else [metric]
    missing = [key for key in wanted if key not in found]
    if missing:
        raise UserError(f"the report has no metric {missing[0]}; it has {', '.join(found)}")
    if any(model not in found[key] for key in wanted):  # a constant is not an encoder that could hear corrupted audio
        return np.full_like(found[wanted[0]][SUBJECT], np.nan)
    if not changed:
        return found[metric][model]
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample on which the clean probe scores nothing
        change_R: NDArray[np.float64] = found[wanted[0]][model] / found[wanted[1]][model] - 1
    return change_R
