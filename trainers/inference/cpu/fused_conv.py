"""Convolutions over time by oneDNN, with a sum and the ReLU behind them in the same pass over memory.

Shape suffixes: L frames, C channels in, D channels out, K taps.
"""

import torch
from torch import Tensor
from torch.nn import functional

from trainers.inference.cpu.folding import constant

ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
"""Whether torch was built with it; it takes float32."""


class FusedConv:
    """A convolution over the frames of one row, which lie before its channels in memory; a frame of zeros around.

    Args:
        kernel_DCK: float64.
        bias_D: float64.
        dtype: of the frames; what oneDNN does not take, plain layers compute.
    """

    def __init__(self, kernel_DCK: Tensor, bias_D: Tensor, dtype: torch.dtype) -> None:
        self.kernel_DC1K, self.bias_D = constant(kernel_DCK[:, :, None], dtype), constant(bias_D, dtype)
        self.by_onednn = dtype == torch.float32 and ONEDNN
        self._blocked: Tensor | None = None

    def __call__(self, x_LC: Tensor, *, relu: bool = False) -> Tensor:
        """L + 3 - K frames (·, D) of contiguous frames (L, C)."""
        image = _image(x_LC)
        if self.by_onednn:
            operation = torch.ops.mkldnn._convolution_pointwise.default
            y: Tensor = operation(image, *self._layer(image), "relu" if relu else "none", [], "")
        else:
            y = functional.conv2d(image, self.kernel_DC1K, self.bias_D, padding=(0, 1))
            y = y.relu_() if relu else y
        return y.view(len(self.bias_D), -1).mT.contiguous()  # oneDNN's lie so already

    def add_relu(self, x_LC: Tensor, to_LD: Tensor) -> Tensor:
        """ReLU(``to`` + the convolution), written over ``to``, which is contiguous; K = 3."""
        if not self.by_onednn:
            return to_LD.add_(self(x_LC)).relu_()
        image = _image(x_LC)
        operation = torch.ops.mkldnn._convolution_pointwise_.binary
        operation(_image(to_LD), image, *self._layer(image), "add", 1.0, "relu", [], "")
        return to_LD

    def _layer(self, image: Tensor) -> tuple[Tensor, Tensor, list[int], list[int], list[int], int]:
        """Kernel in oneDNN's layout, which it chooses by the first image's shape, bias, padding and the like."""
        layout = ([0, 1], [1, 1], [1, 1], 1)
        if self._blocked is None:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self._blocked = reorder(self.kernel_DC1K, *layout, list(image.shape))
        return self._blocked, self.bias_D, *layout


def _image(x_LC: Tensor) -> Tensor:
    """The same memory as (1, C, 1, L), channels last."""
    return x_LC[None, None].permute(0, 3, 1, 2)
