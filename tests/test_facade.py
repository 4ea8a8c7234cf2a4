"""`import counterpoint` is a library: every public name is there, typed, and imports no more than it needs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import counterpoint
from cluster.settings import ROOT


def loaded_after(code: str) -> set[str]:
    """Top-level modules of a new interpreter after some code, without the standard library and this project's."""
    own = {path.name.removesuffix(".py") for path in ROOT.iterdir()}
    program = f"import sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    found = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    return found - own - set(sys.stdlib_module_names)


def test_importing_the_library_imports_no_other() -> None:
    assert loaded_after("import counterpoint; dir(counterpoint)") == set()


def test_the_loss_needs_torch_and_numpy_alone() -> None:
    found = loaded_after("from counterpoint import contrastive_loss")
    torchs_own = loaded_after("import torch, numpy")
    assert "torch" in found
    assert found - torchs_own <= {"torch", "numpy"}


@pytest.mark.parametrize("name", counterpoint.__all__)
def test_a_public_name_is_where_a_type_checker_sees_it(name: str) -> None:
    module, original = typed_imports()[name]
    assert counterpoint._PLACES[name] in (module, f"{module}:{original}")
    assert getattr(counterpoint, name) is getattr(sys.modules[module], original)


def test_no_public_name_is_missing_anywhere() -> None:
    assert list(counterpoint.__all__) == sorted(set(counterpoint.__all__))
    assert set(counterpoint.__all__) == set(counterpoint._PLACES) == set(typed_imports())
    assert set(counterpoint.__all__) <= set(dir(counterpoint))
    with pytest.raises(AttributeError, match="no attribute 'contrastiv_loss'"):
        counterpoint.contrastiv_loss  # noqa: B018


def typed_imports() -> dict[str, tuple[str, str]]:
    """Public name → module and original name, of the imports below ``if TYPE_CHECKING``."""
    tree = ast.parse(Path(counterpoint.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
