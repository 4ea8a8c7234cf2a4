"""The report as one HTML file: no script, nothing loaded from elsewhere, every text of a user escaped."""

import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from cluster.files.templates import render
from data_shards.inspect.data_uris import data_uri
from evaluation.encoders.encoder import SUBJECT
from evaluation.report.figures import Drawn
from evaluation.report.rows import intervals, reference, text_rows
from evaluation.report.tables import extra_tables

MARKS = {"better": "▲", "worse": "▼", "unclear": "·"}
TEMPLATE = Path(__file__).parent / "assets/report.html"


def html_page(tree: Mapping[str, Any], figures: Mapping[str, Drawn]) -> str:
    """The page of a report."""
    about, rows = tree["provenance"], text_rows(tree)
    return render(
        TEMPLATE,
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
        data_uri=data_uri,
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
