"""Parts of the user's own code: ``module:factory`` with settings that are checked against the factory's signature.

A configuration that the user wrote may name such a part; code that only a file names (a snapshot, an exported encoder)
is imported after `require_trust` alone.
"""

import difflib
import importlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from cluster.own_settings import check_settings, signature_of
from cluster.settings import ROOT, UserError
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
    """Refuse a name that is neither known nor ``module:factory``, and settings beside a known one. Imports nothing."""
    if is_entry_point(name):
        return
    names = list(known)
    if name not in names:
        hint = nearest(name, names) or _as_entry_point(name)
        raise ValueError(f"{key} must be {', '.join(names)} {OR_OWN}, got {name!a}{hint}")
    if settings:
        raise ValueError(f"settings belong to a {key} of your own (module:factory); {name} has none")


def _as_entry_point(name: str) -> str:
    """How to write a file's path, or a name with a dot, as an entry point.

    >>> _as_entry_point("./parts/net.py:Net"), _as_entry_point("net.Net"), _as_entry_point("net")
    ('; write net:Net and start in, or add to PYTHONPATH, ./parts', '; write net:Net', '')
    """
    path, sign, factory = name.strip().rpartition(":")
    folder, _, file = path.rpartition("/")
    module = file.removesuffix(".py")
    if not sign and "/" not in name:
        module, _, factory = name.rpartition(".")
    meant = f"{module}:{factory}"
    if not is_entry_point(meant):
        return ""
    return f"; write {meant}" + (f" and start in, or add to PYTHONPATH, {folder}" if folder else "")


def import_factory(name: str, key: str) -> Callable[..., Any]:
    """Import what ``module:factory`` names, from PYTHONPATH or the working directory. Raises UserError if it fails."""
    module_name, _, path = name.partition(":")
    module = _import(module_name, name, key)
    found: Any = module
    parts = path.split(".")
    for place, part in enumerate(parts):
        if not hasattr(found, part):
            hint = _hint(found, [module_name, *parts[:place]], parts[place:])
            raise UserError(f"{key}={name}: module {module_name}{_place(module)} has no {path}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{key}={name}: {path} is a {type(found).__name__}, not a function or class")
    factory: Callable[..., Any] = found
    return factory


def _hint(found: Any, above: list[str], rest: list[str]) -> str:
    """The entry point that was meant where what is found has no such name."""
    module_name, *parents = above
    if not parents:
        with suppress(Exception):  # find_spec raises what the package's own code raises
            if importlib.util.find_spec(f"{module_name}.{rest[0]}"):
                return f"; did you mean {module_name}.{rest[0]}:{'.'.join(rest[1:]) or 'FACTORY'}?"
    near = difflib.get_close_matches(rest[0], [word for word in dir(found) if not word.startswith("_")], n=1)
    return f"; did you mean {module_name}:{'.'.join([*parents, *near])}?" if near else ""


def _place(module: ModuleType) -> str:
    """Where a module was found, if another file of its name lies in the working directory or none is the user's."""
    top = module.__name__.partition(".")[0]
    file = getattr(module, "__file__", None)
    own = [path for path in (Path.cwd() / f"{top}.py", Path.cwd() / top) if path.exists()]
    if any(str(file or "").startswith(str(path)) for path in own):
        return ""
    hidden = f"; it hides {own[0]}: rename that" if own else ""
    return f" ({file or 'built in'}{hidden})"


def _import(module_name: str, name: str, key: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # an installed script, unlike `python -m`, does not look there
    top = module_name.partition(".")[0]
    try:
        with failures_named(f"{key}={name}: importing {module_name} failed"):
            module = _imported_module(module_name)
    except _MissingModuleError as error:
        missing = error.missing
        if missing == top:
            near = nearest(top, [path.stem for path in Path(here).glob("*.py")])
            raise UserError(
                f"{key}={name}: no module {top} in {here} or on PYTHONPATH{near}; start the command in the folder that "
                f"holds {top}, or add that folder to PYTHONPATH"
            ) from error
        if module_name == missing or module_name.startswith(f"{missing}."):
            above = missing.rpartition(".")[0]
            package = sys.modules[above]
            inside = [path.stem for folder in getattr(package, "__path__", []) for path in Path(folder).glob("*.py")]
            where = _place(package) or f" ({package.__file__ or here})"
            raise UserError(
                f"{key}={name}: {above}{where} has no module {missing.rpartition('.')[2]}"
                f"{nearest(missing.rpartition('.')[2], inside)}"
            ) from error
        raise UserError(f"{key}={name}: {module_name} imports {missing}, which is not installed") from error
    _imported[top] = sys.modules[top]
    return module


class _MissingModuleError(UserError):
    """A module that is not there, by its name."""

    def __init__(self, missing: str) -> None:
        super().__init__(missing)
        self.missing = missing


def _imported_module(module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise _MissingModuleError(error.name or module_name) from error


def create(name: str, settings: Mapping[str, Any], key: str, **given: Any) -> Any:
    """Import a factory, check its settings and call it. Raises UserError if any of these fails."""
    factory = import_factory(name, key)
    wanted = {word: value for word, value in given.items() if word in signature_of(factory)}
    arguments = check_settings(factory, settings, ".".join([*key.split(".")[:-1], "settings"]), given=list(wanted))
    with failures_named(f"{key}={name}: the factory failed"):
        return factory(**arguments, **wanted)


@contextmanager
def failures_named(what: str) -> Iterator[None]:
    """Whatever a user's own code raises becomes one message; a `UserError` is one already.

    So does an exit that it asks for: a script that ends with ``sys.exit()`` was not written to be imported.

    >>> with failures_named("encoder.name=mine:Net: its forward failed"):
    ...     [][0]
    Traceback (most recent call last):
    cluster.settings.UserError: encoder.name=mine:Net: its forward failed (IndexError: list index out of range)
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} ({described(error)})") from error


def described(error: BaseException) -> str:
    """An error of the user's own code: its type, and its message where it has one.

    >>> described(ValueError("too wide")), described(ValueError()), described(SystemExit(0))
    ('ValueError: too wide', 'ValueError', 'SystemExit: 0')
    """
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def own_failure(error: BaseException) -> str:
    """Where the user's own code failed: the deepest of its lines in a traceback; nothing if there is none.

    Only what `import_factory` imported in this process is known to be the user's.
    """
    ours = {"torch", *(folder.name for folder in _packages())}
    deepest = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        top = frame.f_globals.get("__name__", "").partition(".")[0]
        if top in _imported and top not in ours:
            deepest = f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_qualname}"
    return deepest


def require_trust(parts: Mapping[str, str], source: object, *, trust_code: bool) -> None:
    """Refuse, by a UserError, to import code that a file names and the user did not."""
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
