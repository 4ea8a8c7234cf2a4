"""TUNe+ without gradients on a CPU: frames before channels in memory.

Above the bottom of the U there are many frames of few channels: oneDNN's convolutions on channels last are fastest
there, and from 88 channels on those of `pairs`. Bottom and tail have many channels and go through `winograd`. The U is
computed for two rows at a time, so that caches hold more of it, which lie behind each other like one; the tail, which
is short, for all rows at once.

Shape suffixes: N rows, T samples, L frames, P = L / 3, R = L + 3 as in `rows`, C channels in, D channels out.
"""

from typing import Any

import torch
from torch import Tensor, nn

from trainers.encoders.tune_plus import STEP, TunePlus
from trainers.inference.cpu.folding import Branches, fold
from trainers.inference.cpu.rows import Rows, inside, padded
from trainers.inference.cpu.ways_up import Convolution, Up, convolution
from trainers.inference.cpu.winograd import Frames, empty_frames, end_through, folded, pool_through

AT_ONCE = 2
"""Rows behind each other. An operator of oneDNN takes 30 µs beside its arithmetic; with four rows caches hold less."""


class FoldedTunePlus:
    """The same embeddings up to rounding.

    Args:
        network: whose U and tail are read.
        branches: what follows them, steps of the tail; a space each. None where the tail is whole.
        dtype: of the waves.
    """

    def __init__(self, network: TunePlus, branches: Branches | None, dtype: torch.dtype) -> None:
        down, ups, again = list(network.down), list[Any](network.up), list(network.again)
        self.down = [convolution([kernel], bias, dtype) for kernel, bias in map(fold, down[:-1])]
        self.up = [Up(up.rise, up.block, dtype) for up in ups]
        self.again = [_joined(block, dtype) for block in again[:-1]]
        self.bottom, self.bottom_again = folded([down[-1], again[-1]], dtype)
        tail, ends = (network.tail, branches) if branches else (network.tail[:-1], [network.tail[-1:]])
        self.tail = folded(tail, dtype)
        self.ends = [folded(end, dtype) for end in ends]

    def __call__(self, wave_NT: Tensor) -> Tensor:
        """Embed waves (N, T) as (N, width)."""
        length = wave_NT.shape[1] // STEP
        frames = empty_frames(len(wave_NT), length // 3, self.bottom_again.width, wave_NT)
        parts = zip(torch.split(wave_NT, AT_ONCE), torch.split(frames.planes_N3RC, AT_ONCE), strict=True)
        for part_NT, planes_N3RC in parts:
            rows = Rows(len(part_NT), length)
            joined = self._u(rows.filled(part_NT[:, : length * STEP, None]), rows)
            self.bottom_again.pooled(joined, Frames(planes_N3RC, frames.length))
        return end_through(self.ends, pool_through(self.tail, frames))

    def _u(self, x_RC: Tensor, rows: Rows) -> Frames:
        """Down, up and down again: at the lowest level what comes from above beside what was there."""
        skips: list[Tensor] = []
        for conv in self.down:
            skips.append(rows.cleared(conv(x_RC)))
            x_RC = _pooled(skips[-1])
        bottom = self.bottom
        joined = empty_frames(rows.number, rows.length, self.bottom_again.channels, x_RC)
        behind = joined.part(-bottom.width)
        bottom.full(empty_frames(rows.number, rows.length, bottom.channels, x_RC).fill(rows.split(x_RC)), behind)
        levels = [rows.filled(behind.linear())]
        for up in self.up:
            levels.append(up(levels[-1], skips.pop(), rows))
        x_RC = _pooled(levels.pop())
        for conv in self.again:
            x_RC = _pooled(rows.cleared(conv(x_RC, levels.pop())))
        joined.part(0, -bottom.width).fill(rows.split(x_RC))
        return joined


def _joined(block: nn.Module, dtype: torch.dtype) -> Convolution:
    """Of what comes from above beside a level."""
    kernel_DC3, bias_D = fold(block)
    return convolution(torch.split(kernel_DC3, [kernel_DC3.shape[1] - len(bias_D), len(bias_D)], 1), bias_D, dtype)


def _pooled(x_RC: Tensor) -> Tensor:
    """The greatest of every three frames."""
    first, second, third = inside(x_RC).view((len(x_RC) - 3) // 3, 3, -1).unbind(1)
    y_RC = padded(len(first), x_RC.shape[1], x_RC)
    torch.maximum(torch.maximum(first, second, out=inside(y_RC)), third, out=inside(y_RC))
    return y_RC
