"""Mel-CNN: a small convolutional network on log-mel views that learns something useful in minutes on two CPU cores.

Shape suffixes: N views, F mel bands, S frames, E encoder width.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from trainers.encoders.encoder import Encoder

POOLED_BANDS = 4


class MelCnn(Encoder):
    """Four blocks [Conv 3x3, BatchNorm, MaxPool 2, ReLU], then the mean over time of four frequency bands.

    Frequency is kept coarsely, time is not: timbre and register survive, the place of an event does not.

    Args:
        channels: of the first block; each further block has twice as many. The width is 32 times this.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.width = 8 * channels * POOLED_BANDS
        sizes = [1, channels, 2 * channels, 4 * channels, 8 * channels]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inside, outside, kernel_size=3, padding=1, bias=False),
                    nn.BatchNorm2d(outside),
                    nn.MaxPool2d(2),  # before the ReLU, with which it commutes, value and gradient: a quarter is left
                    nn.ReLU(inplace=True),
                )
                for inside, outside in pairwise(sizes)
            )
        )

    def forward(self, mel_NFS: Tensor) -> Tensor:
        """Embed log-mel views (N, F, S), F ≥ 64 and S ≥ 16, as (N, width)."""
        return _pooled(self.trunk(mel_NFS))

    def split(self, own_blocks: int) -> nn.Module:
        """Take off the last blocks; see `Encoder.split`."""
        end = _End(*self.blocks[-own_blocks:])
        self.blocks = self.blocks[:-own_blocks]
        return end

    def trunk(self, mel_NFS: Tensor) -> Tensor:
        """Activations of the blocks, (N, C, F', S')."""
        x: Tensor = self.blocks(mel_NFS[:, None])
        return x


class _End(nn.Sequential):
    """Last blocks, then the mean over time of four frequency bands."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = block(x)
        return _pooled(x)


def _pooled(x: Tensor) -> Tensor:
    return torch.flatten(nn.functional.adaptive_avg_pool2d(x, (POOLED_BANDS, 1)), 1)
