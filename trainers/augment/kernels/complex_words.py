"""Complex numbers in kernels: two float32 in one 64-bit word, so that a load or store is one access.

Shape suffixes: K numbers.
"""

from functools import lru_cache
from math import pi

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def unpack(word):
    """Real and imaginary part."""
    return word.to(tl.int32).to(tl.float32, bitcast=True), (word >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def pack(re, im):
    """The word of two parts."""
    low = re.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    return (im.to(tl.int32, bitcast=True).to(tl.int64) << 32) | low


@triton.jit
def times(a_re, a_im, b_re, b_im):
    """Product of two complex numbers."""
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@lru_cache(maxsize=16)
def roots_of_unity(count: int, size: int, device: torch.device) -> Tensor:
    """exp(2πi·k/size) for k < count, complex64."""
    angle_K = 2 * pi / size * torch.arange(count, dtype=torch.float64)
    return torch.polar(torch.ones_like(angle_K), angle_K).to(device, torch.complex64)


def words(number: Tensor) -> Tensor:
    """A complex64 tensor as the int64 words that kernels read."""
    return number.view(torch.int64)
