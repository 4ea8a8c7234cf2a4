"""A finished report on disk: one JSON, and Markdown, CSV, LaTeX, an HTML page and figures made from it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.files.storage import write_atomic
from evaluation.report.figures.draw import draw_figures
from evaluation.report.forms.csv_table import csv_text
from evaluation.report.forms.html_page import html_page
from evaluation.report.forms.latex import latex
from evaluation.report.forms.markdown import markdown
from evaluation.report.forms.terminal import comparison_tables, metrics_table


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
        return metrics_table(self.tree)

    def comparisons(self) -> list[Table]:
        """A table for a terminal for each encoder that is compared with: paired differences, the same metrics."""
        return comparison_tables(self.tree)


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
