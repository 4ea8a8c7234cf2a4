"""The short tables of a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from evaluation.encoders.encoder import SUBJECT
from evaluation.report.comparison import compared, differences_from
from evaluation.report.rows import intervals, number, reference, shortest, text_rows


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
    tables, shown = [], shortest(tree)
    for name in compared(tree):
        table = Table("metric", SUBJECT, name, f"difference from {name}", "p (Holm)", "verdict", box=SIMPLE)
        for one in differences_from(tree, name):
            if one.metric in shown:
                span = f"[{number(one.low, sign=True)}, {number(one.high, sign=True)}]"
                values = number(one.own), number(one.other), f"{number(one.value, sign=True)} {span}"
                table.add_row(one.metric, *values, number(one.p_holm), one.verdict)
        tables.append(table)
    return tables
