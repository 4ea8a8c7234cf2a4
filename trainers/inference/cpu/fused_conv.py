"""Convolutions over time by oneDNN, with a sum and the ReLU behind them in the same pass over memory.

Shape suffixes: L frames, R = L + 3 as in `rows`, C channels in, D channels out, K taps.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from trainers.inference.cpu.folding import constant
from trainers.inference.cpu.onednn import agrees, ramp


class FusedConv:
    """A convolution over the frames of one row, which lie before its channels in memory; a frame of zeros around.

    Args:
        kernel_DCK: float64.
        bias_D: float64.
        dtype: of the frames; oneDNN takes float32.
        by_onednn: or by plain layers; None: by what there is.
    """

    def __init__(
        self, kernel_DCK: Tensor, bias_D: Tensor, dtype: torch.dtype, *, by_onednn: bool | None = None
    ) -> None:
        self.kernel_DC1K, self.bias_D = constant(kernel_DCK[:, :, None], dtype), constant(bias_D, dtype)
        self.by_onednn = dtype == torch.float32 and (has_operators() if by_onednn is None else by_onednn)
        self._arguments: tuple[Tensor, Tensor, list[int], list[int], list[int], int] | None = None

    def __call__(self, x_LC: Tensor, *, relu: bool = False) -> Tensor:
        """L + 3 - K frames (·, D) of contiguous frames (L, C)."""
        image = _image(x_LC)
        if self.by_onednn:
            operation = torch.ops.mkldnn._convolution_pointwise.default
            y: Tensor = operation(image, *self._layer(image), "relu" if relu else "none", [], "")
        else:
            y = functional.conv2d(image, self.kernel_DC1K, self.bias_D, padding=(0, 1))
            y = y.relu_() if relu else y
        return y[0, :, 0].mT.contiguous()  # oneDNN's lie so already

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
        if self._arguments is None:
            layout = ([0, 1], [1, 1], [1, 1], 1)
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self._arguments = (reorder(self.kernel_DC1K, *layout, list(image.shape)), self.bias_D, *layout)
        return self._arguments


class Fused:
    """What `pairs.ThreeTaps` computes, of one input or two."""

    def __init__(self, kernels_DC3: Sequence[Tensor], bias_D: Tensor, dtype: torch.dtype) -> None:
        *first, last = kernels_DC3
        self.first = [FusedConv(kernel_DC3, torch.zeros_like(bias_D), dtype) for kernel_DC3 in first]
        self.last = FusedConv(last, bias_D, dtype)

    def __call__(self, *inputs: Tensor, added_RD: Tensor | None = None) -> Tensor:
        """(R, D) of inputs (R, C), written over what is added; what lies around the frames is not zeros."""
        *first, last_RC = inputs
        for conv, x_RC in zip(self.first, first, strict=True):
            added_RD = conv(x_RC)
        return self.last(last_RC, relu=True) if added_RD is None else self.last.add_relu(last_RC, added_RD)


@cache
def has_operators() -> bool:
    """Whether oneDNN's convolutions with a sum and ReLU behind them can be used here."""
    kernel_DCK, bias_D, x_LC, to_LD = ramp(2, 3, 3), ramp(2), ramp(5, 3), ramp(5, 2)

    def computed(by_onednn: bool) -> Tensor:
        layer = FusedConv(kernel_DCK, bias_D, torch.float32, by_onednn=by_onednn)
        return torch.cat([layer(x_LC), layer(x_LC, relu=True), layer.add_relu(x_LC, to_LD.clone())])

    return agrees(computed)


def _image(x_LC: Tensor) -> Tensor:
    """The same memory as (1, C, 1, L), channels last."""
    return x_LC.mT[None, :, None]
