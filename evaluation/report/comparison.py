"""Two encoders compared: the reported one less another, metric by metric, on the same resamples.

The other encoders are those of ``against``. Their differences are paired, and Holm adjusts the p-values over all
metrics and encoders that are compared, or over the claims alone where some were named beforehand.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.metrics.confidence import holm

BASELINES = ("untrained", "random", "constant")
"""Models of every report; all others are compared."""
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """One metric of the reported encoder less that of another."""

    metric: str
    own: float | None
    other: float | None
    value: float | None
    low: float | None
    high: float | None
    p: float
    """Two-sided, of the bootstrap."""
    p_holm: float | None
    """None where claims were named beforehand and this metric is none of them."""
    verdict: str
    """better, worse or unclear: whether the interval excludes zero and Holm's p allows it."""


def compared(tree: Mapping[str, Any]) -> list[str]:
    """Names of the encoders that a report compares with, in their order."""
    return [name for name in tree.get("baselines", ()) if name not in BASELINES]


def add_holm(differences: Mapping[str, dict[str, Any]], claims: Sequence[str]) -> None:
    """Add ``p_holm`` to the differences of one family.

    Args:
        differences: model → metric → value, low, high, p.
        claims: metrics named beforehand; each against every model that was really embedded is the family. Without
            claims it is every defined metric against every compared encoder.
    """
    family = {
        (model, metric): row["p"]
        for model, rows in differences.items()
        for metric, row in rows.items()
        if (
            metric in claims and model not in ("random", "constant")
            if claims
            else model not in BASELINES and row["value"] is not None
        )
    }
    for (model, metric), p in holm(family).items():
        differences[model][metric]["p_holm"] = p


def differences_from(tree: Mapping[str, Any], name: str) -> list[Difference]:
    """All metrics of a report less those of one compared encoder, in the report's order."""
    found, own, other = tree["differences"][name], tree["metrics"], tree["baselines"][name]
    return [
        Difference(
            metric=metric,
            own=own[metric]["value"],
            other=other[metric]["value"],
            value=row["value"],
            low=row["low"],
            high=row["high"],
            p=row["p"],
            p_holm=row.get("p_holm"),
            verdict=_verdict(metric, row, level_of(tree)),
        )
        for metric, row in found.items()
    ]


def level_of(tree: Mapping[str, Any]) -> float:
    """Coverage of a report's intervals."""
    confidence = tree["provenance"].get("evaluation", {}).get("confidence", {})
    return float(confidence.get("level", LEVEL))


def explained(tree: Mapping[str, Any]) -> str:
    """How the differences of a report were computed, in a sentence or two."""
    level, alpha = level_of(tree), round(1 - level_of(tree), 6)
    counted = sum("p_holm" in row for name in compared(tree) for row in tree["differences"][name].values())
    family = sum("p_holm" in row for rows in tree["differences"].values() for row in rows.values())
    text = (
        f"Paired: both encoders on the same resamples of the test clips. The interval covers {100 * level:g}%; "
        f"p (Holm) is adjusted for {family} comparison{'' if family == 1 else 's'}. "
        f"A difference counts when its interval excludes zero and p (Holm) is at most {alpha:g}."
    )
    draws = tree["provenance"].get("evaluation", {}).get("confidence", {}).get("resamples")
    if draws and counted and 2 * family / (draws + 1) > alpha:
        needed = math.ceil(2 * family / alpha) - 1
        text += f" {draws} resamples are too few for that: set confidence.resamples={needed} or more, or name claims."
    return text


def sign_of(metric: str, low: float, high: float) -> str:
    """better, worse or unclear by an interval; a lower rank is the better one.

    >>> sign_of("a/recall@10", 0.1, 0.2), sign_of("a/median_rank", 0.1, 0.2), sign_of("a/median_rank", -1, 2)
    ('better', 'worse', 'unclear')
    """
    if metric.endswith("_rank"):
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def _verdict(metric: str, row: Mapping[str, Any], level: float) -> str:
    if row["low"] is None or row.get("p_holm") is None or row["p_holm"] > 1 - level:
        return "unclear"
    return sign_of(metric, row["low"], row["high"])
