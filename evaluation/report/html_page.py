"""The report as one HTML file: no script, nothing loaded from elsewhere, every word of a user escaped."""

import base64
import json
from collections.abc import Mapping
from html import escape
from typing import Any

from evaluation.encoders.encoder import SUBJECT
from evaluation.report.figures import Drawn
from evaluation.report.rows import Row, intervals, reference, text_rows
from evaluation.report.tables import TextTable, extra_tables

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1f2430; --soft: #5d6473; --line: #e1e4ea; --paper: #ffffff; --card: #f6f7f9;
  --better: #1b7f4b; --worse: #b3372f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e8ee; --soft: #a2a9b8; --line: #333949; --paper: #14171e; --card: #1c2029;
    --better: #6fd39f; --worse: #ff9389;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 64rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p.lead { color: var(--soft); margin: 0 0 1.5rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: .85rem; }
th:first-child, td:first-child { text-align: left; }
td.own { font-weight: 650; }
table.words td, table.words th { text-align: left; white-space: normal; }
table.words td { font-size: .9rem; }
td small { color: var(--soft); font-weight: 400; }
tr.task td { padding-top: 1.2rem; font-weight: 650; border-bottom: 0; }
.better { color: var(--better); }
.worse { color: var(--worse); }
.unclear { color: var(--soft); }
figure { margin: 0; background: var(--card); border-radius: .6rem; padding: 1rem; }
figure + figure { margin-top: 1rem; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; margin-bottom: .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0; font-size: .92rem; }
dt { font-weight: 600; }
dd { margin: 0; color: var(--soft); }
pre { background: var(--card); padding: 1rem; border-radius: .6rem; overflow-x: auto; font-size: .82rem; }
summary { cursor: pointer; }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MARKS = {"better": "▲", "worse": "▼", "unclear": "·"}


def html_page(tree: Mapping[str, Any], figures: Mapping[str, Drawn]) -> str:
    """The page of a report.

    Args:
        tree: what report.json holds.
        figures: drawn from it.
    """
    about, tables = tree["provenance"], extra_tables(tree)
    parts = [
        f"<h1>{escape(str(about.get('title', 'Evaluation')))}</h1>",
        f'<p class="lead">{escape(_lead(about))}</p>',
        _table(tree),
        *(_words(table) for table in tables if table.verdicts),
        "<h2>Figures</h2>",
        *(_figure(drawn) for drawn in figures.values()),
        *(_words(table) for table in tables if not table.verdicts),
        _conventions(text_rows(tree)),
        _notes(tree),
        "<h2>Provenance</h2><details><summary>Encoder, shards, configuration, versions</summary>"
        f"<pre>{escape(json.dumps(about, indent=1, ensure_ascii=False))}</pre></details>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>Evaluation</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _lead(about: Mapping[str, Any]) -> str:
    words = [
        f"encoder {str(about.get('encoder', ''))[:12]}",
        f"step {about['step']}" if about.get("step") is not None else "",
    ]
    words += [f"shards {str(about.get('manifest_hash', ''))[:12]}", str(about.get("time", ""))]
    return " · ".join(word for word in words if word)


def _table(tree: Mapping[str, Any]) -> str:
    names = list(tree["baselines"])
    head = ["metric", SUBJECT, *names, f"difference from {reference(tree)}", "n"]
    titles = "".join(f"<th>{escape(word)}</th>" for word in head)
    lines = [f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>']
    task = ""
    for row in text_rows(tree):
        name, _, metric = row.metric.partition("/")
        if name != task:
            task = name
            lines.append(f'<tr class="task"><td colspan="{len(head)}">{escape(task)}</td></tr>')
        lines.append(_table_row(row, metric))
    return "\n".join([*lines, f"</tbody></table></div><p>{escape(intervals(tree))}.</p>"])


def _table_row(row: Row, metric: str) -> str:
    cells = [f'<td title="{escape(row.convention)}">{escape(metric)}</td>']
    cells.append(f'<td class="own">{row.value} <small>{row.interval}</small></td>')
    cells += [f"<td>{value}</td>" for value in row.baselines.values()]
    cells.append(
        f'<td class="{row.verdict}"><span aria-label="{row.verdict}">{MARKS[row.verdict]}</span> {row.difference}</td>'
    )
    return f"<tr>{''.join(cells)}<td>{row.n}</td></tr>"


def _figure(drawn: Drawn) -> str:
    light, dark = (base64.b64encode(svg).decode() for svg in (drawn.light_svg, drawn.dark_svg))
    return (
        f"<figure><figcaption>{escape(drawn.title)}</figcaption><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="data:image/svg+xml;base64,{dark}">'
        f'<img alt="{escape(drawn.title)}" src="data:image/svg+xml;base64,{light}"></picture></figure>'
    )


def _words(table: TextTable) -> str:
    titles = "".join(f"<th>{escape(word)}</th>" for word in table.head)
    body = "\n".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        if not table.verdicts
        else _compared_row(row, table.verdicts[place])
        for place, row in enumerate(table.rows)
    )
    kind = "" if table.verdicts else ' class="words"'
    inner = f"<table{kind}><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    caption = f'<p class="lead">{escape(table.caption)}</p>' if table.caption else ""
    return f'<h2>{escape(table.title)}</h2>{caption}<div class="scroll">{inner}</div>'


def _compared_row(row: list[str], verdict: str) -> str:
    *cells, last = (escape(cell) for cell in row)
    mark = f'<span aria-hidden="true">{MARKS[verdict]}</span>'
    return f'<tr>{"".join(f"<td>{cell}</td>" for cell in cells)}<td class="{verdict}">{mark} {last}</td></tr>'


def _conventions(rows: list[Row]) -> str:
    pairs = "".join(f"<dt>{escape(row.metric)}</dt><dd>{escape(row.convention)}</dd>" for row in rows)
    return f"<h2>Conventions</h2><dl>{pairs}</dl>"


def _notes(tree: Mapping[str, Any]) -> str:
    notes = [*tree["notes"]]
    notes += [f"{name}: masked {', '.join(task['masked'])}" for name, task in tree["tasks"].items() if task["masked"]]
    notes += [f"{name}: left out, {reason}" for name, reason in tree["left_out"].items()]
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>" if notes else ""
