"""The pairwise sigmoid loss: every pair of the matrix is a yes or a no of its own, so that one pass is enough.

Shape suffixes: R rows of a block, D projection width, I and J rows and columns of a tile.

Source: Zhai et al. 2023 (arXiv:2303.15343).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from trainers.losses.contrastive.settings import ResolvedSettings
from trainers.losses.contrastive.tiles import LOG2_E, Buffers, Gradient, Scalars, TilePair, add_product

LINEAR_FROM = 60.0
"""Scores from which log(1 + exp(s)) is s in float64 too."""
LARGEST = 120.0
"""Powers of two that float32 holds, with room for the 1 of 1 + 2^x."""
MOST_FOLDS = 4


class SigmoidPairs(Gradient):
    """Σ_j H_ij·z_j of every row with H = σ(s + β) − w, and on the way the sums of the loss and of H.

    A pair costs log(1 + exp(s + β)) − w·(s + β): −log σ of ±(s + β), plus for a positive, minus for any other.
    """

    def __init__(self, settings: ResolvedSettings, bias: Tensor) -> None:
        super().__init__(settings)
        self.bias = bias
        self.sums = torch.zeros(2, dtype=torch.float64, device=bias.device)
        """The loss and H summed over the pairs that this rank counts: together the ranks count each once."""

    def accumulate(self, pair: TilePair, scalars: Scalars, row_table: Tensor | None, col_table: Tensor | None) -> None:
        """Add the products of a pair of blocks; its pairs are counted by whoever has a table for its audio rows."""
        del scalars
        tiles = Buffers(pair, self.settings.tile)
        for i, j in pair.tiles(self.settings.tile):
            s_IJ = tiles.scores(pair, i, j).add_(self.bias)
            weight_IJ = tiles.weights(pair, i, j, self.settings)
            if (blocked_IJ := pair.blocked(i, j)) is not None:
                s_IJ.masked_fill_(blocked_IJ, -math.inf)
            if row_table is not None and weight_IJ is not None:
                positive_IJ = torch.where(weight_IJ > 0, s_IJ, 0)  # −∞ · 0 where a pair is blocked
                self.sums[0] -= positive_IJ.sum(1).double().sum()
            h_IJ, softplus = _sigmoid_and_softplus(s_IJ, tiles.spare(i, j), with_sum=row_table is not None)
            if weight_IJ is not None:
                h_IJ.sub_(weight_IJ)
            if row_table is not None:
                self.sums[0] += softplus
                self.sums[1] += h_IJ.sum(1).double().sum()
                add_product(row_table[i], h_IJ, pair.cols.factor_RD[j])
            if col_table is not None:
                add_product(col_table[j], h_IJ.T, pair.rows.factor_RD[i])


def _sigmoid_and_softplus(s_IJ: Tensor, spare_IJ: Tensor, *, with_sum: bool) -> tuple[Tensor, Tensor]:
    """σ(s) of a tile, and Σ log(1 + exp(s)) where it is asked for; both tiles are overwritten.

    One power u = exp(s) serves both on a CPU: σ = u/(1 + u), and the logarithm, which costs a CPU thirty times a
    product, is taken of products, (1 + u)(1 + v) = 1 + (u + v + u·v): no term is subtracted, so no digit is lost.
    """
    folds = _folds(s_IJ)
    if folds is None:
        softplus = functional.softplus(s_IJ, threshold=LINEAR_FROM).sum(1).double().sum() if with_sum else s_IJ
        return s_IJ.sigmoid_(), softplus
    u_IJ = s_IJ.mul_(LOG2_E).exp2_()
    h_IJ = torch.add(u_IJ, 1, out=spare_IJ)
    torch.div(u_IJ, h_IJ, out=h_IJ)
    u_P = u_IJ.view(-1)
    for _ in range(folds if with_sum else 0):
        u_P, v_P = u_P.chunk(2)
        u_P.addcmul_(u_P, v_P).add_(v_P)
    return h_IJ, u_P.log1p_().sum() if with_sum else u_P


def _folds(s_IJ: Tensor) -> int | None:
    """How often a tile may be halved by products of 1 + exp(s) that float32 holds; None where it holds no exp(s).

    Read on a CPU alone: a GPU would wait for the answer, and takes logarithms as fast as it reads scores.
    """
    if s_IJ.device.type != "cpu" or s_IJ.numel() == 0:
        return None
    largest = max(s_IJ.amax().item() * LOG2_E, 0.0) + 1
    if not largest <= LARGEST:  # NaN too
        return None
    folds = 0
    while folds < MOST_FOLDS and s_IJ.numel() % 2 ** (folds + 1) == 0 and largest * 2 ** (folds + 1) <= LARGEST:
        folds += 1
    return folds
