"""One JSON, and everything else made from it: Markdown, CSV, LaTeX, an HTML page, figures, a table for the terminal.

Shape suffix: R resamples + 1.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from cluster.storage import write_atomic
from evaluation.confidence import as_row, holm, two_sided_p
from evaluation.judge import Judged
from evaluation.score import Scored
from evaluation.tasks import EvaluationConfig

SCHEMA_VERSION = 1
SUBJECT = "trained"
"""The model that is reported; all others are its baselines."""
REFERENCE = "untrained"
"""The baseline to beat; chance where a user's encoder has no untrained self."""


@dataclass(frozen=True)
class Report:
    """A finished report and its files."""

    tree: dict[str, Any]
    """What report.json holds."""
    folder: Path
    figures: dict[str, Path]
    """PNG files by name."""

    def flat(self) -> dict[str, float]:
        """The values that are defined, by metric."""
        return {name: row["value"] for name, row in self.tree["metrics"].items() if row["value"] is not None}

    def table(self) -> Table:
        """The short table of a terminal: the largest neighbourhood of retrieval, and the two baselines to beat."""
        names = [reference(self.tree), "constant"]
        table = Table("metric", SUBJECT, *names, f"difference from {names[0]}", box=SIMPLE)
        for row in short(self.tree):
            baselines = [row.baselines[name] for name in names]
            table.add_row(row.metric, f"{row.value} {row.interval}", *baselines, row.difference)
        return table


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
    """Assemble the JSON of a report.

    Args:
        scored: tasks by name.
        config: level of the intervals, claims.
        left_out: optional tasks that did not run, and why.
        provenance: of encoder, shards and software.
    """
    models = list(dict.fromkeys(m for task in scored.values() for judged in task.metrics.values() for m in judged))
    tables: dict[str, dict[str, Any]] = {model: {} for model in models}
    differences: dict[str, dict[str, Any]] = {model: {} for model in models if model != SUBJECT}
    level = config.confidence.level
    for name, task in scored.items():
        for metric, judged in task.metrics.items():
            about = {"n": task.n, "clusters": task.clusters, "convention": task.conventions[metric]}
            for model, one in judged.items():
                tables[model][f"{name}/{metric}"] = one.row(level) | about
                if model != SUBJECT:
                    delta_R = judged[SUBJECT].values_R - one.values_R
                    differences[model][f"{name}/{metric}"] = as_row(delta_R, level) | {"p": two_sided_p(delta_R)}
    _adjust(differences, config.claims)
    return {
        "schema_version": SCHEMA_VERSION,
        "metrics": tables.pop(SUBJECT),
        "baselines": tables,
        "differences": differences,
        "tasks": {name: _task_tree(task) for name, task in scored.items()},
        "left_out": dict(left_out),
        "notes": [note for task in scored.values() for note in task.notes],
        "provenance": provenance,
    }


def _adjust(differences: dict[str, dict[str, Any]], claims: Sequence[str]) -> None:
    """Add Holm's p-values to the claims: every claim against every model that was really embedded is one family."""
    family = {
        (model, claim): rows[claim]["p"]
        for model, rows in differences.items()
        for claim in claims
        if model not in ("random", "constant")
    }
    for (model, claim), p in holm(family).items():
        differences[model][claim]["p_holm"] = p


def reference(tree: Mapping[str, Any]) -> str:
    """The baseline that differences are shown from."""
    return REFERENCE if REFERENCE in tree["baselines"] else "random"


def rows_of(tree: Mapping[str, Any]) -> list[Row]:
    """The report's metrics as rows of text, in their order."""
    rows = []
    for metric, own in tree["metrics"].items():
        delta = tree["differences"].get(reference(tree), {}).get(metric)
        rows.append(
            Row(
                metric=metric,
                value=number(own["value"]),
                interval=_span(own),
                baselines={name: number(found[metric]["value"]) for name, found in tree["baselines"].items()},
                difference=f"{number(delta['value'], sign=True)} {_span(delta, sign=True)}" if delta else "–",
                verdict=_verdict(delta),
                n=own["n"],
                convention=own["convention"],
            )
        )
    return rows


def short(tree: Mapping[str, Any]) -> list[Row]:
    """`rows_of`, of retrieval at several k those of the largest alone."""
    largest = max((int(metric.partition("@")[2] or 0) for metric in tree["metrics"]), default=0)
    return [row for row in rows_of(tree) if row.metric.partition("@")[2] in ("", str(largest))]


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


def csv_text(tree: Mapping[str, Any]) -> str:
    """A row a metric and model."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["metric", "model", "value", "low", "high", "n", "convention"])
    for model, metrics in {SUBJECT: tree["metrics"], **tree["baselines"]}.items():
        for metric, row in metrics.items():
            writer.writerow([metric, model, row["value"], row["low"], row["high"], row["n"], row["convention"]])
    return out.getvalue()


def write_report(tree: dict[str, Any], folder: Path) -> Report:
    """Write every form of a report, the JSON last: where it stands, the others are whole."""
    from evaluation.figures import draw_figures
    from evaluation.latex import latex
    from evaluation.markdown import markdown
    from evaluation.page import html_page

    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw_figures(tree)
    figures = {}
    for name, forms in drawn.items():
        figures[name] = folder / f"{name}.png"
        write_atomic(figures[name], forms.png)
    write_atomic(folder / "report.md", markdown(tree))
    write_atomic(folder / "report.csv", csv_text(tree))
    write_atomic(folder / "report.tex", latex(tree))
    write_atomic(folder / "report.html", html_page(tree, drawn))
    write_atomic(folder / "report.json", json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False))
    return Report(tree, folder, figures)


def _task_tree(task: Scored) -> dict[str, Any]:
    tags: dict[str, dict[str, dict[str, float]]] = {}
    for metric, judged in task.metrics.items():
        by_model: dict[str, Judged] = {model: one for model, one in judged.items() if one.by_tag}
        for model, one in by_model.items():
            tags.setdefault(metric, {})[model] = one.by_tag
    counts = {f"num_{split}": count for split, count in task.counts.items()}
    epochs = {model: vars(found) for probe in task.probes for model, found in probe.epochs().items()}
    return counts | {"classes": list(task.classes), "masked": list(task.masked), "by_tag": tags, "epochs": epochs}


def _span(row: Mapping[str, Any], *, sign: bool = False) -> str:
    return f"[{number(row['low'], sign=sign)}, {number(row['high'], sign=sign)}]"


def _verdict(delta: Mapping[str, Any] | None) -> str:
    if not delta or delta["low"] is None:
        return "unclear"
    return "better" if delta["low"] > 0 else "worse" if delta["high"] < 0 else "unclear"
