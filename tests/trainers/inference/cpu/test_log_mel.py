"""The log-mel front-end for a CPU computes what the plain one computes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.frontends.config import FrontendConfig
from trainers.frontends.frontend import LogMel
from trainers.inference.cpu.build import CpuPath
from trainers.inference.cpu.log_mel import FoldedLogMel

RATE = 22_050
CONFIGS: list[dict[str, Any]] = [
    {},
    {"scale": "htk", "num_mels": 96, "n_fft": 2048, "window": 400, "hop": 160},
    {"min_hz": 300.0, "max_hz": 3_000.0, "num_mels": 17},
    {"n_fft": 255, "hop": 100, "num_mels": 80},  # narrow bands between two bins are zeros
]


def waves(rows: int, samples: int) -> Tensor:
    return 0.3 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("samples", [1_023, 8_821, 59_049])
@pytest.mark.parametrize("config", CONFIGS)
def test_it_is_the_plain_front_end(config: dict[str, Any], samples: int) -> None:
    mel = LogMel(FrontendConfig(kind="mel", **config), RATE)
    expected = torch.nn.Module.double(LogMel(mel.config, RATE))(waves(3, samples).double())
    exact = FoldedLogMel(torch.nn.Module.double(LogMel(mel.config, RATE)), torch.float64)
    torch.testing.assert_close(exact(waves(3, samples).double()), expected, rtol=0, atol=1e-12)
    found = FoldedLogMel(mel, torch.float32)(waves(3, samples))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * float(expected.max()))


def test_silence_and_quiet_sounds_stay_apart() -> None:
    mel = LogMel(FrontendConfig(kind="mel"), RATE)
    folded = FoldedLogMel(mel, torch.float32)
    assert not folded(torch.zeros(1, 5_000)).any()
    quiet = 1e-5 * waves(1, 5_000)
    torch.testing.assert_close(folded(quiet), mel(quiet), rtol=0, atol=2e-7)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_do_not_depend_on_each_other_or_on_their_layout(rows: int) -> None:
    folded = FoldedLogMel(LogMel(FrontendConfig(kind="mel"), RATE), torch.float32)
    wave_NT = waves(rows, 9_001)
    whole = folded(wave_NT)
    assert torch.equal(folded(wave_NT.mT.contiguous().mT), whole)
    assert torch.equal(folded(torch.cat([wave_NT, wave_NT])[:rows]), whole)
    assert torch.equal(torch.cat([folded(wave_T[None]) for wave_T in wave_NT]), whole)


def test_other_types_autocast_and_other_front_ends_are_left_alone() -> None:
    mel = LogMel(FrontendConfig(kind="mel"), RATE)
    path = CpuPath(torch.nn.Identity(), mel)
    assert path.frontend(waves(1, 5_000)) is not mel
    assert path.frontend(waves(1, 5_000).double()) is mel
    with torch.autocast("cpu", torch.bfloat16):
        assert path.frontend(waves(1, 5_000)) is mel
    other = torch.nn.Identity()
    assert CpuPath(torch.nn.Identity(), other).frontend(waves(1, 5_000)) is other
