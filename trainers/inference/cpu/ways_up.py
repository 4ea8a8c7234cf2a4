"""A level of TUNe+'s way up, rows of frames behind each other.

A transposed convolution and the convolution of its result are one convolution of the coarse frames, with three outputs
a frame: fewer products, and nothing is joined in memory. Three neighbouring outputs, from the last of a coarse frame
on, need two coarse frames, and the third of them one. The convolution's zeros lie outside of what has risen, where
there is no bias of the transposed convolution either.

Shape suffixes: P coarse frames, L = 3 P, R = L + 3 as in `rows`, C channels below, E of the level, D of what rises.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainers.inference.cpu.folding import constant, fold
from trainers.inference.cpu.fused_conv import Fused, FusedConv
from trainers.inference.cpu.pairs import ThreeTaps, TwoTaps
from trainers.inference.cpu.rows import Rows

WIDE = 88
"""Channels from which products in pairs are faster than oneDNN's convolutions."""


Convolution = ThreeTaps | Fused


def convolution(kernels_DC3: Sequence[Tensor], bias_D: Tensor, dtype: torch.dtype) -> Convolution:
    """By what is fastest with so many channels."""
    return (ThreeTaps if len(bias_D) >= WIDE else Fused)(kernels_DC3, bias_D, dtype)


class Up:
    """ReLU(convolution of what rises beside the skip).

    Args:
        rise: the transposed convolution.
        block: what follows it, and reads what has risen beside the skip.
        dtype: of the frames.
    """

    def __init__(self, rise: nn.ConvTranspose1d, block: nn.Module, dtype: torch.dtype) -> None:
        assert rise.bias is not None
        kernel_ED3, bias_E = fold(block)
        taps_CD3, bias_D = rise.weight.detach().double(), rise.bias.detach().double()
        risen_ED3, skip_EE3 = torch.split(kernel_ED3, len(bias_D), 1)
        coarse_3EC2 = risen_ED3.new_zeros(3, len(bias_E), len(taps_CD3), 2)
        for output in range(3):
            for tap in range(3):
                place, fine = divmod(1 + output + tap, 3)
                coarse_3EC2[output, :, :, place] += risen_ED3[:, :, tap] @ taps_CD3[:, :, fine].mT
        self.coarse = (_in_pairs if len(taps_CD3) >= WIDE else _by_onednn)(coarse_3EC2, dtype)
        of_bias_E3 = torch.einsum("edt,d->et", risen_ED3, bias_D)
        self.joined = convolution([skip_EE3], bias_E + of_bias_E3.sum(1), dtype)
        self.first_E, self.last_E = constant(of_bias_E3[:, 0], dtype), constant(of_bias_E3[:, 2], dtype)

    def __call__(self, x_RC: Tensor, skip_RE: Tensor, rows: Rows) -> Tensor:
        """(3 P + 3, E) from P frames below."""
        y_RE = self.coarse(x_RC)
        each = rows.split(y_RE)
        each[:, 0].sub_(self.first_E)
        each[:, -1].sub_(self.last_E)
        return rows.cleared(self.joined(skip_RE, added_RD=y_RE))


def _by_onednn(kernel_3EC2: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    width = kernel_3EC2.shape[1]
    conv = FusedConv(kernel_3EC2.flatten(0, 1), kernel_3EC2.new_zeros(3 * width), dtype)
    # Its first outputs lie before the zero before the frames.
    return lambda x_RC: conv(x_RC).view(-1, width)[3 : 3 * len(x_RC) - 3]


def _in_pairs(kernel_3EC2: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The third output, whose first tap is zero, is a product of its own."""
    width = kernel_3EC2.shape[1]
    two = TwoTaps(kernel_3EC2[:2].flatten(0, 1), dtype)
    third_CE = constant(kernel_3EC2[2, :, :, 1].mT, dtype)

    def risen(x_RC: Tensor) -> Tensor:
        count = (len(x_RC) - 1) // 2 * 2  # frames and one more, and even
        y = x_RC.new_empty(count, 3 * width)
        two(x_RC, y[:, : 2 * width])
        torch.mm(x_RC[1 : 1 + count], third_CE, out=y[:, 2 * width :])
        return y.view(-1, width)[: 3 * len(x_RC) - 6]

    return risen
