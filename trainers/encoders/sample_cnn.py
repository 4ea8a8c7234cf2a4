"""SampleCNN: a convolutional network on the raw waveform, the main encoder of the paper.

Shape suffixes: N views, T samples, E encoder width.
Source: Lee et al. 2017 (arXiv:1703.01789), as in Guinot et al. 2024 (arXiv:2407.13840) and SCIENCE §3.
"""

import torch
from torch import Tensor, nn

from trainers.encoders.encoder import Encoder

STEM = 128
CHANNELS = (128, 128, 256, 256, 256, 256, 256, 256, 512)
"""Of the nine blocks; each divides the length by three."""
SHORTEST = 3 ** (len(CHANNELS) + 1)
"""Samples that the blocks bring down to one frame: 3^10."""


class SampleCnn(Encoder):
    """Stem of stride 3, nine blocks [Conv k3, BatchNorm, ReLU, MaxPool 3], one last convolution; the mean over time.

    59,049 = 3^10 samples end in one frame, 59,535 (the released code's crop) too; longer views are averaged.
    """

    width = 512

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(1, STEM, kernel_size=3, stride=3), nn.BatchNorm1d(STEM), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(*_convolution(inside, outside), nn.MaxPool1d(3))
                for inside, outside in zip((STEM, *CHANNELS), CHANNELS, strict=False)
            )
        )
        self.last = nn.Sequential(*_convolution(CHANNELS[-1], self.width))

    def forward(self, wave_NT: Tensor) -> Tensor:
        """Embed waveforms.

        Args:
            wave_NT: shape (N, T), T ≥ 59,049.

        Returns:
            h_NE, shape (N, 512).

        Raises:
            ValueError: if the views are too short.
        """
        if wave_NT.ndim != 2 or wave_NT.shape[1] < SHORTEST:
            raise ValueError(f"SampleCNN needs views (N, T ≥ {SHORTEST}), got {tuple(wave_NT.shape)}")
        frames: Tensor = self.last(self.blocks(self.stem(wave_NT[:, None])))
        return torch.mean(frames, dim=2)


def _convolution(inside: int, outside: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Conv1d(inside, outside, kernel_size=3, padding=1), nn.BatchNorm1d(outside), nn.ReLU(inplace=True)
