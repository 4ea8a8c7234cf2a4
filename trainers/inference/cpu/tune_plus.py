"""TUNe+ without gradients on a CPU: frames before channels in memory.

At the upper levels of the U there are many frames of few channels: oneDNN's convolutions on channels last are fastest
there, and from 88 channels on those of `pairs`. The tail has more channels still and goes through `winograd`. The U is
computed for two rows at a time, which lie behind each other like one, so that caches hold more of it; the tail, which
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
from trainers.inference.cpu.winograd import empty_frames, end_through, folded, pool_through

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
        self.down = [convolution([kernel], bias, dtype) for kernel, bias in map(fold, down)]
        self.up = [Up(up.rise, up.block, dtype) for up in ups]
        self.again = [_joined(block, dtype) for block in again]
        tail, ends = (network.tail, branches) if branches else (network.tail[:-1], [network.tail[-1:]])
        self.tail = folded(tail, dtype)
        self.ends = [folded(end, dtype) for end in ends]

    def __call__(self, wave_NT: Tensor) -> Tensor:
        """Embed waves (N, T) as (N, width)."""
        length = wave_NT.shape[1] // STEP
        x_NLC = torch.cat([self._u(part_NT, length) for part_NT in torch.split(wave_NT, AT_ONCE)])
        frames = empty_frames(len(x_NLC), x_NLC.shape[1], x_NLC.shape[2], x_NLC).fill(x_NLC)
        return end_through(self.ends, pool_through(self.tail, frames))

    def _u(self, wave_NT: Tensor, length: int) -> Tensor:
        """Down, up and down again, with the pool behind it: (N, length / 3, C)."""
        rows = Rows(len(wave_NT), length)
        x_RC = rows.filled(wave_NT[:, : length * STEP, None])
        levels: list[Tensor] = []
        for conv in self.down:
            x_RC = rows.cleared(conv(_pooled(levels[-1]) if levels else x_RC))
            levels.append(x_RC)
        skips, levels = levels[:-1], levels[-1:]
        for up in self.up:
            levels.append(up(levels[-1], skips.pop(), rows))
        x_RC = levels.pop()
        for conv in self.again:
            x_RC = rows.cleared(conv(_pooled(x_RC), levels.pop()))
        return _greatest(rows.split(x_RC))


def _joined(block: nn.Module, dtype: torch.dtype) -> Convolution:
    """Of what comes from above beside a level."""
    kernel_DC3, bias_D = fold(block)
    return convolution(torch.split(kernel_DC3, [kernel_DC3.shape[1] - len(bias_D), len(bias_D)], 1), bias_D, dtype)


def _pooled(x_RC: Tensor) -> Tensor:
    """The greatest of every three frames of a long row."""
    y_RC = padded((len(x_RC) - 3) // 3, x_RC.shape[1], x_RC)
    _greatest(inside(x_RC)[None], inside(y_RC)[None])
    return y_RC


def _greatest(x_NLC: Tensor, out: Tensor | None = None) -> Tensor:
    """Of every three frames, (N, P, C)."""
    places = x_NLC.shape[1] // 3
    first, second, third = x_NLC[:, : 3 * places].view(len(x_NLC), places, 3, -1).unbind(2)
    greatest = torch.maximum(first, second, out=out)
    return torch.maximum(greatest, third, out=greatest)
