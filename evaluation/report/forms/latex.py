"""A report as LaTeX: booktabs tables of the metrics, and of what was measured on request."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaluation.encoders.encoder import SUBJECT
from evaluation.report.rows import intervals, text_rows
from evaluation.report.tables import extra_tables

ESCAPES = {"\\": r"\textbackslash{}", "−": "$-$", "–": "--", "²": "$^2$", "≥": r"$\geq$", "~": r"\textasciitilde{}"}
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
