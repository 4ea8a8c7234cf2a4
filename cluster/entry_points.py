"""Parts of the user's own code: ``module:factory`` with settings that are checked against the factory's signature.

A configuration that the user wrote may name such a part; code that only a file names (a snapshot, an exported encoder)
is imported after `require_trust` alone.
"""

import difflib
import importlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, is_dataclass, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from cluster.settings import ROOT, Config, UserError, validate
from cluster.validation.messages import nearest

OR_OWN = "or module:factory"
"""Ends the list of names in the refusal of one that is unknown."""
_ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_imported: dict[str, ModuleType] = {}
"""Modules of users' parts that this process has imported, by top-level name; Ray sessions ship them to workers."""


def is_entry_point(name: str) -> bool:
    """Whether a name is ``module:factory``.

    >>> is_entry_point("my_parts:TinyNet"), is_entry_point("sample_cnn"), is_entry_point("s3://bucket/run")
    (True, False, False)
    """
    return bool(_ENTRY_POINT.fullmatch(name))


def entry_points_in(text: str) -> list[str]:
    """The entry points that stand in a text as whole words.

    >>> entry_points_in("[{'name': 'my_parts:Mask'}]"), entry_points_in("http://head:8265"), entry_points_in("s3://a/b")
    (['my_parts:Mask'], [], [])
    """
    words = re.findall(r"[\w.:/-]+", text)
    return [word for word in words if is_entry_point(word)]


def check_name(key: str, name: str, known: Iterable[str], settings: Mapping[str, Any]) -> None:
    """Refuse a name that is neither known nor ``module:factory``, and settings beside a known one. Imports nothing.

    Raises:
        ValueError: names what is known and the nearest.
    """
    if is_entry_point(name):
        return
    names = list(known)
    if name not in names:
        raise ValueError(f"{key} must be {', '.join(names)} {OR_OWN}, got {name!a}{nearest(name, names)}")
    if settings:
        raise ValueError(f"settings belong to a {key} of your own (module:factory); {name} has none")


def import_factory(name: str, key: str) -> Callable[..., Any]:
    """Import what ``module:factory`` names; the module is found on PYTHONPATH or in the working directory.

    Raises:
        UserError: if there is no such module or factory, or its import fails.
    """
    module_name, _, path = name.partition(":")
    module = _import(module_name, name, key)
    found: Any = module
    for part in path.split("."):
        near = difflib.get_close_matches(part, [word for word in dir(found) if not word.startswith("_")], n=1)
        if not hasattr(found, part):
            hint = f"; did you mean {module_name}:{near[0]}?" if near else ""
            raise UserError(f"{key}={name}: module {module_name} has no {path}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{key}={name}: {path} is a {type(found).__name__}, not a function or class")
    factory: Callable[..., Any] = found
    return factory


def _import(module_name: str, name: str, key: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # an installed script, unlike `python -m`, does not look there
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise UserError(
                f"{key}={name}: no module {missing} in {here} or on PYTHONPATH; start the command in the folder that "
                f"holds {missing}, or add that folder to PYTHONPATH"
            ) from error
        raise UserError(f"{key}={name}: {module_name} imports {missing}, which is not installed") from error
    except Exception as error:  # whatever a user's module does when it is imported
        raise UserError(f"{key}={name}: importing {module_name} failed ({type(error).__name__}: {error})") from error
    top = module_name.partition(".")[0]
    _imported[top] = sys.modules[top]
    return module


def check_settings(
    factory: Callable[..., Any], settings: Mapping[str, Any], key: str, *, given: Sequence[str] = ()
) -> dict[str, Any]:
    """Validate settings against a factory's signature, with the messages of built-in keys.

    A factory whose only free parameter is a dataclass gets that dataclass, built from the settings; any other gets the
    settings as keyword arguments.

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
    parameters, hints = _parameters(factory), _hints(factory)
    free = {name: item for name, item in parameters.items() if name not in given}
    only = next(iter(free), "")
    if len(free) == 1 and is_dataclass(hints.get(only)):
        built = _validated(hints[only], settings, key)
        return {only: built}
    open_ended = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in _signature(factory).values())
    known = {name: value for name, value in settings.items() if name in free or not open_ended}
    fields: list[Any] = []
    for name, item in free.items():
        kind = hints.get(name, Any)
        default = () if item.default is inspect.Parameter.empty else (_default(item.default),)
        fields.append((name, kind, *default))
    fields.sort(key=len)  # a dataclass wants fields without a default first
    schema = make_dataclass("Settings", fields, bases=(Config,), frozen=True, kw_only=True)
    checked = _validated(schema, known, key)
    named = {name: getattr(checked, name) for name in known}
    return named | {name: value for name, value in settings.items() if name not in known}


def create(name: str, settings: Mapping[str, Any], key: str, **given: Any) -> Any:
    """Import a factory, check its settings and call it.

    Raises:
        UserError: as `import_factory` and `check_settings`, or if the factory raises.
    """
    factory = import_factory(name, key)
    wanted = {word: value for word, value in given.items() if word in _signature(factory)}
    arguments = check_settings(factory, settings, ".".join([*key.split(".")[:-1], "settings"]), given=list(wanted))
    with failures_named(f"{key}={name}: the factory failed"):
        return factory(**arguments, **wanted)


@contextmanager
def failures_named(what: str) -> Iterator[None]:
    """Whatever a user's own code raises becomes one message; a `UserError` is one already.

    >>> with failures_named("encoder.name=mine:Net: its forward failed"):
    ...     [][0]
    Traceback (most recent call last):
    cluster.settings.UserError: encoder.name=mine:Net: its forward failed (IndexError: list index out of range)
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} ({type(error).__name__}: {error})") from error


def require_trust(parts: Mapping[str, str], source: object, *, trust_code: bool) -> None:
    """Refuse to import code because a file names it.

    Raises:
        UserError: if there are any and the user did not.
    """
    if parts and not trust_code:
        named = ", ".join(f"{key}={name}" for key, name in parts.items())
        raise UserError(
            f"{source}: needs code that is not part of Counterpoint ({named}); if you trust it, add --trust-code and "
            "run where the module is in the working directory or on PYTHONPATH"
        )


def shipped_modules() -> list[str]:
    """Files or folders of the users' modules that this process has imported and another machine may lack."""
    libraries = {Path(path).resolve() for path in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))}
    found = []
    for module in _imported.values():
        locations = list(getattr(module, "__path__", [])) or [module.__file__ or ""]
        path = Path(locations[0]).resolve()
        inside = any(path.is_relative_to(folder) for folder in (*libraries, *_packages()))
        if locations[0] and not inside:
            found.append(str(path))
    return sorted(found)


def _packages() -> list[Path]:
    """Folders of this checkout that travel with it."""
    return [folder for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()]


def _signature(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a class written in C has none
        return {}


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What may be passed by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: item for name, item in _signature(factory).items() if item.kind in by_name}


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    target: Any = getattr(factory, "__init__") if isinstance(factory, type) and not is_dataclass(factory) else factory  # noqa: B009
    try:
        return get_type_hints(target)
    except Exception:  # an annotation that names what only a type checker imports: the value is then unchecked
        return {}


def _default(value: Any) -> Any:
    return field(default_factory=lambda: value) if isinstance(value, list | dict | set) else value


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
