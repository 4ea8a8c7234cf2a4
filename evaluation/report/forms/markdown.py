"""A report as Markdown: every table of it, for a reader without a browser."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from evaluation.encoders.encoder import SUBJECT
from evaluation.report.rows import intervals, reference, text_rows
from evaluation.report.tables import TextTable, extra_tables


def markdown(tree: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    names = list(tree["baselines"])
    head = ["metric", SUBJECT, "interval", *names, f"difference from {reference(tree)}", "n"]
    lines = ["# Evaluation", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in text_rows(tree):
        cells = [row.metric, row.value, row.interval, *row.baselines.values(), row.difference, str(row.n)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{intervals(tree)}.", "", "## Conventions", ""]
    lines += [f"- `{row.metric}`: {_plain(row.convention)}" for row in text_rows(tree)]
    for table in extra_tables(tree):
        lines += _table(table)
    masked = [
        f"- {name}: {', '.join(map(_plain, task['masked']))}" for name, task in tree["tasks"].items() if task["masked"]
    ]
    lines += ["", "## Masked tags", "", *masked] if masked else []
    notes = [*tree["notes"], *(f"{name}: left out, {reason}" for name, reason in tree["left_out"].items())]
    lines += ["", "## Notes", "", *(f"- {_plain(note)}" for note in notes)] if notes else []
    lines += [
        "",
        "## Provenance",
        "",
        "```json",
        json.dumps(tree["provenance"], indent=1, ensure_ascii=True),
        "```",
        "",
    ]
    return "\n".join(lines)


def _table(table: TextTable) -> list[str]:
    lines = [
        "",
        f"## {_plain(table.title)}",
        "",
        *([_plain(table.caption), ""] if table.caption else []),
        f"| {' | '.join(map(_plain, table.head))} |",
        "|---" * len(table.head) + "|",
    ]
    return lines + [f"| {' | '.join(map(_plain, row))} |" for row in table.rows]


def _plain(text: str) -> str:
    """A user's words in Markdown: one line, and no markup of theirs."""
    words = escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else c for c in words)
