"""Mel-CNN without gradients on a CPU: oneDNN's own layout from the first block to the last.

In that layout sixteen channels lie together, which is what its convolutions and pools are fastest on; torch's pool of
the plain layout takes longer than the convolution before it.

Shape suffixes: N views, F mel bands, S frames, E encoder width.
"""

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.encoders.mel_cnn import POOLED_BANDS, MelCnn
from trainers.inference.cpu.folding import Branches, constant, fold
from trainers.inference.cpu.onednn import agrees, ramp


class FoldedMelCnn:
    """The same embeddings up to rounding.

    Args:
        network: whose blocks are read.
        branches: blocks that follow them; a space each. None where the network has them all.
        dtype: of the views; oneDNN takes float32.
    """

    def __init__(self, network: MelCnn, branches: Branches | None, dtype: torch.dtype) -> None:
        self.blocks = _folded(network.blocks, dtype)
        self.ends = [_folded(end, dtype) for end in branches or [[]]]
        self.blocked = dtype == torch.float32 and has_operators()

    def __call__(self, mel_NFS: Tensor) -> Tensor:
        """Embed log-mel views (N, F, S) as (N, E)."""
        x = _through(self.blocks, mel_NFS[:, None].to_mkldnn() if self.blocked else mel_NFS[:, None])
        ends = [_through(end, x) for end in self.ends]
        dense = [end.to_dense() if self.blocked else end for end in ends]
        pooled = [functional.adaptive_avg_pool2d(end, (POOLED_BANDS, 1)).flatten(1) for end in dense]
        return torch.cat(pooled, 1)


def _folded(blocks: Iterable[nn.Module], dtype: torch.dtype) -> "list[_Block]":
    return [_Block(*fold(block), dtype) for block in blocks]


def _through(blocks: "list[_Block]", x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


class _Block:
    """Convolution, MaxPool 2, ReLU, which commutes with the pool."""

    def __init__(self, kernel_DC33: Tensor, bias_D: Tensor, dtype: torch.dtype) -> None:
        self.kernel, self.bias = constant(kernel_DC33, dtype), constant(bias_D, dtype)
        self._blocked: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
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
                self.kernel.to_mkldnn(),
                [1, 1],
                [1, 1],
                [1, 1],
                1,
                shape,  # type: ignore[call-arg]
            )
            self._blocked = (kernel, self.bias.to_mkldnn())
        return self._blocked


@cache
def has_operators() -> bool:
    """Whether oneDNN's convolution and pool in its own layout can be used here."""
    kernel_DC33, bias_D, x = ramp(2, 2, 3, 3), ramp(2), -ramp(1, 2, 4, 5)

    def computed(by_onednn: bool) -> Tensor:
        block = _Block(kernel_DC33, bias_D, torch.float32)
        return block(x.to_mkldnn()).to_dense() if by_onednn else block(x)

    return agrees(computed)
