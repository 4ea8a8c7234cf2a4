"""The pairwise sigmoid loss: every pair of the matrix is a yes or a no of its own, so that one walk is enough.

Shape suffixes: R rows of a block, D projection width, I and J rows and columns of a tile.

Source: Zhai et al. 2023 (arXiv:2303.15343).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from trainers.losses.contrastive.settings import ResolvedSettings
from trainers.losses.contrastive.tiles import Buffers, Gradient, Scalars, TilePair, add_product

LINEAR_FROM = 60.0
"""Scores from which log(1 + exp(s)) is s in float64 too."""


class SigmoidPairs(Gradient):
    """Σ_j H_ij·z_j of every row with H = σ(s + β) − w, and on the way the sums of the loss and of H.

    A pair costs log(1 + exp(s + β)) − w·(s + β): −log σ of ±(s + β), plus for a positive, minus for any other.

    Args:
        settings: of the tiles.
        bias: β, a scalar tensor.
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
            if row_table is not None:
                self.sums[0] += functional.softplus(s_IJ, threshold=LINEAR_FROM).sum(1).double().sum()
                if weight_IJ is not None:
                    positive_IJ = torch.where(weight_IJ > 0, s_IJ, 0)  # −∞ · 0 where a pair is blocked
                    self.sums[0] -= positive_IJ.sum(1).double().sum()
            h_IJ = s_IJ.sigmoid_()
            if weight_IJ is not None:
                h_IJ.sub_(weight_IJ)
            if row_table is not None:
                self.sums[1] += h_IJ.sum(1).double().sum()
                add_product(row_table[i], h_IJ, pair.cols.factor_RD[j])
            if col_table is not None:
                add_product(col_table[j], h_IJ.T, pair.rows.factor_RD[i])
