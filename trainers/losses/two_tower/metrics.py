"""Metrics of a step that the sums of the loss do not hold: recall in the batch, and guarded hard negatives.

Shape suffixes: R rows of a block, I and J rows and columns of a tile.
"""

import math

import torch
from torch import Tensor

from trainers.distributed import collectives
from trainers.losses.contrastive.settings import ResolvedSettings
from trainers.losses.contrastive.tiles import Buffers, Scalars, TileBlock, TileKernel, TilePair
from trainers.losses.two_tower.exchange import LocalTowers, TowerExchange, no_scalars, sum_over_pairs
from trainers.losses.two_tower.pairs import TowerPair

RIGHT, WRONG = range(2)
"""Lines of the table of `Nearest`: the highest score of a positive, and of another text or audio row."""
METRICS = ("recall_audio_to_text", "recall_text_to_audio", "guarded")
"""What `metrics` returns, in this order."""


class Nearest(TileKernel):
    """The highest score of every row among its positives and among the others, (2, R); hard texts are not counted.

    The other way round, a hard text is not looked for and not found: recall stays comparable while their share rises.
    """

    def __init__(self, settings: ResolvedSettings) -> None:
        super().__init__(settings)
        self.guarded: Tensor | float = 0.0
        """Pairs of an audio row and a hard text that are blocked, among those that this rank counts."""

    def table(self, block: TileBlock) -> Tensor:
        """−∞ for every row."""
        return block.z_RD.new_full((2, len(block.z_RD)), -math.inf)

    def merge(self, table: Tensor, part: Tensor) -> None:
        """Of two maxima the higher."""
        torch.maximum(table, part, out=table)

    def accumulate(self, pair: TilePair, scalars: Scalars, row_table: Tensor | None, col_table: Tensor | None) -> None:
        """Raise the maxima of a pair of blocks."""
        del scalars
        assert isinstance(pair, TowerPair)
        tiles = Buffers(pair, self.settings.tile)
        for i, j in pair.tiles(self.settings.tile):
            if j.start >= pair.cols.num_true:
                guarded_IJ = pair.guarded(i, j)
                if guarded_IJ is not None and row_table is not None:
                    self.guarded = self.guarded + guarded_IJ.sum().double()
                continue
            s_IJ = tiles.scores(pair, i, j)
            weight_IJ = tiles.weights(pair, i, j, self.settings)
            if weight_IJ is not None:
                _raise(s_IJ.masked_fill(weight_IJ == 0, -math.inf), RIGHT, row_table, col_table, (i, j))
                s_IJ.masked_fill_(weight_IJ > 0, -math.inf)
            if (blocked_IJ := pair.blocked(i, j)) is not None:
                s_IJ.masked_fill_(blocked_IJ, -math.inf)
            _raise(s_IJ, WRONG, row_table, col_table, (i, j))


def metrics(exchange: TowerExchange, local: LocalTowers, settings: ResolvedSettings) -> Tensor:
    """The `METRICS` of the global batch, float64, the same on every rank; NaN where there is nothing to count.

    Recall is the share of rows with a positive whose nearest row of the other tower is one; of ``guarded`` the pairs of
    an audio row and a hard text that the guard took out of the loss.
    """
    kernel = Nearest(settings)
    tables = sum_over_pairs(kernel, exchange, no_scalars(local))
    counts = [number for table_2R in tables for number in _found(table_2R)]
    own = torch.stack([*counts, counts[0].new_zeros(()) + kernel.guarded])
    total = collectives.all_gather(own[None], local.group).sum(0)
    hard_pairs = sum(local.num_hard) * len(local.num_hard) * len(local.audio.z_RD)
    return torch.stack([total[0] / total[1], total[2] / total[3], total[4] / (hard_pairs or math.nan)])


def _found(table_2R: Tensor) -> tuple[Tensor, Tensor]:
    """Rows whose highest score is a positive's, and rows with a positive."""
    there_R = table_2R[RIGHT] > -math.inf
    return (there_R & (table_2R[RIGHT] > table_2R[WRONG])).sum().double(), there_R.sum().double()


def _raise(
    s_IJ: Tensor, line: int, row_table: Tensor | None, col_table: Tensor | None, tile: tuple[slice, slice]
) -> None:
    for table, dim, part in ((row_table, 1, tile[0]), (col_table, 0, tile[1])):
        if table is not None:
            table[line, part] = torch.maximum(table[line, part], s_IJ.amax(dim))
