"""Imports that cost less: without what else a package imports, and without searching what is imported for garbage."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from threading import Lock
from typing import Any

_lock = Lock()
_alone: dict[str, Any] = {}


@contextmanager
def uncollected(*, freeze: bool = True) -> Iterator[None]:
    """Import within: Python looks for no garbage meanwhile, and never again among what is there by then.

    Importing torch makes a million objects that stay. The collector goes through them again and again while they come,
    and once more at the end of the process: a quarter of the processor time of an import. With ``freeze`` it leaves out
    for good what is there then, if anything was imported; not for a process that has data of its own already, of which
    some may become garbage.
    """
    if not gc.isenabled():
        yield
        return
    before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if freeze and len(sys.modules) > before:
            gc.freeze()
        gc.enable()


def import_alone(name: str) -> Any:
    """The module ``package.module`` without the imports of the package's ``__init__``, where they were not made yet.

    For a module that needs little of a package that imports all of itself. Whoever imports the package later gets all
    of it as usual, with a copy of this module that is its own: one made without its package may differ.
    Raises ModuleNotFoundError if it is not installed.
    """
    package = name.partition(".")[0]
    with _lock:
        if name in _alone:
            return _alone[name]
        if package in sys.modules or (spec := find_spec(package)) is None:
            return import_module(name)
        sys.modules[package] = module_from_spec(spec)
        try:
            return _alone.setdefault(name, import_module(name))
        finally:
            for made in [there for there in sys.modules if there.partition(".")[0] == package]:
                del sys.modules[made]
