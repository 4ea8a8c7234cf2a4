"""A report as CSV: a row a metric and model."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from evaluation.encoders.encoder import SUBJECT

DIFFERENCES = {
    "difference": "value",
    "difference_low": "low",
    "difference_high": "high",
    "p": "p",
    "p_holm": "p_holm",
}
"""Columns of the CSV, and what JSON calls them."""


def csv_text(tree: Mapping[str, Any]) -> str:
    """A row a metric and model; differences are of the reported encoder less the row's model."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("value", "low", "high", "interval")
    writer.writerow(["metric", "model", *ends, "corrected", *DIFFERENCES, "n", "convention"])
    for model, metrics in {SUBJECT: tree["metrics"], **tree["baselines"]}.items():
        for metric, row in metrics.items():
            delta = tree["differences"].get(model, {}).get(metric, {})
            found = [row[end] for end in ends] + [row.get("corrected")]
            found += [delta.get(name) for name in DIFFERENCES.values()]
            writer.writerow([metric, model, *found, row["n"], row["convention"]])
    return out.getvalue()
