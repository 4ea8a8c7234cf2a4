"""TUNe+ without gradients on a CPU.

The upper levels have many frames of few channels: there a channel's frames lie together, and a convolution is five
matrix products as wide as a row is long. The lower levels have many channels and go through `winograd`. What is
concatenated is written beside each other in the first place; a transposed convolution is a product for each tap.

Shape suffixes: N rows, T samples, L frames, P = L / 3, R = P + 2, C channels in, D channels out, E encoder width.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainers.encoders.tune_plus import STEP, TunePlus
from trainers.inference.cpu.folding import Branches, constant, fold
from trainers.inference.cpu.winograd import Frames, empty_frames, end_through, folded, pool_through

NARROW = 3
"""Levels whose frames of a channel lie together; their rows are (3, C, R), frame 3p + j at ``[j, :, 1 + p]``."""


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
        self.rises = [_Rise(up.rise, dtype) for up in ups]
        (self.up_wide,) = folded([ups[0].block], dtype)
        self.up = _narrow([up.block for up in ups[1:]], dtype)
        self.again = _narrow(network.again[: NARROW - 1], dtype)
        self.again_wide = folded(network.again[NARROW - 1 :], dtype)
        tail, ends = (network.tail, branches) if branches else (network.tail[:-1], [network.tail[-1:]])
        self.tail = folded(tail, dtype)
        self.ends = [folded(end, dtype) for end in ends]

    def __call__(self, wave_NT: Tensor) -> Tensor:
        """Embed waves (N, T) as (N, E)."""
        wave_N1L = wave_NT[:, None, : wave_NT.shape[1] // STEP * STEP]
        narrow_skips, wide_skip, wide_below = self._go_down(wave_N1L)
        wide_level, narrow_levels, x_NCL = self._go_up(narrow_skips, wide_skip, wide_below)
        frames = self._go_down_again(x_NCL, narrow_levels, wide_level, wide_below)
        return end_through(self.ends, pool_through(self.tail, frames))

    def _go_down(self, x_NCL: Tensor) -> tuple[list[Tensor], Frames, Frames]:
        """Skips of the levels, with room before them for what rises; the bottom, with room for what is pooled above."""
        skips: list[Tensor] = []
        for block in self.down:
            skip_N3CR = _room(len(x_NCL), 2 * block.width, x_NCL.shape[2] // 3 + 2, x_NCL)
            block(_planes(x_NCL), skip_N3CR[:, :, block.width :])
            skips.append(skip_N3CR)
            x_NCL = _pooled(skip_N3CR[:, :, block.width :])
        above, below = self.down_wide
        frames = empty_frames(len(x_NCL), x_NCL.shape[2], x_NCL.shape[1], x_NCL).fill(x_NCL.mT)
        skip = empty_frames(len(x_NCL), frames.length, 2 * above.width, x_NCL)
        pooled_NLC = above.full(frames, skip.part(above.width)).pooled()
        frames = empty_frames(len(pooled_NLC), pooled_NLC.shape[1], above.width, pooled_NLC).fill(pooled_NLC)
        bottom = empty_frames(len(x_NCL), frames.length, above.width + below.width, x_NCL)
        below.full(frames, bottom.part(above.width))
        return skips, skip, bottom

    def _go_up(self, skips: list[Tensor], skip: Frames, bottom: Frames) -> tuple[Frames, list[Tensor], Tensor]:
        """Levels of the way up, with room before their channels for what is pooled above them, the top one pooled."""
        width, before = self.up_wide.width, self.down[-1].width
        self.rises[0](bottom.part(width).linear().mT, skip.planes_N3RC[:, :, 1:-1, :width].mT)
        level = empty_frames(len(bottom.planes_N3RC), skip.length, before + width, self.up_wide.bias_D)
        x_NCL = self.up_wide.full(skip, level.part(before)).linear().mT
        levels: list[Tensor] = []
        for rise, block, both_N3CR in zip(self.rises[1:], self.up, skips[::-1], strict=True):
            rise(x_NCL, both_N3CR[:, :, : block.width, 1:-1])
            before = self.down[NARROW - 2 - len(levels)].width if len(levels) < NARROW - 1 else 0
            level_N3CR = _room(len(both_N3CR), before + block.width, both_N3CR.shape[3], x_NCL)
            block(both_N3CR, level_N3CR[:, :, before:])
            levels.append(level_N3CR)
            x_NCL = (_linear if before else _pooled)(level_N3CR[:, :, before:])
        return level, levels[-2::-1], x_NCL

    def _go_down_again(self, x_NCL: Tensor, narrow: list[Tensor], level: Frames, bottom: Frames) -> Frames:
        """The way down that joins every level, ready for the tail."""
        for block, both_N3CR in zip(self.again, narrow, strict=True):
            _planes(x_NCL, both_N3CR[:, :, : x_NCL.shape[1]])
            y_N3DR = _room(len(both_N3CR), block.width, both_N3CR.shape[3], x_NCL)
            x_NCL = _pooled(block(both_N3CR, y_N3DR))
        above, below = self.again_wide
        level.part(0, x_NCL.shape[1]).fill(x_NCL.mT)
        above.pooled(level, bottom.part(0, above.width))
        return below.pooled(bottom)


class _NarrowConv:
    """ReLU(convolution over three frames with zeros around) of rows whose frames of a channel lie together."""

    def __init__(self, kernel_DC3: Tensor, bias_D: Tensor, dtype: torch.dtype) -> None:
        self.taps_DK = constant(kernel_DC3.permute(0, 2, 1).flatten(1), dtype)
        self.bias_D1 = constant(bias_D[:, None], dtype)
        self.width, self.channels = kernel_DC3.shape[:2]

    def __call__(self, x_N3CR: Tensor, out_N3DR: Tensor) -> Tensor:
        """Fill the places of ``out``, whose ends stay as they are."""
        c, taps_DK = self.channels, self.taps_DK
        for x_3CR, out_3DR in zip(x_N3CR, out_N3DR, strict=True):
            rows_KR = x_3CR.flatten(0, 1)
            first_DP, second_DP, third_DP = out_3DR[:, :, 1:-1]
            # Frame 3p + j reads the frames before and after it: of other places where j is 0 or 2.
            torch.mm(taps_DK[:, c:], rows_KR[: 2 * c, 1:-1], out=first_DP).addmm_(taps_DK[:, :c], rows_KR[2 * c :, :-2])
            torch.mm(taps_DK, rows_KR[:, 1:-1], out=second_DP)
            torch.mm(taps_DK[:, : 2 * c], rows_KR[c:, 1:-1], out=third_DP)
            third_DP.addmm_(taps_DK[:, 2 * c :], rows_KR[:c, 2:])
            for y_DP in (first_DP, second_DP, third_DP):
                y_DP.add_(self.bias_D1).relu_()
        return out_N3DR


class _Rise:
    """Transposed convolution of stride 3: frame p becomes the frames 3p, 3p + 1 and 3p + 2."""

    def __init__(self, rise: nn.ConvTranspose1d, dtype: torch.dtype) -> None:
        assert rise.bias is not None
        self.taps_3DC = constant(rise.weight.permute(2, 1, 0), dtype)
        self.bias_D1 = constant(rise.bias[:, None], dtype)

    def __call__(self, x_NCL: Tensor, out_N3DP: Tensor) -> None:
        """Fill ``out``, P = L."""
        for x_CL, out_3DP in zip(x_NCL, out_N3DP, strict=True):
            for tap_DC, out_DP in zip(self.taps_3DC, out_3DP, strict=True):
                torch.mm(tap_DC, x_CL, out=out_DP).add_(self.bias_D1)


def _narrow(blocks: Iterable[nn.Module], dtype: torch.dtype) -> list[_NarrowConv]:
    return [_NarrowConv(*fold(block), dtype) for block in blocks]


def _room(rows: int, channels: int, room: int, like: Tensor) -> Tensor:
    """Room for frames, (N, 3, channels, R), with zeros at both ends."""
    room_N3CR = like.new_empty(rows, 3, channels, room)
    room_N3CR[..., 0] = 0
    room_N3CR[..., -1] = 0
    return room_N3CR


def _planes(x_NCL: Tensor, out_N3CR: Tensor | None = None) -> Tensor:
    """Frames in their order, a multiple of three, to planes."""
    if out_N3CR is None:
        out_N3CR = _room(len(x_NCL), x_NCL.shape[1], x_NCL.shape[2] // 3 + 2, x_NCL)
    out_N3CR[..., 1:-1].copy_(x_NCL.reshape(*x_NCL.shape[:2], -1, 3).permute(0, 3, 1, 2))
    return out_N3CR


def _linear(x_N3CR: Tensor) -> Tensor:
    """The frames in their order, (N, C, L)."""
    return x_N3CR[..., 1:-1].permute(0, 2, 3, 1).flatten(2)


def _pooled(x_N3CR: Tensor) -> Tensor:
    """The greatest of every three frames, (N, C, P)."""
    first, second, third = x_N3CR[..., 1:-1].unbind(1)
    return torch.maximum(torch.maximum(first, second), third)
