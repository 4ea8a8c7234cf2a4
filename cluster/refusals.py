"""Refusals come all at once: every fault of a configuration, and what several checks find, in one message."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from cluster.settings import UserError, problems_of

MAX_FAULTS = 20
"""Faults that are looked for in one configuration."""
Path = tuple[str, ...]
"""Keys from the root of a tree to one of its nodes."""


class Refusals:
    """Collects what several checks refuse.

    >>> refusals = Refusals()
    >>> with refusals.noted():
    ...     raise UserError("batch must be > 0")
    >>> refusals.add("steps must be > 0")
    >>> refusals.require_none()
    Traceback (most recent call last):
    cluster.settings.UserError: batch must be > 0
    steps must be > 0
    """

    def __init__(self) -> None:
        self._found: dict[str, None] = {}

    def add(self, message: str) -> None:
        """Note a refusal; the same words once."""
        self._found |= dict.fromkeys(message.splitlines())

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the `UserError` that the block raises, and go on behind it."""
        try:
            yield
        except UserError as error:
            self.add(str(error))

    def require_none(self) -> None:
        """Refuse where anything was noted.

        Raises:
            UserError: all of it, one refusal a line.
        """
        if self._found:
            raise UserError("\n".join(self._found))


def all_problems(schema: type, tree: Mapping[str, Any], problems: list[Any]) -> list[Any]:
    """Every problem of a tree, those included that pydantic finds only once others are mended.

    The key at fault is taken out of the tree, and the rest is validated again. What then names a key that was taken
    out follows from its default, and is no fault of the user's.

    Args:
        schema: the root dataclass.
        tree: what does not validate.
        problems: what pydantic found first.
    """
    rest: dict[str, Any] = deepcopy(dict(tree))
    found: list[Any] = []
    gone: list[Path] = []
    untrusted: set[Path] = set()
    while problems and len(found) < MAX_FAULTS:
        fresh = [problem for problem in problems if not _follows(problem, gone, untrusted)]
        found += [problem for problem in fresh if problem not in found]
        taken = [path for path in (_key_at_fault(schema, rest, problem) for problem in problems) if path]
        for path in taken:
            _take_out(rest, path)
        untrusted |= {_place(problem)[:-1] for problem in problems if problem["type"] == "literal_error"}
        gone += taken
        problems = problems_of(schema, rest) if taken else []
    return found


def _follows(problem: Mapping[str, Any], gone: list[Path], untrusted: set[Path]) -> bool:
    """Whether a problem is one of a default that stands for a key taken out."""
    if problem["type"] != "value_error":
        return False
    return any(_names(problem, path) for path in gone) or _place(problem) in untrusted


def _names(problem: Mapping[str, Any], path: Path) -> bool:
    return bool(re.search(rf"(?<![\w-]){re.escape(path[-1])}(?![\w-])", problem["msg"]))


def _place(problem: Mapping[str, Any]) -> Path:
    return tuple(map(str, problem["loc"]))


def _key_at_fault(schema: type, tree: Mapping[str, Any], problem: Mapping[str, Any]) -> Path | None:
    """The key without which a problem is gone; of several, the one whose default brings no problem of its own, then
    the one that leaves the fewest, then one that the message names.
    """
    place = _place(problem)
    if problem["type"] != "value_error":
        return _reached(tree, place) if problem["type"] not in ("missing", "missing_argument") else None
    best: tuple[tuple[int, int, bool], Path] | None = None
    for path in _leaves(tree):
        if path[: len(place)] != place:
            continue
        rest = deepcopy(dict(tree))
        _take_out(rest, path)
        left = [(_place(other), other["msg"]) for other in problems_of(schema, rest)]
        if (place, problem["msg"]) in left:
            continue
        own = sum(bool(path[:-1]) and where == path[:-1] for where, _ in left)
        cost = own, len(left), not _names(problem, path)
        if best is None or cost < best[0]:
            best = cost, path
    return best[1] if best else _reached(tree, place)


def _reached(tree: Mapping[str, Any], place: Path) -> Path | None:
    """The part of a place that the mappings of a tree hold; inside a list, the list."""
    node: Any = tree
    for depth, name in enumerate(place):
        if not isinstance(node, Mapping) or name not in node:
            return place[:depth] or None
        node = node[name]
    return place or None


def _leaves(tree: Mapping[str, Any], above: Path = ()) -> Iterator[Path]:
    for name, value in tree.items():
        path = (*above, str(name))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        else:
            yield path


def _take_out(tree: dict[str, Any], path: Path) -> None:
    for name in path[:-1]:
        tree = tree.get(name, {})
    tree.pop(path[-1], None)
