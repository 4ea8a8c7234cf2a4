"""The short tables of a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from evaluation.encoders.encoder import SUBJECT
from evaluation.report.comparison import compared
from evaluation.report.rows import comparison_rows, intervals, reference, shortest, text_rows


def metrics_table(tree: Mapping[str, Any]) -> Table:
    """The short table of a terminal: the largest neighbourhood of retrieval, and the two baselines to beat."""
    names = [reference(tree), "constant"]
    table = Table("metric", SUBJECT, *names, f"difference from {names[0]}", box=SIMPLE, caption=intervals(tree))
    shown = shortest(tree)
    for row in text_rows(tree):
        if row.metric in shown:
            baselines = [row.baselines[name] for name in names]
            table.add_row(row.metric, f"{row.value} {row.interval}", *baselines, row.difference)
    return table


def comparison_tables(tree: Mapping[str, Any]) -> list[Table]:
    """A table for a terminal for each encoder that is compared with: paired differences, the same metrics."""
    tables = []
    for name in compared(tree):
        head, rows = comparison_rows(tree, name)
        table = Table(*head, box=SIMPLE)
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables
