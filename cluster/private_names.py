"""What this project uses of other libraries beyond their public interface, as data that a test compares with them."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class PrivateName:
    """One private name of a library."""

    place: str
    """``module:attribute.attribute``."""
    used_by: str
    """Module of this project."""
    purpose: str
    parameters: tuple[str, ...] = ()
    """Of a function: parameters that are passed or overridden."""


def moved(names: Iterable[PrivateName]) -> list[str]:
    """A sentence for each name that the installed library has no longer, or whose parameters changed.

    >>> moved([PrivateName("json:JSONEncoder._iter", "cluster.x", "streaming")])
    ['json moved json:JSONEncoder._iter: used by cluster.x for streaming']
    """
    return [
        f"{name.place.partition('.')[0].partition(':')[0]} {change}: used by {name.used_by} for {name.purpose}"
        for name in names
        if (change := _change(name))
    ]


def _change(name: PrivateName) -> str:
    module, _, path = name.place.partition(":")
    try:
        found: Any = import_module(module)
        for part in filter(None, path.split(".")):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return f"moved {name.place}"
    try:
        known = inspect.signature(found).parameters if name.parameters else {}
    except (TypeError, ValueError):  # compiled code has no signature
        return ""
    lost = [word for word in name.parameters if word not in known]
    return f"changed {name.place}, which has no {', '.join(lost)}" if lost else ""
