"""The report as one HTML file: no script, nothing loaded from elsewhere, every text of a user escaped."""

import base64
import json
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from jinja2 import Environment

from evaluation.encoders.encoder import SUBJECT
from evaluation.report.figures import Drawn
from evaluation.report.rows import intervals, reference, text_rows
from evaluation.report.tables import extra_tables

MARKS = {"better": "▲", "worse": "▼", "unclear": "·"}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Evaluation</title><style>
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
</style></head><body>
{% macro titles(words) %}<thead><tr>{% for word in words %}<th>{{ word }}</th>{% endfor %}</tr></thead>{% endmacro %}
{% macro extra(table) %}
<h2>{{ table.title }}</h2>
{% if table.caption %}<p class="lead">{{ table.caption }}</p>{% endif %}
<div class="scroll"><table{% if not table.verdicts %} class="words"{% endif %}>{{ titles(table.head) }}<tbody>
{% for row in table.rows %}
{% set verdict = table.verdicts[loop.index0] if table.verdicts else "" %}
<tr>{% for cell in row[:-1] %}<td>{{ cell }}</td>{% endfor %}
<td{% if verdict %} class="{{ verdict }}"{% endif %}>
{% if verdict %}<span aria-hidden="true">{{ marks[verdict] }}</span> {% endif %}{{ row[-1] }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
<h1>{{ about.title or "Evaluation" }}</h1>
<p class="lead">{{ lead }}</p>
<div class="scroll"><table>{{ titles(head) }}<tbody>
{% for task, rows in tasks %}
<tr class="task"><td colspan="{{ head | length }}">{{ task }}</td></tr>
{% for row in rows %}
<tr><td title="{{ row.convention }}">{{ row.metric.partition("/")[2] }}</td>
<td class="own">{{ row.value }} <small>{{ row.interval }}</small></td>
{% for value in row.baselines.values() %}<td>{{ value }}</td>{% endfor %}
<td class="{{ row.verdict }}"><span aria-label="{{ row.verdict }}">{{ marks[row.verdict] }}</span> {{ row.difference }}
</td><td>{{ row.n }}</td></tr>
{% endfor %}
{% endfor %}
</tbody></table></div><p>{{ intervals }}.</p>
{% for table in tables if table.verdicts %}{{ extra(table) }}{% endfor %}
<h2>Figures</h2>
{% for drawn in figures %}
<figure><figcaption>{{ drawn.title }}</figcaption><picture>
<source media="(prefers-color-scheme: dark)" srcset="data:image/svg+xml;base64,{{ drawn.dark_svg | base64 }}">
<img alt="{{ drawn.title }}" src="data:image/svg+xml;base64,{{ drawn.light_svg | base64 }}"></picture></figure>
{% endfor %}
{% for table in tables if not table.verdicts %}{{ extra(table) }}{% endfor %}
<h2>Conventions</h2>
<dl>{% for _, rows in tasks %}{% for row in rows %}<dt>{{ row.metric }}</dt><dd>{{ row.convention }}</dd>
{% endfor %}{% endfor %}</dl>
{% if notes %}<h2>Notes</h2><ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<h2>Provenance</h2><details><summary>Encoder, shards, configuration, versions</summary>
<pre>{{ provenance }}</pre></details>
</body></html>
"""


def html_page(tree: Mapping[str, Any], figures: Mapping[str, Drawn]) -> str:
    """The page of a report."""
    about, rows = tree["provenance"], text_rows(tree)
    environment = Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return environment.from_string(PAGE).render(
        about=about,
        lead=_lead(about),
        head=["metric", SUBJECT, *tree["baselines"], f"difference from {reference(tree)}", "n"],
        tasks=[(task, list(of_task)) for task, of_task in groupby(rows, lambda row: row.metric.partition("/")[0])],
        intervals=intervals(tree),
        tables=extra_tables(tree),
        figures=figures.values(),
        notes=_notes(tree),
        provenance=json.dumps(about, indent=1, ensure_ascii=False),
        marks=MARKS,
    )


def _lead(about: Mapping[str, Any]) -> str:
    words = [
        f"encoder {str(about.get('encoder', ''))[:12]}",
        f"step {about['step']}" if about.get("step") is not None else "",
    ]
    words += [f"shards {str(about.get('manifest_hash', ''))[:12]}", str(about.get("time", ""))]
    return " · ".join(word for word in words if word)


def _notes(tree: Mapping[str, Any]) -> list[str]:
    notes = [*tree["notes"]]
    notes += [f"{name}: masked {', '.join(task['masked'])}" for name, task in tree["tasks"].items() if task["masked"]]
    return notes + [f"{name}: left out, {reason}" for name, reason in tree["left_out"].items()]
