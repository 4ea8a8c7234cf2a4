"""The keys of a configuration dataclass as rows of a reference: type, range, default and meaning."""

import ast
import functools
import inspect
import itertools
import json
import re
import textwrap
import types
import typing
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

NEEDED = "needed"
"""The default of a key that has none."""
_PLAIN: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Any: "any value",
    type(None): "null",
}
_NUMBER = r"-?\d+(?:\.\d+)?"
_INTERVAL = rf"[\[(]{_NUMBER}, {_NUMBER}[\])]"
_RANGE = re.compile(rf"\bin ({_INTERVAL})|(?:^|[,;] )([≥≤<>] {_NUMBER})")
"""``in [0, 1]`` anywhere, ``> 0`` behind a comma or semicolon: behind a name it is a condition."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One dotted key of a configuration."""

    key: str
    """Dotted; a name that the user chooses is in capitals, ``tasks.NAME.kind``; ``[]`` follows the key of a list."""
    type: str
    """Type, or the values that may be chosen."""
    range: str
    """As the docstring or the check of the class states it, empty where neither does."""
    default: str
    """As it is written on the command line; ``needed`` where there is none."""
    meaning: str
    """The docstring of the field, in one line."""


def keys_of(schema: type, prefix: str = "", instance: Any = None) -> list[Key]:
    """Every key of a configuration dataclass, nested ones included, in the order of the fields; defaults are those of
    ``instance`` where it is given.

    >>> from cluster.machine.resources import ResourcesConfig
    >>> [(key.key, key.type, key.range, key.default) for key in keys_of(ResourcesConfig, "resources.")[:1]]
    [('resources.num_workers', 'whole number', '≥ 0', '1')]
    """
    hints, meanings = get_type_hints(schema), field_docstrings(schema)
    rows: list[Key] = []
    for item in fields(schema):
        path, kind = f"{prefix}{item.name}", hints[item.name]
        default = item.default if item.default_factory is MISSING else item.default_factory()
        default = default if instance is None else getattr(instance, item.name)
        if is_dataclass(kind) and isinstance(kind, type):
            rows += keys_of(kind, f"{path}.", None if default is MISSING else default)
            continue
        inner = inner_dataclass(kind)
        meaning = meanings.get(item.name, "")
        if inner and not meaning:  # what the docstring of the section's class says first
            meaning = (inspect.getdoc(inner[0]) or "").partition("\n\n")[0].replace("\n", " ")
        stated = " and ".join(dict.fromkeys(first or second for first, second in _RANGE.findall(meaning)))
        stated = stated or _checked_range(schema, instance, item.name, kind)
        rows.append(Key(key=path, type=describe_type(kind), range=stated, default=_text(default), meaning=meaning))
        rows += keys_of(inner[0], f"{path}{inner[1]}") if inner else []
    return rows


def _checked_range(schema: type, instance: Any, name: str, kind: Any) -> str:
    """The range that the class's own check states when it refuses a number; empty where it refuses none."""
    if not {int, float} & set(_alternatives(kind)):
        return ""
    message = re.compile(rf"(?<![\w-]){name}\b[^,;]*? must (?:be |lie )?(?:in )?({_INTERVAL}|[<>]=? ?\d[\d.^]*)")
    for value in (-1, 0, 2):
        try:
            replace(instance or schema(), **{name: value})
        except ValueError as error:
            if found := message.search(str(error)):
                return found[1].replace(">=", "≥").replace("<=", "≤").rstrip(".")
        except TypeError:  # a field without a default: there is no instance to try it on
            return ""
    return ""


def inner_dataclass(kind: Any) -> tuple[type, str] | None:
    """The dataclass that a mapping's values, a list's items or an optional value are, and what its keys follow."""
    for part in _alternatives(kind):
        between = {dict: ".NAME.", tuple: "[].", list: "[]."}.get(get_origin(part) or part, ".")
        for inner in (part, *get_args(part)):
            if is_dataclass(inner) and isinstance(inner, type):
                return inner, between
    return None


def _text(default: Any) -> str:
    """A default as an override is written."""
    if default is MISSING:
        return NEEDED
    if isinstance(default, str):
        return default or '""'
    if isinstance(default, tuple):
        default = list(default)
    return json.dumps(default, ensure_ascii=False)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def describe_type(kind: Any) -> str:
    """A type in words.

    >>> describe_type(int | None), describe_type(Literal["a", "b"]), describe_type(tuple[float, ...])
    ('whole number or null', 'a | b', 'list of: number')
    """
    if len(parts := _alternatives(kind)) > 1:
        return " or ".join(describe_type(part) for part in parts)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (tuple, list):
        same = origin is list or Ellipsis in args
        return f"list of: {describe_type(args[0])}" if same else f"[{', '.join(map(describe_type, args))}]"
    if origin is dict:
        return f"mapping of names to: {describe_type(args[1])}"
    return "section" if is_dataclass(kind) else _PLAIN.get(kind, str(kind))


@functools.cache
def field_docstrings(schema: type) -> dict[str, str]:
    """The docstring below each field of a class and of its bases, in one line."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if not is_dataclass(base):
            continue
        body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]).body
        for field, after in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(field.target, ast.Name):
                found[field.target.id] = " ".join(str(ast.literal_eval(after.value)).split()).replace("``", "`")
    return found
