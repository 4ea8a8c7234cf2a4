"""A column's metric: one of a report, in a space of the encoder, on clean or on corrupted audio.

``NAME [in SPACE] [[change] under CONDITION]``: ``key/weighted@10 in pitch``, ``tags/ap under severity 3``,
``tags/ap in invariant change under reverb``.
"""

import re
from dataclasses import dataclass

from cluster.settings import UserError

_GRAMMAR = re.compile(r"(?P<name>.+?)(?: in (?P<space>\S+))?(?: (?P<change>change )?under (?P<condition>.+))?")


@dataclass(frozen=True)
class Metric:
    """What a column shows."""

    name: str
    """Of the report: ``task/metric``."""
    space: str = ""
    """Space of the encoder; empty for its whole embedding."""
    condition: str = ""
    """What the audio is corrupted by; empty for clean audio."""
    change: bool = False
    """The relative change from clean audio instead of the value."""

    def on(self, condition: str) -> str:
        """What the report calls it under a condition."""
        return f"{self.name} under {condition}" if condition else self.name


def parse_metric(text: str) -> Metric:
    """Read a column's metric.

    >>> parse_metric("tags/ap in pitch change under reverb")
    Metric(name='tags/ap', space='pitch', condition='reverb', change=True)
    >>> parse_metric("key/weighted@10 in pitch").space, parse_metric("tags/ap under severity 3").condition
    ('pitch', 'severity 3')

    Raises:
        UserError: for parts in another order.
    """
    found = _GRAMMAR.fullmatch(text)
    if found is None or " in " in f"{found['name']} {found['condition']}":
        raise UserError(f"metric {text!r}: the order is NAME in SPACE change under CONDITION, each at most once")
    return Metric(found["name"], found["space"] or "", found["condition"] or "", bool(found["change"]))
