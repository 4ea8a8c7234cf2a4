"""The JSON of a report, and its metrics as rows of text, from which every other form is made.

Shape suffix: R resamples + 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.config import EvaluationConfig
from evaluation.encoders.encoder import SUBJECT
from evaluation.metrics.confidence import as_row, two_sided_p
from evaluation.metrics.samples import INTERVALS, JACKKNIFE, PERCENTILE
from evaluation.report.comparison import add_holm, differences_from, sign_of
from evaluation.scores.score import Scored

SCHEMA_VERSION = 1
REFERENCE = "untrained"
"""The baseline to beat; chance where a user's encoder has no untrained self."""


@dataclass(frozen=True)
class Row:
    """A metric as text."""

    metric: str
    value: str
    interval: str
    baselines: dict[str, str]
    difference: str
    verdict: str
    """better, worse or unclear: whether the interval of the difference excludes zero."""
    n: int
    convention: str


def build_tree(
    scored: Mapping[str, Scored], *, config: EvaluationConfig, left_out: Mapping[str, str], provenance: dict[str, Any]
) -> dict[str, Any]:
    """Assemble the JSON of a report."""
    models = list(dict.fromkeys(m for task in scored.values() for row in task.metrics.values() for m in row))
    tables: dict[str, dict[str, Any]] = {model: {} for model in models}
    differences: dict[str, dict[str, Any]] = {model: {} for model in models if model != SUBJECT}
    level = config.confidence.level
    for name, task in scored.items():
        for metric, by_model in task.metrics.items():
            for model, one in by_model.items():
                row = one.row(level)
                about: dict[str, Any] = {"n": task.n, "clusters": task.clusters}
                about["convention"] = f"{task.conventions[metric]}; {level:.0%} interval: {INTERVALS[row['interval']]}"
                tables[model][f"{name}/{metric}"] = row | about
                if model != SUBJECT:
                    delta_R = by_model[SUBJECT].values_R - one.values_R
                    differences[model][f"{name}/{metric}"] = as_row(delta_R, level) | {"p": two_sided_p(delta_R)}
    add_holm(differences, config.claims)
    return {
        "schema_version": SCHEMA_VERSION,
        "level": level,
        "metrics": tables.pop(SUBJECT),
        "baselines": tables,
        "differences": differences,
        "tasks": {name: _task_tree(task) for name, task in scored.items()},
        "left_out": dict(left_out),
        "notes": [note for task in scored.values() for note in task.notes],
        "provenance": provenance,
    }


def shortest(tree: Mapping[str, Any]) -> set[str]:
    """The metrics of a terminal: of retrieval only the largest neighbourhood."""
    largest = max((int(metric.partition("@")[2] or 0) for metric in tree["metrics"]), default=0)
    return {metric for metric in tree["metrics"] if metric.partition("@")[2] in ("", str(largest))}


def comparison_rows(tree: Mapping[str, Any], name: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of paired differences from one compared encoder, of the metrics of a terminal."""
    shown, rows = shortest(tree), []
    for one in differences_from(tree, name):
        if one.metric in shown:
            ends = f"[{number(one.low, sign=True)}, {number(one.high, sign=True)}]"
            values = [number(one.own), number(one.other), f"{number(one.value, sign=True)} {ends}"]
            rows.append([one.metric, *values, number(one.p_holm), one.verdict])
    return ["metric", SUBJECT, name, f"difference from {name}", "p (Holm)", "verdict"], rows


def reference(tree: Mapping[str, Any]) -> str:
    """The baseline that differences are shown from."""
    return REFERENCE if REFERENCE in tree["baselines"] else "random"


def text_rows(tree: Mapping[str, Any]) -> list[Row]:
    """The report's metrics as rows of text, in their order."""
    rows = []
    for metric, own in tree["metrics"].items():
        delta = tree["differences"].get(reference(tree), {}).get(metric)
        rows.append(
            Row(
                metric=metric,
                value=number(own["value"]),
                interval=span(own),
                baselines={name: number(found[metric]["value"]) for name, found in tree["baselines"].items()},
                difference=f"{number(delta['value'], sign=True)} {_ends(delta, sign=True)}" if delta else "–",
                verdict=sign_of(metric, delta["low"], delta["high"])
                if delta and delta["low"] is not None
                else "unclear",
                n=own["n"],
                convention=own["convention"],
            )
        )
    return rows


def number(value: float | None, *, sign: bool = False) -> str:
    """Three decimals without the leading zero; a dash for what is undefined.

    >>> number(0.5), number(-0.0412, sign=True), number(1.0), number(None), number(-0.0001, sign=True)
    ('.500', '−.041', '1.000', '–', '.000')
    """
    if value is None:
        return "–"
    text = f"{abs(value):.3f}"
    text = text.removeprefix("0") if abs(value) < 0.9995 else text
    return ("" if text == ".000" else "−" if value < 0 else "+" if sign else "") + text


def _task_tree(task: Scored) -> dict[str, Any]:
    tags: dict[str, dict[str, dict[str, float]]] = {}
    for metric, by_model in task.metrics.items():
        for model, one in by_model.items():
            if one.by_tag:
                tags.setdefault(metric, {})[model] = one.by_tag
    counts = {f"num_{split}": count for split, count in task.counts.items()}
    epochs = {model: vars(found) for probe in task.probes for model, found in probe.epochs().items()}
    return counts | {"classes": list(task.classes), "masked": list(task.masked), "by_tag": tags, "epochs": epochs}


def span(row: Mapping[str, Any]) -> str:
    """An interval as text; the jackknife's with the bias-corrected value, which it lies around.

    >>> span({"low": 0.076, "high": 0.325, "corrected": 0.2})
    '[.076, .325], bias-corrected .200'
    """
    return _ends(row) + (f", bias-corrected {number(row['corrected'])}" if "corrected" in row else "")


def intervals(tree: Mapping[str, Any]) -> str:
    """Which intervals a report shows, for a caption."""
    names = ((metric.partition("/")[2].partition("_prompt_")[0], row) for metric, row in tree["metrics"].items())
    kinds = {name: row["interval"] for name, row in names}
    words = f"{tree['level']:.0%} intervals: paired {INTERVALS[PERCENTILE]}"
    jackknifed = [metric for metric, kind in kinds.items() if kind == JACKKNIFE]
    if jackknifed:
        words += (
            f"; of {' and '.join(jackknifed)} the {INTERVALS[JACKKNIFE]}, which lies around the bias-corrected value"
        )
    return words


def _ends(row: Mapping[str, Any], *, sign: bool = False) -> str:
    return f"[{number(row['low'], sign=sign)}, {number(row['high'], sign=sign)}]"
