"""TUNe+: a U-Net on the raw waveform with a second way down, which joins every scale of the way up.

Shape suffixes: N views, T samples, C channels, L frames, E encoder width.
Source: Vélez Vásquez & Burgoyne 2022, "Tailed U-Net: Multi-Scale Music Representation Learning" (ISMIR), as in Guinot
et al. 2024 (arXiv:2407.13840). The 2,220,903 parameters counted there include a classification layer
of 512 + 1 that no embedding uses; it is left out here, where it would be a parameter without a gradient.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool1d

from trainers.encoders.encoder import Encoder

BASE = 11
DEPTH = 5
"""Levels of the U: 11, 22, 44, 88 and 176 channels, each a third as long as the one above."""
TAIL = (352, 352, 352, 352, 512)
"""Channels below the U; each step divides the length by three."""
STEP = 3 ** (DEPTH - 1)
"""81: a length that the U takes down and brings back up whole."""
SHORTEST = 3 ** (DEPTH + len(TAIL))
"""59,049 samples end in the three frames that the paper averages."""


class TunePlus(Encoder):
    """Down five levels, up again with skips, down again joined with the way up, then five more steps; mean over time.

    59,535 = 81 · 735 samples (the released code's crop) and 59,049 = 3^10 are read whole. Of any other length the last
    T mod 81 samples, 3.6 ms at most, are not read; a longer view ends in more than three frames, all averaged.
    """

    width = TAIL[-1]

    def __init__(self) -> None:
        super().__init__()
        levels = [BASE * 2**level for level in range(DEPTH)]
        self.down = nn.ModuleList(_block(inside, outside) for inside, outside in pairwise([1, *levels]))
        upwards = list(pairwise(reversed(levels)))
        self.up = nn.ModuleList(_Up(below, above) for below, above in upwards)
        self.again = nn.ModuleList(_block(above + below, below) for above, below in pairwise(levels))
        self.tail = nn.ModuleList(_block(inside, outside) for inside, outside in pairwise([levels[-1], *TAIL]))

    def forward(self, wave_NT: Tensor) -> Tensor:
        """Embed waveforms (N, T), T ≥ 59,049, as (N, 512). Raises ValueError if they are too short."""
        return torch.mean(self.trunk(wave_NT), dim=2)

    def split(self, own_blocks: int) -> nn.Module:
        """Take off the last steps of the tail; see `Encoder.split`."""
        end = _End(self.tail[-own_blocks:])
        self.tail = self.tail[:-own_blocks]
        return end

    def trunk(self, wave_NT: Tensor) -> Tensor:
        """The last of `frames`, (N, C, L). Raises ValueError if the views are too short."""
        if wave_NT.ndim != 2 or wave_NT.shape[1] < SHORTEST:
            raise ValueError(f"TUNe+ needs views (N, T ≥ {SHORTEST}), got {tuple(wave_NT.shape)}")
        return self.frames(wave_NT)[-1]

    def frames(self, wave_NT: Tensor) -> list[Tensor]:
        """The output of every level in the order of computation: five down, four up, four down, five of the tail."""
        x = wave_NT[:, None, : wave_NT.shape[1] // STEP * STEP]
        outputs: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else max_pool1d(x, 3))
            outputs.append(x)
        for rise, skip in zip(self.up, outputs[-2::-1], strict=True):
            x = rise(x, skip)
            outputs.append(x)
        # The way up read backwards, from its second level to the bottom of the U.
        for block, level_NCL in zip(self.again, outputs[-2 : DEPTH - 2 : -1], strict=True):
            x = block(torch.cat([max_pool1d(x, 3), level_NCL], dim=1))
            outputs.append(x)
        for block in self.tail:
            x = block(max_pool1d(x, 3))
            outputs.append(x)
        return outputs


class _End(nn.ModuleList):
    """Last steps of the tail, then the mean over time."""

    def forward(self, x_NCL: Tensor) -> Tensor:
        for block in self:
            x_NCL = block(max_pool1d(x_NCL, 3))
        return torch.mean(x_NCL, dim=2)


class _Up(nn.Module):
    """Three times as long by a transposed convolution, joined with what was that long on the way down, convolved."""

    def __init__(self, below: int, above: int) -> None:
        super().__init__()
        self.rise = nn.ConvTranspose1d(below, above, kernel_size=3, stride=3)
        self.block = _block(2 * above, above)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined: Tensor = self.block(torch.cat([self.rise(x), skip], dim=1))
        return joined


def _block(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(inside, outside, kernel_size=3, padding=1), nn.BatchNorm1d(outside), nn.ReLU(inplace=True)
    )
