"""The tiles with all that is not a product fused by torch.compile: a rival of the Triton kernels in `loss_gpu`.

Criterion, a fixed temperature of at least 0.025, and epsilon 0 only: what the benchmark times.

Shape suffixes: I and J rows and columns of one tile.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainers.losses.contrastive import streaming
from trainers.losses.contrastive.pairs import Pair
from trainers.losses.contrastive.tiles import (
    EXP,
    PULL,
    PUSH,
    SCORE,
    WEIGHT,
    Buffers,
    Gradient,
    Sums,
    TilePair,
    add_product,
)


def sums_of_tile(s_IJ: Tensor, w_IJ: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Σexp(s), Σw and Σw·s along one side of a tile; s is −∞ where a row meets itself."""
    return s_IJ.exp().sum(dim), w_IJ.sum(dim), s_IJ.where(w_IJ > 0, 0).sum(dim)


def weights_of_tile(
    shared_IJ: Tensor | None, code_I1: Tensor, code_1J: Tensor, diagonal: bool, criterion: int
) -> Tensor:
    """1 where two rows are positives."""
    positive = code_I1 == code_1J
    if shared_IJ is not None:
        positive = positive | (shared_IJ >= criterion)
    if diagonal:
        positive = positive & ~torch.eye(len(positive), dtype=torch.bool, device=positive.device)
    return positive.float()


def h_of_tile(s_IJ: Tensor, w_IJ: Tensor, rows: Tensor, cols: Tensor, diagonal: bool, dtype: torch.dtype) -> Tensor:
    """H of `losses.tiles` entering products; ``rows`` and ``cols`` hold the scalars (3, I, 1) and (3, 1, J)."""
    h_IJ = s_IJ.exp() * (rows[PULL] + cols[PULL]) - w_IJ * (rows[PUSH] + cols[PUSH])
    if diagonal:
        h_IJ = h_IJ.masked_fill(torch.eye(len(h_IJ), dtype=torch.bool, device=h_IJ.device), 0)
    return h_IJ.to(dtype)


class _Tiles:
    """Scores and weights of every tile of a pair of blocks."""

    def __init__(self, compile_function: Callable[..., Any]) -> None:
        self.weights = compile_function(weights_of_tile)

    def of(self, pair: Pair, tile: int, criterion: int) -> Iterator[tuple[slice, slice, bool, Tensor, Tensor]]:
        buffers = Buffers(pair, tile)
        for i, j in pair.tiles(tile):
            shared_IJ = None
            if i.start < pair.rows.num_labelled and j.start < pair.cols.num_labelled:
                shared_IJ = pair.rows.tags_LC[i] @ pair.cols.tags_LC[j].T
            codes = pair.rows.clip_code_R[i, None], pair.cols.clip_code_R[None, j]
            diagonal = pair.mirrored and i.start == j.start
            yield i, j, diagonal, buffers.scores(pair, i, j), self.weights(shared_IJ, *codes, diagonal, criterion)


@contextmanager
def compiled_tiles(compile_function: Callable[..., Any] = torch.compile) -> Iterator[None]:
    """Inside the block the tiles' sums and gradient go through ``compile_function``."""
    tiles, sums, h = _Tiles(compile_function), compile_function(sums_of_tile), compile_function(h_of_tile)

    class CompiledSums(Sums):
        def accumulate(self, pair: TilePair, scalars: Any, row_table: Tensor | None, col_table: Tensor | None) -> None:
            assert isinstance(pair, Pair)
            assert row_table is not None
            del scalars
            for i, j, diagonal, s_IJ, w_IJ in tiles.of(pair, self.settings.tile, self.settings.criterion):
                if diagonal:
                    s_IJ.fill_diagonal_(-torch.inf)
                sides = [(row_table[:, i], 1)]
                sides += [] if diagonal or col_table is None else [(col_table[:, j], 0)]
                for part, dim in sides:
                    for line, term in zip((EXP, WEIGHT, SCORE), sums(s_IJ, w_IJ, dim), strict=True):
                        part[line] += term

    class CompiledGradient(Gradient):
        def accumulate(self, pair: TilePair, scalars: Any, row_table: Tensor | None, col_table: Tensor | None) -> None:
            assert isinstance(pair, Pair)
            assert row_table is not None
            for i, j, diagonal, s_IJ, w_IJ in tiles.of(pair, self.settings.tile, self.settings.criterion):
                sides = scalars[0][:, i, None], scalars[1][:, None, j]
                h_IJ = h(s_IJ, w_IJ, *sides, diagonal, pair.rows.factor_RD.dtype)
                add_product(row_table[i], h_IJ, pair.cols.factor_RD[j])
                if col_table is not None and not diagonal:
                    add_product(col_table[j], h_IJ.T, pair.rows.factor_RD[i])

    before = streaming.KERNELS[False]
    streaming.KERNELS[False] = CompiledSums, CompiledGradient
    try:
        yield
    finally:
        streaming.KERNELS[False] = before
