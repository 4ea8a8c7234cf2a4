"""Convolutions two outputs at a time are plain convolutions, and rows behind each other are rows."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from trainers.inference.cpu.fused_conv import Fused
from trainers.inference.cpu.pairs import ThreeTaps, TwoTaps
from trainers.inference.cpu.rows import Rows, close, inside, padded

TYPES = pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
LENGTHS = pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 30, 101])


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def frames(length: int, channels: int, dtype: torch.dtype) -> Tensor:
    x_RC = padded(length, channels, torch.zeros(0, dtype=dtype))
    inside(x_RC).copy_(numbers(length, channels))
    return x_RC


def plain(x_RC: Tensor, kernel_DCK: Tensor, bias_D: Tensor | None = None) -> Tensor:
    return conv1d(inside(x_RC).double().mT[None], kernel_DCK, bias_D, padding=1)[0].mT


@TYPES
@LENGTHS
def test_two_taps(length: int, dtype: torch.dtype, atol: float) -> None:
    kernel_DC2, x_RC = numbers(5, 4, 2), frames(length, 4, dtype)
    room = torch.full(((length + 2) // 2 * 2, 7), torch.nan, dtype=dtype)
    TwoTaps(kernel_DC2, dtype)(x_RC, room[:, :5])
    torch.testing.assert_close(room[: length + 1, :5].double(), plain(x_RC, kernel_DC2), rtol=0, atol=20 * atol)
    assert room[:, 5:].isnan().all()


@TYPES
@LENGTHS
@pytest.mark.parametrize("kind", [ThreeTaps, Fused])
@pytest.mark.parametrize(("inputs", "is_added"), [(1, False), (2, False), (1, True)])
def test_three_taps_of_one_or_two_inputs_and_what_is_added(
    kind: type[ThreeTaps | Fused], inputs: int, is_added: bool, length: int, dtype: torch.dtype, atol: float
) -> None:
    kernels, bias_D = [numbers(5, channels, 3) for channels in (4, 3)[:inputs]], numbers(5)
    x = [frames(length, kernel_DC3.shape[1], dtype) for kernel_DC3 in kernels]
    added_RD = frames(length, 5, dtype) if is_added else None
    expected = sum((plain(*pair) for pair in zip(x, kernels, strict=True)), start=bias_D)
    if added_RD is not None:
        expected = expected + inside(added_RD).double()
    found = close(kind(kernels, bias_D, dtype)(*x, added_RD=added_RD)).double()
    torch.testing.assert_close(found, pad(expected.relu(), (0, 0, 1, 2)), rtol=0, atol=20 * atol)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("scale", [1, 3, 9])
def test_rows_behind_each_other_have_zeros_around_them_at_every_level(number: int, scale: int) -> None:
    rows, frames_NLC = Rows(number, 5), 1 + numbers(number, 5 * scale, 4).abs()
    x_RC = rows.filled(frames_NLC)
    assert torch.equal(rows.split(x_RC), frames_NLC)
    assert torch.equal(x_RC[1:-2].view(number, -1, 4)[:, 5 * scale :], torch.zeros(number, scale, 4))
    assert not x_RC[0].any()
    assert not x_RC[-2:].any()
    written = torch.where(x_RC > 0, x_RC, torch.nan)
    assert torch.equal(rows.cleared(written), x_RC)
    assert written.isfinite().all()
