"""TUNe+ without gradients on a CPU: frames before channels in memory.

The upper levels have many frames of few channels: there oneDNN's convolutions on channels last take half the time of
any matrix products. The lower levels have many channels and go through `winograd`.

Shape suffixes: N rows, T samples, L frames, P = L / 3, C channels in, D channels out, E encoder width.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.encoders.tune_plus import STEP, TunePlus
from trainers.inference.cpu.folding import Branches, constant, fold
from trainers.inference.cpu.winograd import Frames, empty_frames, end_through, folded, pool_through

NARROW = 3
"""Levels of few channels."""


class FoldedTunePlus:
    """The same embeddings up to rounding.

    Args:
        network: whose U and tail are read.
        branches: what follows them, steps of the tail; a space each. None where the tail is whole.
        dtype: of the waves.
    """

    def __init__(self, network: TunePlus, branches: Branches | None, dtype: torch.dtype) -> None:
        ups: list[Any] = list(network.up)
        self.down = _narrow(network.down[:NARROW], dtype)
        self.down_wide = folded(network.down[NARROW:], dtype)
        self.up = [_Up(up.rise, up.block, dtype) for up in ups]
        self.again = _narrow(network.again[: NARROW - 1], dtype)
        self.again_wide = folded(network.again[NARROW - 1 :], dtype)
        tail, ends = (network.tail, branches) if branches else (network.tail[:-1], [network.tail[-1:]])
        self.tail = folded(tail, dtype)
        self.ends = [folded(end, dtype) for end in ends]

    def __call__(self, wave_NT: Tensor) -> Tensor:
        """Embed waves (N, T) as (N, E)."""
        x_NLC = wave_NT[:, : wave_NT.shape[1] // STEP * STEP, None]
        skips, bottom = self._go_down(x_NLC)
        levels = self._go_up(bottom.part(self.down_wide[0].width).linear(), skips)
        frames = self._go_down_again(levels, bottom)
        return end_through(self.ends, pool_through(self.tail, frames))

    def _go_down(self, x_NLC: Tensor) -> tuple[list[Tensor], Frames]:
        """Skips of the levels; the lowest, with room before it for what is pooled above."""
        skips: list[Tensor] = []
        for block in self.down:
            skips.append(block(x_NLC).relu_())
            x_NLC = _pooled(skips[-1])
        above, below = self.down_wide
        skip = above.full(_frames(x_NLC))
        skips.append(skip.linear())
        pooled_NLC = skip.pooled()
        bottom = empty_frames(len(x_NLC), pooled_NLC.shape[1], above.width + below.width, x_NLC)
        below.full(_frames(pooled_NLC), bottom.part(above.width))
        return skips, bottom

    def _go_up(self, x_NLC: Tensor, skips: list[Tensor]) -> list[Tensor]:
        """The levels from the top down."""
        levels: list[Tensor] = []
        for up, skip_NLC in zip(self.up, skips[::-1], strict=True):
            levels.append(up(levels[-1] if levels else x_NLC, skip_NLC))
        return levels[::-1]

    def _go_down_again(self, levels: list[Tensor], bottom: Frames) -> Frames:
        """The way down that joins every level, ready for the tail."""
        top_NLC, *narrow, wide_NLC = levels
        x_NLC = _pooled(top_NLC)
        for block, level_NLC in zip(self.again, narrow, strict=True):
            x_NLC = _pooled(block(torch.cat([x_NLC, level_NLC], 2))).relu_()
        above, below = self.again_wide
        joined = empty_frames(len(x_NLC), wide_NLC.shape[1], above.channels, x_NLC)
        joined.part(0, x_NLC.shape[2]).fill(x_NLC)
        joined.part(x_NLC.shape[2]).fill(wide_NLC)
        above.pooled(joined, bottom.part(0, above.width))
        return below.pooled(bottom)


class _NarrowConv:
    """Convolution over three frames with zeros around."""

    def __init__(self, kernel_DC3: Tensor, bias_D: Tensor, dtype: torch.dtype) -> None:
        kernel_DC13 = constant(kernel_DC3[:, :, None], dtype)
        self.kernel_DC13 = kernel_DC13.contiguous(memory_format=torch.channels_last)
        self.bias_D = constant(bias_D, dtype)
        self.width = len(bias_D)

    def __call__(self, x_NLC: Tensor) -> Tensor:
        """L frames from L frames, (N, L, D)."""
        y_ND1L = functional.conv2d(x_NLC.mT[:, :, None], self.kernel_DC13, self.bias_D, padding=(0, 1))
        return y_ND1L.squeeze(2).mT.contiguous()  # it lies so already, but for a single channel


class _Up:
    """ReLU(convolution of what rises beside the skip).

    A transposed convolution and the convolution of its result are one convolution of the coarse frames, with three
    outputs a frame: fewer products, and nothing is joined. The convolution's zeros lie outside of what has risen, where
    there is no bias of the transposed convolution either.
    """

    def __init__(self, rise: nn.ConvTranspose1d, block: nn.Module, dtype: torch.dtype) -> None:
        assert rise.bias is not None
        kernel_ED3, bias_E = fold(block)
        taps_CD3, bias_D = rise.weight.detach().double(), rise.bias.detach().double()
        risen_ED3, skip_ED3 = torch.split(kernel_ED3, len(bias_D), 1)
        coarse_3EC3 = risen_ED3.new_zeros(3, len(bias_E), len(taps_CD3), 3)
        for output in range(3):
            for tap in range(3):
                place, fine = divmod(output + tap - 1, 3)
                coarse_3EC3[output, :, :, 1 + place] += risen_ED3[:, :, tap] @ taps_CD3[:, :, fine].mT
        of_bias_E3 = torch.einsum("edt,d->et", risen_ED3, bias_D)
        self.coarse = _NarrowConv(coarse_3EC3.flatten(0, 1), (bias_E + of_bias_E3.sum(1)).repeat(3), dtype)
        self.skip = _NarrowConv(skip_ED3, torch.zeros_like(bias_E), dtype)
        self.first_E, self.last_E = constant(of_bias_E3[:, 0], dtype), constant(of_bias_E3[:, 2], dtype)

    def __call__(self, x_NPC: Tensor, skip_NLD: Tensor) -> Tensor:
        """(N, L, E) from P = L / 3 frames below."""
        y_NLE = self.coarse(x_NPC).view(*skip_NLD.shape[:2], -1)
        y_NLE[:, 0] -= self.first_E
        y_NLE[:, -1] -= self.last_E
        return y_NLE.add_(self.skip(skip_NLD)).relu_()


def _narrow(blocks: Iterable[nn.Module], dtype: torch.dtype) -> list[_NarrowConv]:
    return [_NarrowConv(*fold(block), dtype) for block in blocks]


def _frames(x_NLC: Tensor) -> Frames:
    rows, length, channels = x_NLC.shape
    return empty_frames(rows, length, channels, x_NLC).fill(x_NLC)


def _pooled(x_NLC: Tensor) -> Tensor:
    """The greatest of every three frames, (N, P, C)."""
    rows, length, channels = x_NLC.shape
    first, second, third = x_NLC.view(rows, length // 3, 3, channels).unbind(2)
    return torch.maximum(torch.maximum(first, second), third)
