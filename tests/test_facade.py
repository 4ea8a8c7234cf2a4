"""`import counterpoint` is a library: every public name is there, typed, and imports no more than it needs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

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
    """Public name → module and original name, of what stands below ``if TYPE_CHECKING``."""
    tree = ast.parse(Path(counterpoint.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in block.body:
        if isinstance(node, ast.Assign):  # a name of its own: an alias is no export to a type checker
            found[ast.unparse(node.targets[0])] = found.pop(ast.unparse(node.value))
    return found


CHAIN = "AugmentChain(augment_presets['paper'], 22050)"
DRAWN = f"{CHAIN}.draw(torch.arange(2), step=0, seed=0, view=0)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "pretrain('conf/pretrain/tiny.yaml')",
            r"config must be a ExperimentConfig, got 'conf.*load_config\(Experiment",
        ),
        ("evaluate('run', 'conf/evaluation/tiny.yaml', 'out')", "config must be a EvaluationConfig"),
        ("BatchLoader('sets/mine', frames=8, seed=0)", "config must be a DataConfig"),
        ("ViewMaker('tiny', AugmentConfig())", "views must be a ViewsConfig"),
        ("ViewMaker(ViewsConfig(), 'paper')", "augment must be a AugmentConfig"),
        (
            "ViewMaker(ViewsConfig(), AugmentConfig(), device='cudda')",
            "device='cudda': there is none here .*; take cpu",
        ),
        ("AugmentChain('paper', 22050)", "config must be a AugmentConfig"),
        ("AugmentChain(AugmentConfig(), 0)", "sample_rate must be a number of Hz > 0, got 0"),
        (f"{CHAIN}.draw([0, 1], step=0, seed=0, view=0)", "slots must be a torch tensor of whole numbers .*got list"),
        (f"{CHAIN}.draw(torch.zeros(2, 1).long(), step=0, seed=0, view=0)", r"got torch.int64 of shape \(2, 1\)"),
        (f"{CHAIN}.apply(np.zeros((2, 9)), {DRAWN})", "wave must be a torch tensor .* got ndarray"),
        (f"{CHAIN}.apply(torch.zeros(2, 9, device='meta'), {DRAWN})", "that holds numbers, got shape"),
        (f"{CHAIN}.apply(torch.zeros(2, 9), None)", "parameters must be what draw returns, got a NoneType"),
        (f"{CHAIN}.apply(torch.zeros(2, 9), {DRAWN}, -1)", "num_samples must be a whole number > 0, got -1"),
        ("load_encoder('open-mel', 'gpu')", "device='gpu': there is none here .*; take cpu"),
        ("load_encoder('open-mel')(torch.zeros(59049))", r"waves must be a float32 tensor .*of shape \(59049,\)"),
        ("load_encoder('open-mel')(torch.zeros(1, 59049).double())", "waves must be a float32 tensor .*torch.float64"),
        ("load_encoder('open-mel')(torch.zeros(0, 59049))", "neither of them 0"),
        ("load_config(ExperimentConfig, None, 'seed=3')", r"overrides must be a list or a mapping, .*\['seed=3'\]"),
        ("search('open-mel', 'conf', 'LICENSE', by=3)", "by must be a text or a mapping of names to weights, got 3"),
    ],
)
def test_an_argument_of_another_kind_is_named(call: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = {name: getattr(counterpoint, name) for name in counterpoint.__all__ if re.search(rf"\b{name}\b", call)}
    with pytest.raises((ValueError, TypeError), match=message):
        eval(call, names | {"torch": torch, "np": np})


def test_paths_may_be_texts() -> None:
    preset = str(ROOT / "conf/pretrain/tiny.yaml")
    assert counterpoint.load_config(counterpoint.ExperimentConfig, preset).data.batch == 24
