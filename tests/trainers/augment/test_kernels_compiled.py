"""Every kernel that the chain launches, compiled for a Hopper GPU where none is: types, shapes, registers, spills."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.augment.chain import AugmentChain
from trainers.augment.parameters import PRESETS

triton = pytest.importorskip("triton")

from trainers.augment.kernels.turning import turn_frames  # noqa: E402

SCALARS = {torch.float32: "fp32", torch.float64: "fp64", torch.int64: "i64", torch.int16: "i16"}
FEW_BYTES = 16
"""Triton 3.6 spills two registers of one kernel, 3.8 none."""
Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What would be launched: kernel, arguments, options. Nothing runs, results stay unwritten."""
    seen: list[Launch] = []

    def record(kernel: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        assert len(grid) == 1
        assert 0 < grid[0] < 2**31
        seen.append((kernel, args, options))

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", record)
    return seen


def compiled(launch: Launch) -> Any:
    """As the just-in-time compiler would compile it: constants, alignment and all, for compute capability 9.0."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, args, options = launch
    given = dict(zip(kernel.arg_names, args, strict=False)) | {
        k: v for k, v in options.items() if k in kernel.arg_names
    }
    signature, constants, attributes = {}, {}, {}
    for parameter in kernel.params:
        value = given[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name], address = f"*{SCALARS[value.dtype]}", value.data_ptr()
            is_aligned = address % 16 == 0 and not parameter.do_not_specialize_on_alignment
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            is_aligned = isinstance(value, int) and value % 16 == 0
        if is_aligned and not parameter.do_not_specialize:
            attributes[kernel.arg_names.index(parameter.name),] = [["tt.divisibility", 16]]
    more = {k: v for k, v in options.items() if k not in kernel.arg_names}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=more)


def resources(binary: Any, folder: Path) -> dict[str, int]:
    """REG, STACK, SHARED and LOCAL of a compiled kernel; a spilt register lies on the stack."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    file = folder / "kernel.cubin"
    file.write_bytes(binary.asm["cubin"])
    usage = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True).stdout
    return {name: int(count) for name, count in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}


def test_every_kernel_of_the_chain_compiles_for_hopper_without_spilling(launches: list[Launch], tmp_path: Path) -> None:
    names = ("gain", "noise", "filter", "pitch", "stretch", "delay")
    config = replace(PRESETS["paper"], **{name: replace(getattr(PRESETS["paper"], name), p=1.0) for name in names})
    for each in (config, replace(config, filter=replace(config.filter, p=0.0))):
        chain = AugmentChain(each, 22_050, fused=True)
        chain.apply(torch.randn(4, 9000), chain.draw(torch.arange(4), step=0, seed=0, view=0), 6000)
    ratio, analysed = torch.ones(2, dtype=torch.float64), torch.zeros(40, 513, dtype=torch.complex64)
    turn_frames(analysed, torch.arange(2), ratio, ratio, frames=20, moved=20, rows=40, parts=3)
    different = {kernel.__name__ + str(options): (kernel, args, options) for kernel, args, options in launches}
    assert {kernel.__name__ for kernel, _, _ in launches} == {
        *("segments_kernel", "echo_kernel", "level_kernel", "shape_kernel", "put_kernel", "frame_kernel"),
        *("part_kernel", "turn_kernel", "overlap_kernel", "spline_kernel"),
    }
    for launch in different.values():
        used = resources(compiled(launch), tmp_path)
        assert used["REG"] <= 128, (launch[0].__name__, used)
        assert used["STACK"] <= FEW_BYTES, (launch[0].__name__, used)
        assert used["LOCAL"] == 0
