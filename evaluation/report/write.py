"""A finished report: one JSON; Markdown, CSV, LaTeX, an HTML page and figures made from it; tables for a terminal."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from cluster.files.storage import write_atomic
from evaluation.encoders.encoder import SUBJECT
from evaluation.report.comparison import compared
from evaluation.report.figures import draw_figures
from evaluation.report.html_page import html_page
from evaluation.report.rows import comparison_rows, intervals, reference, shortest, text_rows
from evaluation.report.text_forms import csv_text, latex, markdown


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
        head = ("metric", SUBJECT, *names, f"difference from {names[0]}")
        table, shown = Table(*head, box=SIMPLE, caption=intervals(self.tree)), shortest(self.tree)
        for row in text_rows(self.tree):
            if row.metric in shown:
                baselines = [row.baselines[name] for name in names]
                table.add_row(row.metric, f"{row.value} {row.interval}", *baselines, row.difference)
        return table

    def comparisons(self) -> list[Table]:
        """A table for a terminal for each encoder that is compared with: paired differences, the same metrics."""
        tables = []
        for name in compared(self.tree):
            head, rows = comparison_rows(self.tree, name)
            tables.append(Table(*head, box=SIMPLE))
            for row in rows:
                tables[-1].add_row(*row)
        return tables


def write_report(tree: dict[str, Any], folder: Path) -> Report:
    """Write every form of a report, the JSON last: where it is, the others are whole."""
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
