"""A report as text: Markdown with every table of it, CSV with a row a metric and model, LaTeX with booktabs tables."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from cluster.files.tables import csv_table, markdown_table
from evaluation.encoders.encoder import SUBJECT
from evaluation.report.rows import intervals, reference, text_rows
from evaluation.report.tables import extra_tables

DIFFERENCES = {
    "difference": "value", "difference_low": "low", "difference_high": "high", "p": "p", "p_holm": "p_holm"
}  # fmt: skip
"""Columns of the CSV, and what JSON calls them."""
ESCAPES = {"\\": r"\textbackslash{}", "−": "$-$", "–": "--", "²": "$^2$", "≥": r"$\geq$", "~": r"\textasciitilde{}"}


def markdown(tree: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    names = list(tree["baselines"])
    head = ["metric", SUBJECT, "interval", *names, f"difference from {reference(tree)}", "n"]
    rows = text_rows(tree)
    cells = ([row.metric, row.value, row.interval, *row.baselines.values(), row.difference, str(row.n)] for row in rows)
    lines = ["# Evaluation", "", *markdown_table(head, cells)]
    lines += ["", f"{intervals(tree)}.", "", "## Conventions", ""]
    lines += [f"- `{row.metric}`: {_plain(row.convention)}" for row in rows]
    for table in extra_tables(tree):
        lines += ["", f"## {_plain(table.title)}", "", *([_plain(table.caption), ""] if table.caption else [])]
        lines += markdown_table(_cells(table.head), map(_cells, table.rows))
    masked = [
        f"- {name}: {', '.join(map(_plain, task['masked']))}" for name, task in tree["tasks"].items() if task["masked"]
    ]
    lines += ["", "## Masked tags", "", *masked] if masked else []
    notes = [*tree["notes"], *(f"{name}: left out, {reason}" for name, reason in tree["left_out"].items())]
    lines += ["", "## Notes", "", *(f"- {_plain(note)}" for note in notes)] if notes else []
    provenance = json.dumps(tree["provenance"], indent=1, ensure_ascii=True)
    return "\n".join([*lines, "", "## Provenance", "", "```json", provenance, "```", ""])


def _cells(row: Sequence[str]) -> list[str]:
    return list(map(_plain, row))


def _plain(text: str) -> str:
    """A user's words in Markdown: one line, and no markup of theirs."""
    words = escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else c for c in words)


def csv_text(tree: Mapping[str, Any]) -> str:
    """A row a metric and model; differences are of the reported encoder less the row's model."""
    ends = ("value", "low", "high", "interval")
    rows = [["metric", "model", *ends, "corrected", *DIFFERENCES, "n", "convention"]]
    for model, metrics in {SUBJECT: tree["metrics"], **tree["baselines"]}.items():
        for metric, row in metrics.items():
            delta = tree["differences"].get(model, {}).get(metric, {})
            found = [row[end] for end in ends] + [row.get("corrected")]
            found += [delta.get(name) for name in DIFFERENCES.values()]
            rows.append([metric, model, *found, row["n"], row["convention"]])
    return csv_table(rows)


ESCAPES |= {"^": r"\textasciicircum{}"} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def latex(tree: Mapping[str, Any]) -> str:
    """All tables, one after another, each under a comment with its name."""
    names = list(tree["baselines"])
    rows = [[row.metric, row.value, row.interval, *row.baselines.values()] for row in text_rows(tree)]
    parts = [_table(f"metrics; {intervals(tree)}", ["metric", SUBJECT, "interval", *names], rows)]
    parts += [_table(f"{table.title} {table.caption}", table.head, table.rows) for table in extra_tables(tree)]
    return "\n".join(parts)


def escaped(text: str) -> str:
    r"""A user's words as LaTeX text.

    >>> print(escaped("R&B_50% −.1"))
    R\&B\_50\% $-$.1
    """
    return "".join(ESCAPES.get(sign, sign) for sign in text)


def _table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"% {' '.join(name.split())}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(escaped, head)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(escaped, row)) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
