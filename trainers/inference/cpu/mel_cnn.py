"""Mel-CNN without gradients on a CPU: oneDNN's own layout from the first block to the last.

In that layout sixteen channels lie together, which is what its convolutions and pools are fastest on; torch's pool of
the plain layout takes longer than the convolution before it.

Shape suffixes: N views, F mel bands, S frames, E encoder width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.encoders.mel_cnn import POOLED_BANDS, MelCnn
from trainers.inference.cpu.folding import buffer, fold


class FoldedMelCnn(nn.Module):
    """The same embeddings up to rounding.

    Args:
        encoder: whose weights are read.
        dtype: of the views; oneDNN takes float32.
    """

    def __init__(self, encoder: MelCnn, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(*fold(block[0], block[1]), dtype) for block in encoder.blocks)
        self.blocked = dtype == torch.float32 and torch.backends.mkldnn.is_available()

    def forward(self, mel_NFS: Tensor) -> Tensor:
        """Embed log-mel views (N, F, S) as (N, E)."""
        x = mel_NFS[:, None]
        if self.blocked:
            x = x.to_mkldnn()
        for block in self.blocks:
            x = block(x)
        if self.blocked:
            x = x.to_dense()
        return torch.flatten(functional.adaptive_avg_pool2d(x, (POOLED_BANDS, 1)), 1)


class _Block(nn.Module):
    """Convolution, MaxPool 2, ReLU, which commutes with the pool."""

    def __init__(self, kernel_DC33: Tensor, bias_D: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.kernel: Tensor
        self.bias: Tensor
        buffer(self, "kernel", kernel_DC33, dtype)
        buffer(self, "bias", bias_D, dtype)
        self._blocked: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, F, S) to (N, D, F / 2, S / 2), in oneDNN's layout if it comes so."""
        if x.layout == torch.strided:
            return functional.max_pool2d(functional.conv2d(x, self.kernel, self.bias, padding=1), 2).relu_()
        kernel, bias = self._reordered(list(x.shape))
        y = torch.mkldnn_convolution(x, kernel, bias, [1, 1], [1, 1], [1, 1], 1)
        return torch.mkldnn_max_pool2d(y, [2, 2], [2, 2]).relu_()

    def _reordered(self, shape: list[int]) -> tuple[Tensor, Tensor]:
        """Kernel and bias in oneDNN's layout, which it chooses by the first input's shape."""
        if self._blocked is None:
            kernel = torch._C._nn.mkldnn_reorder_conv2d_weight(
                self.kernel.to_mkldnn(), [1, 1], [1, 1], [1, 1], 1, shape
            )
            self._blocked = (kernel, self.bias.to_mkldnn())
        return self._blocked
