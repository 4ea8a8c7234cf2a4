"""TUNe+ without gradients on a CPU: frames before channels in memory.

The upper levels have many frames of few channels: there oneDNN's convolutions on channels last take half the time of
any matrix products. The lower levels have many channels and go through `winograd`. A transposed convolution is one
product, whose result lies in the order of the frames.

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
        self.rise = _Rise(ups[0].rise, dtype)
        (self.up_wide,) = folded([ups[0].block], dtype)
        self.up = [_Up(up.rise, up.block, dtype) for up in ups[1:]]
        self.again = _narrow(network.again[: NARROW - 1], dtype)
        self.again_wide = folded(network.again[NARROW - 1 :], dtype)
        tail, ends = (network.tail, branches) if branches else (network.tail[:-1], [network.tail[-1:]])
        self.tail = folded(tail, dtype)
        self.ends = [folded(end, dtype) for end in ends]

    def __call__(self, wave_NT: Tensor) -> Tensor:
        """Embed waves (N, T) as (N, E)."""
        x_NLC = wave_NT[:, : wave_NT.shape[1] // STEP * STEP, None]
        skips, wide_skip, bottom = self._go_down(x_NLC)
        wide_level, levels, x_NLC = self._go_up(skips, wide_skip, bottom)
        frames = self._go_down_again(x_NLC, levels, wide_level, bottom)
        return end_through(self.ends, pool_through(self.tail, frames))

    def _go_down(self, x_NLC: Tensor) -> tuple[list[Tensor], Frames, Frames]:
        """Skips of the levels; below, with room before them for what rises or is pooled above."""
        skips: list[Tensor] = []
        for block in self.down:
            skips.append(block(x_NLC).relu_())
            x_NLC = _pooled(skips[-1])
        above, below = self.down_wide
        skip = empty_frames(len(x_NLC), x_NLC.shape[1], 2 * above.width, x_NLC)
        pooled_NLC = above.full(_frames(x_NLC), skip.part(above.width)).pooled()
        bottom = empty_frames(len(x_NLC), pooled_NLC.shape[1], above.width + below.width, x_NLC)
        below.full(_frames(pooled_NLC), bottom.part(above.width))
        return skips, skip, bottom

    def _go_up(self, skips: list[Tensor], skip: Frames, bottom: Frames) -> tuple[Frames, list[Tensor], Tensor]:
        """The wide level, with room before its channels; the narrow ones in the order of the way down; the top."""
        width, before = self.up_wide.width, self.down[-1].width
        skip.part(0, width).fill(self.rise(bottom.part(width).linear()))
        level = empty_frames(len(bottom.planes_N3RC), skip.length, before + width, self.up_wide.bias_D)
        x_NLC = self.up_wide.full(skip, level.part(before)).linear()
        levels: list[Tensor] = []
        for up, skip_NLC in zip(self.up, skips[::-1], strict=True):
            levels.append(up(x_NLC, skip_NLC))
            x_NLC = levels[-1]
        return level, levels[-2::-1], _pooled(x_NLC)

    def _go_down_again(self, x_NLC: Tensor, levels: list[Tensor], level: Frames, bottom: Frames) -> Frames:
        """The way down that joins every level, ready for the tail."""
        for block, level_NLC in zip(self.again, levels, strict=True):
            x_NLC = _pooled(block(torch.cat([x_NLC, level_NLC], 2))).relu_()
        above, below = self.again_wide
        level.part(0, x_NLC.shape[2]).fill(x_NLC)
        above.pooled(level, bottom.part(0, above.width))
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


class _Rise:
    """Transposed convolution of stride 3: frame p becomes the frames 3p, 3p + 1 and 3p + 2."""

    def __init__(self, rise: nn.ConvTranspose1d, dtype: torch.dtype) -> None:
        assert rise.bias is not None
        self.map_CX = constant(rise.weight.permute(0, 2, 1).flatten(1), dtype)
        self.bias_X = constant(rise.bias.repeat(3), dtype)

    def __call__(self, x_NPC: Tensor) -> Tensor:
        """(N, L, D) from (N, P, C)."""
        risen = torch.addmm(self.bias_X, x_NPC.flatten(0, 1), self.map_CX)
        return risen.view(len(x_NPC), 3 * x_NPC.shape[1], -1)


class _Up:
    """ReLU(convolution of what rises beside the skip), of a level of few channels.

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
