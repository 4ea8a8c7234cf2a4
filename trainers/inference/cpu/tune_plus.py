"""TUNe+ without gradients on a CPU: row by row, frames before channels in memory.

Above the bottom of the U there are many frames of few channels: oneDNN's convolutions on channels last are fastest
there. Bottom and tail have many channels and go through `winograd`. The U is computed row by row, so that caches hold
more of it; the tail, which is short, for all rows at once.

Shape suffixes: N rows, T samples, L frames, P = L / 3, C channels in, D channels out, E channels of a level.
"""

from typing import Any

import torch
from torch import Tensor, nn

from trainers.encoders.tune_plus import STEP, TunePlus
from trainers.inference.cpu.folding import Branches, constant, fold
from trainers.inference.cpu.fused_conv import FusedConv
from trainers.inference.cpu.winograd import Frames, empty_frames, end_through, folded, pool_through


class FoldedTunePlus:
    """The same embeddings up to rounding.

    Args:
        network: whose U and tail are read.
        branches: what follows them, steps of the tail; a space each. None where the tail is whole.
        dtype: of the waves.
    """

    def __init__(self, network: TunePlus, branches: Branches | None, dtype: torch.dtype) -> None:
        down, ups, again = list(network.down), list[Any](network.up), list(network.again)
        self.down = [FusedConv(*fold(block), dtype) for block in down[:-1]]
        self.up = [_Up(up.rise, up.block, dtype) for up in ups]
        self.again = [_Joined(block, dtype) for block in again[:-1]]
        self.bottom, self.bottom_again = folded([down[-1], again[-1]], dtype)
        tail, ends = (network.tail, branches) if branches else (network.tail[:-1], [network.tail[-1:]])
        self.tail = folded(tail, dtype)
        self.ends = [folded(end, dtype) for end in ends]

    def __call__(self, wave_NT: Tensor) -> Tensor:
        """Embed waves (N, T) as (N, width)."""
        length = wave_NT.shape[1] // STEP
        frames = empty_frames(len(wave_NT), length // 3, self.bottom_again.width, wave_NT)
        for wave_T, planes_3RC in zip(wave_NT, frames.planes_N3RC, strict=True):
            joined = self._u(wave_T[: length * STEP, None].contiguous(), length)
            self.bottom_again.pooled(joined, Frames(planes_3RC[None], frames.length))
        return end_through(self.ends, pool_through(self.tail, frames))

    def _u(self, x_LC: Tensor, length: int) -> Frames:
        """Down, up and down again: at the lowest level what comes from above beside what was there."""
        skips: list[Tensor] = []
        for conv in self.down:
            skips.append(conv(x_LC, relu=True))
            x_LC = _pooled(skips[-1])
        bottom = self.bottom
        joined = empty_frames(1, length, self.bottom_again.channels, x_LC)
        behind = joined.part(-bottom.width)
        bottom.full(empty_frames(1, length, bottom.channels, x_LC).fill(x_LC[None]), behind)
        levels = [behind.linear()[0]]
        for up in self.up:
            levels.append(up(levels[-1], skips.pop()))
        x_LC = _pooled(levels.pop())
        for block in self.again:
            x_LC = _pooled(block(x_LC, levels.pop()))
        joined.part(0, -bottom.width).fill(x_LC[None])
        return joined


class _Joined:
    """ReLU(convolution of what comes from above beside a level), which are never joined in memory."""

    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        kernel_EC3, bias_E = fold(block)
        above_ED3, level_EC3 = torch.split(kernel_EC3, [kernel_EC3.shape[1] - len(bias_E), len(bias_E)], 1)
        self.above = FusedConv(above_ED3, bias_E, dtype)
        self.level = FusedConv(level_EC3, torch.zeros_like(bias_E), dtype)

    def __call__(self, x_LD: Tensor, level_LC: Tensor) -> Tensor:
        """(L, E) of both."""
        return self.level.add_relu(level_LC, self.above(x_LD))


class _Up:
    """ReLU(convolution of what rises beside the skip).

    A transposed convolution and the convolution of its result are one convolution of the coarse frames, with three
    outputs a frame: fewer products, and nothing is joined. Three neighbouring outputs, from the last of a coarse frame
    on, need two coarse frames. The convolution's zeros lie outside of what has risen, where there is no bias of the
    transposed convolution either.
    """

    def __init__(self, rise: nn.ConvTranspose1d, block: nn.Module, dtype: torch.dtype) -> None:
        assert rise.bias is not None
        kernel_ED3, bias_E = fold(block)
        taps_CD3, bias_D = rise.weight.detach().double(), rise.bias.detach().double()
        risen_ED3, skip_ED3 = torch.split(kernel_ED3, len(bias_D), 1)
        coarse_3EC2 = risen_ED3.new_zeros(3, len(bias_E), len(taps_CD3), 2)
        for output in range(3):
            for tap in range(3):
                place, fine = divmod(1 + output + tap, 3)
                coarse_3EC2[output, :, :, place] += risen_ED3[:, :, tap] @ taps_CD3[:, :, fine].mT
        of_bias_E3 = torch.einsum("edt,d->et", risen_ED3, bias_D)
        self.coarse = FusedConv(coarse_3EC2.flatten(0, 1), (bias_E + of_bias_E3.sum(1)).repeat(3), dtype)
        self.skip = FusedConv(skip_ED3, torch.zeros_like(bias_E), dtype)
        self.first_E, self.last_E = constant(of_bias_E3[:, 0], dtype), constant(of_bias_E3[:, 2], dtype)

    def __call__(self, x_PC: Tensor, skip_LE: Tensor) -> Tensor:
        """(L, E) from P = L / 3 frames below."""
        length, width = skip_LE.shape
        y_LE = self.coarse(x_PC).view(-1, width)[1 : 1 + length]
        y_LE[0].sub_(self.first_E)
        y_LE[-1].sub_(self.last_E)
        return self.skip.add_relu(skip_LE, y_LE)


def _pooled(x_LC: Tensor) -> Tensor:
    """The greatest of every three frames, (P, C)."""
    first, second, third = x_LC.view(len(x_LC) // 3, 3, -1).unbind(1)
    greatest = torch.maximum(first, second)
    return torch.maximum(greatest, third, out=greatest)
