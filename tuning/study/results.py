"""From the reports of a study's runs to its table: means over seeds, paired intervals, claims.

All runs of a study are evaluated on the same resamples of the test set: the difference of two rows is paired, draw by
draw; where a row has several seeds, a draw takes them with replacement, the same for every row. A row's own interval is
the one that a report of it has: of macro AP the jackknife's (`evaluation.metrics.confidence`).

Shape suffixes: S seeds, R resamples + 1; entry 0 is the test set itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from evaluation.analyses.robustness import CLEAN
from evaluation.encoders.encoder import SUBJECT
from evaluation.metrics.confidence import as_row, data_needed, holm, two_sided_p
from evaluation.metrics.samples import RESAMPLES, MetricSamples, load_resamples
from evaluation.report.rows import REFERENCE
from trainers.state.metrics_log import read_metrics
from tuning.study.config import Claim, Study, parse_metric
from tuning.study.plan import Plan, Run
from tuning.study.runs import evaluation_folder, is_done

LEVEL = 0.95
BASELINES = (REFERENCE, "constant")
"""Models that a report has besides the run's own; those of a column's first report stand for all."""
Values = dict[str, MetricSamples]
"""Column → values on the test set and its resamples; one entry for metrics of the training log."""


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    values: Values
    by_seed: dict[str, list[float | None]]
    """Column → the value of each seed; None where it is undefined (the sparsity of labels that are not there)."""
    seeds: int


def collect(plan: Plan) -> dict[str, Line]:
    """Rows whose runs are all done, and the baselines, by name."""
    lines = {}
    for row in plan.rows:
        runs = [run for run in plan.runs if run.row == row.name]
        if all(is_done(run) for run in runs):
            lines[row.name] = _line([_read(run, plan.study, SUBJECT) for run in runs])
    for name in BASELINES:
        known: Values = {}
        for run in plan.runs:
            if not {column for one, _ in run.evaluations for column in one.metrics} <= set(known) and is_done(run):
                known = _read(run, plan.study, name) | known
        if known:
            lines[name] = _line([known])
    return lines


def study_tree(plan: Plan, lines: Mapping[str, Line], failed: Mapping[str, str]) -> dict[str, Any]:
    """The study as plain JSON types."""
    study = plan.study
    # Two evaluations of different rows may share a column.
    columns = list(dict.fromkeys([*(column for one in study.evaluations for column in one.metrics), *study.metrics]))
    return {
        "schema_version": 1,
        "title": study.title,
        "source": study.source,
        "scale": plan.scale,
        "about": plan.about,
        "reduced": {key: {"paper": there, "here": here} for key, (there, here) in plan.reduced.items()},
        "columns": columns,
        "spaces": {
            column: parse_metric(text).space for one in study.evaluations for column, text in one.metrics.items()
        },
        "rows": [
            {
                "name": name,
                "place": next((row.place for row in plan.rows if row.name == name), {}),
                "seeds": line.seeds,
                "values": {column: evaluated.row(LEVEL) for column, evaluated in line.values.items()},
                "by_seed": line.by_seed,
                "published": study.published.get(name, {}),
            }
            for name, line in lines.items()
        ],
        "published": study.published,
        "claims": check_claims(study.claims, lines),
        "failed": dict(failed),
        "missing": [row.name for row in plan.rows if row.name not in lines],
        "notes": list(study.notes),
    }


def check_claims(claims: tuple[Claim, ...], lines: Mapping[str, Line]) -> list[dict[str, Any]]:
    """Every claim's difference, its interval, Holm's p over all of them, whether it holds, and what would settle it.

    A claim holds when the interval of the difference lies on its side of zero and Holm's p allows it; it is undecided
    when a row is missing.
    """
    evaluated: list[dict[str, Any]] = []
    p_values: dict[int, float] = {}
    for number, claim in enumerate(claims):
        entry: dict[str, Any] = {
            name: getattr(claim, name)
            for name in ("statement", "metric", "row", "over", "over_metric", "sign", "more_seeds")
        }
        entry["seeds"] = min(
            (lines[name].seeds for name in (claim.row, claim.over) if name in lines and name not in BASELINES),
            default=0,
        )
        if {claim.row, claim.over} <= set(lines):
            row, over = lines[claim.row].values[claim.metric], lines[claim.over].values[claim.baseline]
            delta_R = row.values_R - over.values_R
            entry |= as_row(delta_R, LEVEL)
            p_values[number] = two_sided_p(delta_R)
            needed = data_needed(delta_R, level=LEVEL)
            entry["data_needed"] = needed if math.isfinite(needed) else None
            low, high = entry["low"], entry["high"]
            entry["holds"] = low is not None and (low > 0 if claim.sign == "higher" else high < 0)
        evaluated.append({"holds": None} | entry)
    for number, p in holm(p_values).items():
        evaluated[number]["p_holm"] = p
        evaluated[number]["holds"] &= p <= 1 - LEVEL
    return evaluated


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


def averaged(runs: Sequence[MetricSamples]) -> MetricSamples:
    """Runs of several training seeds as one: the mean, in which the seeds are drawn as well.

    The groups that the jackknife leaves out are the same in all of them, and the spread of the runs holds that of their
    probes.
    """
    values_SR = np.stack([one.values_R for one in runs])
    groups = [one.left_out_G for one in runs if one.left_out_G is not None]
    spread = float(values_SR[:, 0].var(ddof=1)) / len(runs) if len(runs) > 1 else runs[0].seed_variance
    return MetricSamples(over_seeds(values_SR), {}, np.mean(groups, 0) if len(groups) == len(runs) else None, spread)


def late_median(run: Run, metric: str) -> float:
    """Median of a metric of metrics.jsonl over the second half of a run's steps; NaN where it has none."""
    rows = list(read_metrics(run.folder / "metrics.jsonl"))
    found = [row[metric] for row in rows[len(rows) // 2 :] if metric in row]
    return float(np.median(found)) if found else float("nan")


def _line(runs: list[Values]) -> Line:
    firsts = {column: [float(values[column].values_R[0]) for values in runs] for column in runs[0]}
    return Line(
        values={column: averaged([values[column] for values in runs]) for column in runs[0]},
        by_seed={column: [one if np.isfinite(one) else None for one in found] for column, found in firsts.items()},
        seeds=len(runs),
    )


def _read(run: Run, study: Study, model: str) -> Values:
    values: Values = {}
    for number, (one, _) in enumerate(run.evaluations):
        found = load_resamples(evaluation_folder(run, number) / RESAMPLES)
        values |= {column: _metric(found, metric, model) for column, metric in one.metrics.items()}
    if study.metrics and model == SUBJECT:
        values |= {
            column: MetricSamples(np.array([late_median(run, metric)]), {}) for column, metric in study.metrics.items()
        }
    return values


def _metric(found: Mapping[str, Mapping[str, MetricSamples]], text: str, model: str) -> MetricSamples:
    """A metric of a report (`tuning.study.config`); a baseline has no spaces, its whole embedding stands for them."""
    metric = parse_metric(text)
    wanted = [metric.on(metric.condition), *([metric.on(CLEAN)] if metric.change else [])]
    missing = [key for key in wanted if key not in found]
    if missing:
        raise UserError(f"the report has no metric {missing[0]}; it has {', '.join(found)}")
    model = f"{model}/{metric.space}" if metric.space and model == SUBJECT else model
    if any(model not in found[key] for key in wanted):  # a constant baseline reads no audio, corrupted or not
        return MetricSamples(np.full_like(found[wanted[0]][SUBJECT].values_R, np.nan), {})
    if not metric.change:
        return found[wanted[0]][model]
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample on which the clean probe scores nothing
        return MetricSamples(found[wanted[0]][model].values_R / found[wanted[1]][model].values_R - 1, {})
