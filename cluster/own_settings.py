"""Settings of a user's own part, checked against the signature or dataclass of its factory."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, make_dataclass
from functools import cache
from typing import Any, get_type_hints

from cluster.settings import Config, UserError, validate

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_settings(
    factory: Callable[..., Any], settings: Mapping[str, Any], key: str, *, given: Sequence[str] = ()
) -> dict[str, Any]:
    """Validate settings against a factory's signature, with the messages of built-in keys.

    A factory whose only free parameter is a dataclass gets that dataclass, built from the settings; any other gets the
    settings as keyword arguments. A parameter that no setting names keeps its default, whatever its type.

    Args:
        factory: the user's function or class.
        settings: of the configuration, plain JSON types.
        key: dotted path of the settings, for messages: ``encoder.settings``.
        given: parameters that the product passes itself and no setting may name.

    Returns:
        Keyword arguments for the factory.

    Raises:
        UserError: for an unknown, missing or wrong setting; it names the dotted key and the nearest right one.
    """
    signature, hints = signature_of(factory), _hints(factory)
    free = {name: item for name, item in signature.items() if item.kind in _BY_NAME and name not in given}
    only = next(iter(free), "")
    if len(free) == 1 and is_dataclass(hints.get(only)):
        return {only: _validated(_readable(hints[only], key), settings, key)}
    _refuse_unnamed(signature, settings, key, factory)
    if not settings and all(item.default is not inspect.Parameter.empty for item in free.values()):
        return {}  # every row of a study asks for the kinds of its tasks, and a schema takes a millisecond
    open_ended = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in signature.values())
    known = {name: value for name, value in settings.items() if name in free or not open_ended}
    fields: list[Any] = []
    for name, item in free.items():
        if item.default is inspect.Parameter.empty:
            fields.append((name, _readable(hints.get(name, Any), f"{key}.{name}")))
        elif name in known:
            fields.append((name, _readable(hints.get(name, Any), f"{key}.{name}"), None))
        else:  # its default stands, which may be anything; the name is there to be found as the nearest
            fields.append((name, Any, None))
    schema = make_dataclass("Settings", fields, bases=(Config,), frozen=True, kw_only=True)
    checked = _validated(schema, known, key)
    named = {name: getattr(checked, name) for name in known}
    return named | {name: value for name, value in settings.items() if name not in known}


def signature_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Parameters by name; none where Python does not know them."""
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a class written in C has none
        return {}


def _refuse_unnamed(
    signature: Mapping[str, inspect.Parameter], settings: Mapping[str, Any], key: str, factory: Callable[..., Any]
) -> None:
    """Refuse parameters that no setting can reach, since settings are passed by name."""
    for name, item in signature.items():
        needed = item.default is inspect.Parameter.empty or name in settings
        if item.kind is inspect.Parameter.POSITIONAL_ONLY and needed:
            raise UserError(
                f"{key}.{name}: settings are passed by name, and this parameter of {_name(factory)} takes none; take "
                "the / out of its signature"
            )
    first = next(iter(signature.values()), None)
    a_method = inspect.isfunction(factory) and "." in factory.__qualname__.rpartition("<locals>.")[2]
    if a_method and first is not None and first.name == "self":
        raise UserError(
            f"{key}: {_name(factory)} is a method that needs an object; name a function, a class or a static method"
        )


@cache
def _adaptable(kind: Any) -> bool:
    from pydantic import PydanticUserError, TypeAdapter

    try:
        TypeAdapter(kind)
    except (PydanticUserError, TypeError):
        return False
    return True


def _readable(kind: Any, path: str) -> Any:
    """A type that values of a configuration have a form in. Raises UserError if it is none."""
    try:
        known = _adaptable(kind)
    except TypeError:  # a type that cannot be hashed
        known = False
    if not known and is_dataclass(kind):
        for name, inner in _hints(kind).items():
            _readable(inner, f"{path}.{name}")
    if not known:
        raise UserError(
            f"{path}: a configuration holds text, numbers, lists and mappings, no {getattr(kind, '__name__', kind)}; "
            "take text or a number there, and convert it in your factory"
        )
    return kind


def _hints(factory: Any) -> dict[str, Any]:
    target: Any = getattr(factory, "__init__") if isinstance(factory, type) and not is_dataclass(factory) else factory  # noqa: B009
    try:
        return get_type_hints(target)
    except Exception:  # an annotation that names what only a type checker imports: the value is then unchecked
        return {}


def _name(factory: Callable[..., Any]) -> str:
    return getattr(factory, "__qualname__", type(factory).__name__)


def _validated(schema: type, settings: Mapping[str, Any], key: str) -> Any:
    """Validate below the dotted path ``key``, so that messages name whole keys."""
    names = [
        f"at_{name}" if name.isdigit() else name for name in key.split(".")
    ]  # a place in a list is no field's name
    tree: dict[str, Any] = dict(settings)
    for name in reversed(names):
        schema = make_dataclass("Section", [(name, schema)], bases=(Config,), frozen=True, kw_only=True)
        tree = {name: tree}
    try:
        found: Any = validate(schema, tree, "settings of your own code")
    except UserError as error:
        raise UserError(re.sub(r"\bat_(?=\d)", "", str(error))) from None
    for name in names:
        found = getattr(found, name)
    return found
