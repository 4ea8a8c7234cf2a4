"""A front-end that learns with its encoder: together they are an encoder of waves.

Shape suffixes: N views, T samples, E encoder width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.encoders.encoder import Encoder


class LearnedFrontend(Encoder):
    """nnAudio's kernels, then a network on the spectrogram they make; both are in gradients, snapshots and exports."""

    def __init__(self, frontend: nn.Module, network: Encoder) -> None:
        super().__init__()
        self.frontend, self.network = frontend, network
        self.width = network.width

    @property
    def spaces(self) -> Mapping[str, slice]:
        """Those of the network."""
        return self.network.spaces

    @property
    def body(self) -> nn.Module:
        """The network's: its blocks are the ones that checkpointing counts."""
        return self.network.body

    def forward(self, wave_NT: Tensor) -> Tensor:
        """Embed waves; the transform stays in float32, whatever the products after it are.

        Args:
            wave_NT: float32 in [-1, 1].

        Returns:
            h_NE, shape (N, width).
        """
        with torch.autocast(wave_NT.device.type, enabled=False):
            spectrogram = self.frontend(wave_NT.float())
        h_NE: Tensor = self.network(spectrogram)
        return h_NE
