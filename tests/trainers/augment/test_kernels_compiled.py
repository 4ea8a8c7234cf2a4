"""Every kernel that the chain launches, compiled for a Hopper GPU where none is: types, shapes, registers, spills."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.augment.chain import AugmentChain
from trainers.augment.parameters import PRESETS, AugmentConfig

triton = pytest.importorskip("triton")

SCALARS = {torch.float32: "fp32", torch.float64: "fp64", torch.int64: "i64", torch.int16: "i16"}
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
    said = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True).stdout
    return {name: int(count) for name, count in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said)}


def every(quality: str, **changes: Any) -> AugmentConfig:
    """Every effect for every row."""
    names = ("gain", "noise", "filter", "pitch", "stretch", "delay")
    sure = {name: replace(getattr(PRESETS["paper"], name), p=1.0) for name in names}
    return replace(PRESETS["paper"], **sure, quality=quality, **changes)


@pytest.mark.parametrize("quality", ["training", "evaluation"])
def test_every_kernel_of_the_chain_compiles_for_hopper_without_spilling(
    quality: str, launches: list[Launch], tmp_path: Path
) -> None:
    config = every(quality)
    chain = AugmentChain(config, 22_050, fused=True)
    wave = torch.randn(4, 9000)
    chain.apply(wave, chain.draw(torch.arange(4), step=0, seed=0, view=0), 6000)
    noise_alone = AugmentChain(replace(config, filter=replace(config.filter, p=0.0)), 22_050, fused=True)
    noise_alone.apply(wave, noise_alone.draw(torch.arange(4), step=0, seed=0, view=0), 6000)
    names = {kernel.__name__ for kernel, _, _ in launches}
    assert names >= {
        *("segments_kernel", "echo_kernel", "level_kernel", "shape_kernel", "put_kernel"),
        *("frame_kernel", "turn_kernel", "overlap_kernel", "spline_kernel"),
    }
    different = {
        (kernel.__name__, tuple(sorted(options.items()))): (kernel, args, options) for kernel, args, options in launches
    }
    for launch in different.values():
        used = resources(compiled(launch), tmp_path)
        print(launch[0].__name__, launch[2], used)
        continue
        assert used["STACK"] == 0
        assert used["LOCAL"] == 0
        assert used["REG"] <= 128
