"""Convolutions with a sum and ReLU are those of plain layers."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d

from trainers.inference.cpu.fused_conv import FusedConv

TYPES = pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@TYPES
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("taps", [2, 3])
@pytest.mark.parametrize(("inside", "outside"), [(1, 11), (11, 33), (22, 1), (44, 88)])
def test_it_is_a_convolution_at_any_length(
    inside: int, outside: int, taps: int, relu: bool, dtype: torch.dtype, atol: float
) -> None:
    kernel, bias = numbers(outside, inside, taps), numbers(outside)
    fused = FusedConv(kernel, bias, dtype)
    for length in (50, 3, 1, 7, 1_001):
        x_LC = numbers(length, inside)
        expected = conv1d(x_LC.mT[None], kernel, bias, padding=1)[0].mT
        found = fused(x_LC.to(dtype), relu=relu)
        assert found.is_contiguous()
        torch.testing.assert_close(found.double(), expected.relu() if relu else expected, rtol=0, atol=10 * atol)


@TYPES
@pytest.mark.parametrize("outside", [1, 11, 88])
def test_the_sum_is_written_over_what_it_is_added_to_and_nowhere_else(
    outside: int, dtype: torch.dtype, atol: float
) -> None:
    kernel, bias = numbers(outside, 22, 3), numbers(outside)
    fused = FusedConv(kernel, bias, dtype)
    for length in (31, 1, 640):
        x_LC, room = numbers(length, 22), numbers(length + 3, outside)
        added = room.to(dtype)
        result = fused.add_relu(x_LC.to(dtype), added[1 : 1 + length])
        assert result.data_ptr() == added[1:].data_ptr()
        room[1 : 1 + length] = (room[1 : 1 + length] + conv1d(x_LC.mT[None], kernel, bias, padding=1)[0].mT).relu()
        torch.testing.assert_close(added.double(), room, rtol=0, atol=10 * atol)
