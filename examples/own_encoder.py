"""An encoder of your own: any nn.Module that declares its width and what it reads.

    counterpoint pretrain conf/pretrain/self_supervised.yaml data.unlabelled=DIR \
        encoder.name=own_encoder:TinyNet encoder.settings.hidden=32 frontend.kind=mel

Start it in this folder, or add the folder to PYTHONPATH.
"""

import torch
from torch import Tensor, nn


class TinyNet(nn.Module):
    """Two convolutions over time on a log-mel spectrogram, then the mean over time.

    Args:
        hidden: channels, which is also the width of the embedding.
        bands: mel bands of the front-end.
    """

    reads = ("mel", "mule")
    least_frames = 8

    def __init__(self, hidden: int = 16, bands: int = 64) -> None:
        super().__init__()
        self.width = hidden
        self.layers = nn.Sequential(
            nn.Conv1d(bands, hidden, kernel_size=5, padding=2),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, kernel_size=5, padding=2),
        )

    def forward(self, mel: Tensor) -> Tensor:
        """Embed log-mel views, shape (n, bands, frames), as (n, hidden)."""
        h: Tensor = self.layers(mel)
        return torch.relu(h).mean(2)
