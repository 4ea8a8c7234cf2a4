"""Convolutions over two and three frames, two neighbouring outputs at a time: Winograd's F(2, 2) and F(2, 3).

Three products take the place of four, and four that of six. They are BLAS's, which reads every second frame where it
lies and adds to outputs where they lie, so that few sums are left. From 88 channels on that is faster than oneDNN's
convolutions; with fewer BLAS reaches half of the core's rate. `winograd` has fewer products, five for nine, and more
sums, for more channels still.

Source: Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308).

Shape suffixes: L frames, R = L + 3 as in `rows`, C channels in, D channels out, P pairs, Q outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.inference.cpu.folding import constant
from trainers.inference.cpu.rows import close, inside


class TwoTaps:
    """A convolution over frames q - 1 and q, without a bias.

    Args:
        kernel_DC2: float64.
        dtype: of the frames.
    """

    def __init__(self, kernel_DC2: Tensor, dtype: torch.dtype) -> None:
        first_CD, second_CD = kernel_DC2.permute(2, 1, 0)
        self.kernels_3CD = constant(torch.stack([first_CD, first_CD + second_CD, second_CD]), dtype)

    def __call__(self, x_RC: Tensor, to_QD: Tensor) -> None:
        """Write outputs 0 to Q - 1, Q = L + 1 or L + 2 and even."""
        first_CD, both_CD, second_CD = self.kernels_3CD
        count = len(to_QD)
        before, here, behind = x_RC[0:count:2], x_RC[1:count:2], x_RC[2 : count + 1 : 2]
        even, odd = to_QD[0::2], to_QD[1::2]
        odd.copy_(torch.mm(here, both_CD, out=even))
        difference = before - here
        even.addmm_(difference, first_CD)
        odd.addmm_(torch.sub(behind, here, out=difference), second_CD)


class ThreeTaps:
    """ReLU(sum of convolutions, each of an input of its own, over frames l - 1 to l + 1), which are never joined.

    Args:
        kernels_DC3: one an input; float64.
        bias_D: float64.
        dtype: of the frames.
    """

    def __init__(self, kernels_DC3: Sequence[Tensor], bias_D: Tensor, dtype: torch.dtype) -> None:
        self.kernels = [constant(_four(kernel_DC3.permute(2, 1, 0)), dtype) for kernel_DC3 in kernels_DC3]
        self.bias_D = constant(bias_D, dtype)

    def __call__(self, *inputs: Tensor, added_RD: Tensor | None = None) -> Tensor:
        """(R, D) of inputs (R, C), what is added before the ReLU."""
        rows, width = len(inputs[0]), len(self.bias_D)
        pairs = (rows - 2) // 2
        y_RD = self.bias_D.new_empty(rows, width)
        even, odd = y_RD[1 : 1 + 2 * pairs : 2], y_RD[2 : 2 + 2 * pairs : 2]
        # The outputs are a + b + ... and a - b + ..., so that what both share is multiplied once.
        a_PD, b_PD = self.bias_D.expand(pairs, width).clone(), self.bias_D.new_empty(pairs, width)
        spread = [[x_RC[first : first + 2 * pairs : 2] for first in range(4)] for x_RC in inputs]
        for number, ((_, d1, d2, _), kernels_4CD) in enumerate(zip(spread, self.kernels, strict=True)):
            a_PD.addmm_(d1 + d2, kernels_4CD[1])
            b_PD.addmm_(d2 - d1, kernels_4CD[2], beta=float(number > 0))
        torch.add(a_PD, b_PD, out=even)
        torch.sub(a_PD, b_PD, out=odd)
        for (d0, d1, d2, d3), kernels_4CD in zip(spread, self.kernels, strict=True):
            even.addmm_(d0 - d2, kernels_4CD[0])
            odd.addmm_(d3 - d1, kernels_4CD[3])
        if added_RD is not None:
            inside(y_RD).add_(inside(added_RD))
        return close(y_RD.relu_())


def _four(taps_3CD: Tensor) -> Tensor:
    """The factors of the four products."""
    first, second, third = taps_3CD
    return torch.stack([first, (first + second + third) / 2, (first - second + third) / 2, third])
