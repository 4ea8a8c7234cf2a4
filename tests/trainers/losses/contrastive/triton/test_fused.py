"""The fused kernels without a GPU: run by Triton's interpreter, compiled for a Hopper GPU, refused where they must be.

What they compute is tested by `fused_cases.py` and, on several ranks, by `tests/distributed/fused_ranks.py`.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.losses.config import LossConfig
from trainers.losses.contrastive import loss as loss_module
from trainers.losses.contrastive.loss import contrastive_loss
from trainers.losses.contrastive.triton import launch
from trainers.losses.contrastive.triton.launch import SHARED_BYTES, even_splits

CHECKOUT = Path(__file__).resolve().parents[5]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def run_cases(*files: str, **environment: str) -> str:
    """The tests of files in a process whose environment decides how Triton runs."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-W", "error"]
    command += ["--strict-markers", "--import-mode=importlib", *files]
    done = subprocess.run(command, cwd=CHECKOUT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@needs_triton
def test_under_the_interpreter_all_cases_hold() -> None:
    files = ("tests/trainers/losses/contrastive/triton/fused_cases.py", "tests/distributed/fused_ranks.py")
    told = run_cases(*files, TRITON_INTERPRET="1")  # one process: its start takes seconds
    assert re.search(r"\d{2} passed, 2 skipped", told), told  # those of a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_all_cases_hold() -> None:
    assert re.search(r"\d+ passed", run_cases("tests/trainers/losses/contrastive/triton/fused_cases.py"))


class Recorder:
    """Stands for a kernel and keeps what it is launched with."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def __getitem__(self, _grid: object) -> Any:
        return self.given.update if not self.given else lambda **_: None


def recorded_launches(
    monkeypatch: pytest.MonkeyPatch, *, width: int = 128, tags: int = 50, **settings: Any
) -> dict[str, dict[str, Any]]:
    """Arguments of both kernels for a loss of bfloat16 products on a GPU."""
    from trainers.losses.contrastive.triton import kernels

    recorders = {name: Recorder() for name in ("sums_kernel", "gradient_kernel")}
    for name, recorder in recorders.items():
        monkeypatch.setattr(kernels, name, recorder)
    monkeypatch.setattr(loss_module, "obstacle", lambda *_: None)
    monkeypatch.setattr(loss_module, "_wants_half", lambda _z: True)
    labels = torch.ones(300, tags, dtype=torch.bool)
    z = torch.ones(300, width, requires_grad=True)
    contrastive_loss(z, torch.arange(300), labels, kernel="fused", **settings)
    return {name: recorder.given for name, recorder in recorders.items()}


def compiled_for_hopper(kernel: Any, given: dict[str, Any]) -> Any:
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64", torch.int8: "*i8"}
    names = [parameter.name for parameter in kernel.params]
    constants = {parameter.name: given[parameter.name] for parameter in kernel.params if parameter.is_constexpr}
    signature = {name: "constexpr" if name in constants else "i32" for name in names}
    signature |= {name: pointers[value.dtype] for name, value in given.items() if isinstance(value, Tensor)}
    aligned = {(k,): [["tt.divisibility", 16]] for k, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, aligned)
    options = {name: value for name, value in given.items() if name not in names}
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options)


@needs_triton
@pytest.mark.parametrize("name", ["sums_kernel", "gradient_kernel"])
@pytest.mark.parametrize(
    "settings", [{}, {"positives": "weighing", "temperature": 0.01}, {"width": 256, "tags": 256}], ids=str
)
def test_kernels_compile_for_hopper_and_use_its_matrix_units(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.losses.contrastive.triton import kernels

    kernel = getattr(kernels, name)
    compiled = compiled_for_hopper(kernel, recorded_launches(monkeypatch, **settings)[name])
    wide, tags = (len(re.findall(rf"wgmma\.mma_async\S*\.{kind}\b", compiled.asm["ptx"])) for kind in ("bf16", "s8"))
    assert wide > 0
    assert tags > 0
    assert compiled.metadata.shared <= SHARED_BYTES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {},
            "fused kernels cannot compute these rows: the rows are on cpu, not on a CUDA device; set kernel to auto",
        ),
        ({"clip_id": torch.arange(3)}, "clip_id must be int64"),
        ({"kernel": "cuda"}, "kernel must be one of auto, tiles, fused, got 'cuda'"),
    ],
    ids=str,
)
def test_asking_for_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"z": torch.ones(4, 3), "clip_id": torch.arange(4), "labels": None, "kernel": "fused"}
    with pytest.raises(ValueError, match=message):
        contrastive_loss(**given | change)


@needs_triton
@pytest.mark.parametrize(
    ("z", "tags", "epsilon", "why"),
    [
        (torch.ones(4, 3, dtype=torch.float64), 5, 0.0, "torch.float64, not torch.float32"),
        (torch.ones(4, 3), 5, 1e-6, "epsilon > 0"),
        (torch.ones(4, 257), 5, 0.0, "257 numbers are wider than 256"),
        (torch.ones(4, 3), 257, 0.0, "257 tags are more than 256"),
    ],
    ids=["float64", "epsilon", "width", "tags"],
)
def test_what_the_kernels_cannot_do_is_named(
    z: Tensor, tags: int, epsilon: float, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "interpreted", lambda: True)
    assert why in (launch.obstacle(z, torch.ones(4, tags, dtype=torch.bool), epsilon) or "")
    assert launch.obstacle(torch.ones(4, 3), torch.ones(4, 5, dtype=torch.bool), 0.0) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 1e-6}, "kernel=fused cannot compute epsilon > 0; set kernel to auto or tiles"),
        ({"tile": 256}, "tile is a setting of kernel=tiles; kernel=fused chooses tiles of its own"),
    ],
    ids=str,
)
def test_settings_that_the_kernels_ignore_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(kernel="fused", **settings)


def test_neither_torch_nor_the_loss_on_a_cpu_imports_triton() -> None:
    code = (
        "import sys, torch; from trainers.losses.contrastive.loss import contrastive_loss as loss;"
        "loss(torch.ones(4, 3), torch.arange(4), None); "
        "sys.exit('trainers.losses.contrastive.triton.kernels' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT).returncode == 0


@pytest.mark.parametrize("row_tiles", [1, 3, 100, 264, 265, 384, 1536, 8192])
def test_programs_share_row_tiles_until_the_last_round_is_nearly_full(row_tiles: int) -> None:
    slots = 264
    splits = even_splits(row_tiles, 10_000, slots)
    programs = row_tiles * splits
    assert programs / (-(-programs // slots) * slots) > 0.8
    assert even_splits(row_tiles, 1, slots) == 1
