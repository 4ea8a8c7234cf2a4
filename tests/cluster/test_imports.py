"""Imports that cost less change nothing of what is imported."""

import gc
import subprocess
import sys

import pytest

from cluster.imports import import_alone, uncollected
from cluster.settings import ROOT

ALONE = """
import sys
from cluster.imports import import_alone
key = import_alone("mir_eval.key")
assert key.weighted_score("C major", "G major") == 0.5
assert "scipy" not in sys.modules, "the package's own imports were made"
assert not [name for name in sys.modules if name.startswith("mir_eval")], "a later import would get part of a package"
assert import_alone("mir_eval.key") is key
import mir_eval
assert mir_eval.key.weighted_score("C major", "G major") == 0.5 and callable(mir_eval.beat.f_measure)
assert import_alone("mir_eval.key") is key
"""


def test_a_module_comes_without_its_package_and_the_whole_package_can_be_imported_later() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("name", ["no_such_package.key", "mir_eval.no_such_module"])
def test_what_is_not_there_is_named_and_leaves_nothing_behind(name: str) -> None:
    package = name.partition(".")[0]
    before = sys.modules.get(package)
    with pytest.raises(ModuleNotFoundError, match=name.split(".")[package == "mir_eval"]):
        import_alone(name)
    assert sys.modules.get(package) is before


def test_garbage_is_collected_again_afterwards_even_if_an_import_fails() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), uncollected():
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()
    gc.unfreeze()
