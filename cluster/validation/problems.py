"""A configuration dataclass built from a plain tree, and every problem of a tree that does not fit, at once."""

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cluster.validation.messages import MISSING

MAX_FAULTS = 20
"""Faults that are looked for in one configuration."""
Path = tuple[str, ...]
"""Keys from the root of a tree to one of its nodes."""


def build(schema: type, tree: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """The built dataclass and no problems, or None and the problems that pydantic finds at once.

    A section's own check is skipped where one of its values is wrong.
    """
    try:
        return _adapter(schema).validate_json(json.dumps(tree), strict=True), []
    except ValidationError as error:
        return None, _one_for_each_key(tree, error.errors())


def problems_of(schema: type, tree: Mapping[str, Any]) -> list[Any]:
    """The problems that pydantic finds at once."""
    return build(schema, tree)[1]


def _one_for_each_key(tree: Mapping[str, Any], problems: Iterable[Any]) -> list[Any]:
    """Problems with a single one where a key may be of several types: pydantic has one for each of them, and adds the
    type to the key. One inside of a value, as of an item of a list, is nearer to what was meant than one of the whole.
    """
    of_types: dict[tuple[Any, ...], list[Any]] = {}
    for number, problem in enumerate(problems):
        at = None if problem["type"] in MISSING else _type_in(tree, problem["loc"])
        loc = problem["loc"] if at is None else problem["loc"][:at] + problem["loc"][at + 1 :]
        key = (number,) if at is None else problem["loc"][:at]
        of_types.setdefault((at is None, key), []).append({**problem, "loc": loc})
    merged = []
    for group in of_types.values():
        deepest = max(len(problem["loc"]) for problem in group)
        parts: dict[tuple[Any, ...], list[Any]] = {}
        for problem in group:
            if len(problem["loc"]) == deepest:
                parts.setdefault(problem["loc"], []).append(problem)
        for of_part in parts.values():
            first, *others = dict.fromkeys(problem["msg"] for problem in of_part)
            wanted = " or ".join([first, *(other.removeprefix("Input should be ") for other in others)])
            merged.append({**of_part[-1], "msg": wanted})
    return merged


def _type_in(tree: Any, place: tuple[Any, ...]) -> int | None:
    """Where a problem's place names one of several types of a value, and no key or number of the tree; else None."""
    for at, part in enumerate(place):
        inside = part in tree if isinstance(tree, Mapping) else isinstance(tree, list) and isinstance(part, int)
        if not inside:
            return at
        tree = tree[part]
    return None


@functools.cache
def _adapter(schema: Any) -> Any:
    """Made once a class: it takes a thousand times longer than a validation."""
    return TypeAdapter(schema)


def all_problems(schema: type, tree: Mapping[str, Any], problems: list[Any]) -> list[Any]:
    """Every problem of a tree, those included that pydantic finds only once others are mended.

    The key at fault is taken out of the tree, and the rest is validated again. What then names a key that was taken
    out follows from its default, and is no fault of the user's.
    """
    rest: dict[str, Any] = deepcopy(dict(tree))
    found: list[Any] = []
    gone: list[Path] = []
    untrusted: set[Path] = set()
    while problems and len(found) < MAX_FAULTS:
        fresh = [problem for problem in problems if not _follows(problem, gone, untrusted, found)]
        found += [problem for problem in fresh if problem not in found]
        taken = [path for path in (_key_at_fault(schema, rest, problem) for problem in problems) if path]
        for path in taken:
            _take_out(rest, path)
        untrusted |= {_place(problem)[:-1] for problem in problems if problem["type"] == "literal_error"}
        untrusted |= {_place(problem) for problem in problems if "or module:factory, got" in problem["msg"]}
        gone += taken
        problems = problems_of(schema, rest) if taken else []
    return found


def _follows(problem: Mapping[str, Any], gone: list[Path], untrusted: set[Path], found: list[Any]) -> bool:
    """Whether a problem is one of a default that stands for a key taken out, that such a key is missing, or what a rule
    that was broken by several keys finds of those that are left.
    """
    if problem["type"] != "value_error":
        return problem["type"] in MISSING and _place(problem) in gone
    rule = problem["msg"].partition(": ")[2]
    left = bool(rule) and any(one["loc"] == problem["loc"] and one["msg"].endswith(f": {rule}") for one in found)
    return left or any(_names(problem, path) for path in gone) or _place(problem) in untrusted


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
        return _reached(tree, place) if problem["type"] not in MISSING else None
    best: tuple[tuple[int, int, bool], Path] | None = None
    for path in _leaves(tree):
        if path[: len(place)] != place:
            continue
        rest = deepcopy(dict(tree))
        _take_out(rest, path)
        left = [(_place(other), other["msg"]) for other in problems_of(schema, rest)]
        if (place, problem["msg"]) in left or path in (where for where, _ in left):  # it is needed
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
