"""The three kernels over tiles of the pair matrix: sums, the epsilon term and the gradient. Nothing of size N² is kept.

Every kernel fills a table for the rows and, because w and s are symmetric, one for its columns at the same time. Row
sums are added up in float64 across tiles.

Shape suffixes: R rows of a block, D projection width, I and J rows and columns of one tile.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from trainers.losses.contrastive.pairs import Block, Pair, weight_tile
from trainers.losses.contrastive.settings import ResolvedSettings

EXP, WEIGHT, SCORE, NUMBER, MAXIMUM = range(5)
"""Lines of the table of `Sums`: Σ_{j≠i} exp(s − maximum), R = Σw, S = Σw·s, K = #{w > 0}, and the running maximum."""
LOG2_E = 1 / math.log(2)
"""Where no maximum is subtracted, exp(s) is 2^(s · LOG2_E): the factor is free in a product, and a CPU takes half the
time for a power of two."""
LSE, PULL, PUSH = range(3)
"""Lines of the scalars of `Gradient`: lse_i, a_i = A_i·exp(−lse_i)/N (A_i/N when careful) and b_i = 1/(D_i·N)."""


class TileKernel(Protocol):
    """A sum over pairs, computed from one pair of blocks after another."""

    def table(self, block: Block) -> Tensor:
        """An empty result for the rows of a block."""
        ...

    def accumulate(
        self, pair: Pair, scalars: tuple[Tensor, Tensor], row_table: Tensor, col_table: Tensor | None
    ) -> None:
        """Add what the pairs contribute to the rows and, when there is a table for them, to the columns."""
        ...

    def merge(self, table: Tensor, part: Tensor) -> None:
        """Add the contributions that another rank found for the same rows."""
        ...


class Sums:
    """First kernel: the normaliser lse and the sums R, S, K of every row, as a (5 or 4, R) float64 table."""

    def __init__(self, settings: ResolvedSettings) -> None:
        self.settings = settings

    def table(self, block: Block) -> Tensor:
        """Zeros, and a maximum of −∞ when it is kept."""
        lines = 5 if self.settings.online else 4
        table = block.z_RD.new_zeros((lines, len(block.z_RD)), dtype=torch.float64)
        if self.settings.online:
            table[MAXIMUM] = -math.inf
        return table

    def accumulate(
        self, pair: Pair, scalars: tuple[Tensor, Tensor], row_table: Tensor, col_table: Tensor | None
    ) -> None:
        """Add Σexp(s), Σw, Σw·s and, where it differs from Σw, #{w > 0}."""
        del scalars
        tiles = _Buffers(pair, self.settings.tile)
        unit = 1.0 if self.settings.online else LOG2_E
        for i, j in pair.tiles(self.settings.tile):
            diagonal = pair.mirrored and i.start == j.start
            col_part = None if diagonal or col_table is None else col_table[:, j]
            s_IJ = tiles.scores(pair, i, j, unit)
            weight_IJ = tiles.weights(pair, i, j, self.settings)
            if weight_IJ is not None:
                score_IJ = torch.mul(s_IJ, 1 / unit, out=tiles.spare(i, j)).mul_(weight_IJ)
                self._add_positives(weight_IJ, score_IJ, row_table[:, i], col_part)
            if diagonal:
                s_IJ.fill_diagonal_(-math.inf)
            if self.settings.online:
                _add_online(s_IJ, row_table[:, i], 1)
                if col_part is not None:
                    _add_online(s_IJ, col_part, 0)
            else:
                s_IJ.exp2_()
                row_table[EXP, i] += s_IJ.sum(1)
                if col_part is not None:
                    col_part[EXP] += s_IJ.sum(0)

    def _add_positives(self, weight_IJ: Tensor, score_IJ: Tensor, row_part: Tensor, col_part: Tensor | None) -> None:
        terms = {WEIGHT: weight_IJ, SCORE: score_IJ}
        if self.settings.weighing:
            terms[NUMBER] = (weight_IJ > 0).to(weight_IJ.dtype)
        for line, term_IJ in terms.items():
            row_part[line] += term_IJ.sum(1)
            if col_part is not None:
                col_part[line] += term_IJ.sum(0)

    def merge(self, table: Tensor, part: Tensor) -> None:
        """Sums add; with a running maximum both exponential sums move to the larger one first."""
        if self.settings.online:
            _merge_online(table, part[EXP], part[MAXIMUM])
        else:
            table[EXP] += part[EXP]
        table[WEIGHT:MAXIMUM] += part[WEIGHT:MAXIMUM]

    def lse(self, table: Tensor) -> Tensor:
        """The normaliser log Σ_{j≠i} exp(s_ij), float64; −∞ where there is no other row."""
        lse_R = table[EXP].log()
        return lse_R + table[MAXIMUM] if self.settings.online else lse_R


class EpsilonTerm:
    """Second kernel, for ε > 0: Σ_j w·log(p + ε) and Σ_j w·p/(p + ε) of every row, as a (2, R) float64 table."""

    def __init__(self, settings: ResolvedSettings) -> None:
        self.settings = settings

    def table(self, block: Block) -> Tensor:
        """Zeros."""
        return block.z_RD.new_zeros((2, len(block.z_RD)), dtype=torch.float64)

    def accumulate(
        self, pair: Pair, scalars: tuple[Tensor, Tensor], row_table: Tensor, col_table: Tensor | None
    ) -> None:
        """Add both sums; p_ij = exp(s_ij − lse_i) differs between the two roles of a pair."""
        tiles = _Buffers(pair, self.settings.tile)
        row_lse_R, col_lse_R = scalars[0][LSE], scalars[1][LSE]
        for i, j in pair.tiles(self.settings.tile):
            weight_IJ = tiles.weights(pair, i, j, self.settings)
            if weight_IJ is None:
                continue
            s_IJ = tiles.scores(pair, i, j)
            self._add(s_IJ - row_lse_R[i, None], weight_IJ, row_table[:, i], 1)
            if col_table is not None and not (pair.mirrored and i.start == j.start):
                self._add(s_IJ - col_lse_R[None, j], weight_IJ, col_table[:, j], 0)

    def _add(self, log_p_IJ: Tensor, weight_IJ: Tensor, part: Tensor, dim: int) -> None:
        p_IJ = log_p_IJ.exp_()
        raised_IJ = p_IJ + self.settings.epsilon
        part[0] += (weight_IJ * raised_IJ.log()).sum(dim)
        part[1] += (weight_IJ * p_IJ / raised_IJ).sum(dim)

    def merge(self, table: Tensor, part: Tensor) -> None:
        """Sums add."""
        table += part


class Gradient:
    """Last kernel: Σ_j H_ij·z_j of every row, an (R, D) table in the dtype of the projections."""

    def __init__(self, settings: ResolvedSettings) -> None:
        self.settings = settings

    def table(self, block: Block) -> Tensor:
        """Zeros."""
        return torch.zeros_like(block.z_RD)

    def accumulate(
        self, pair: Pair, scalars: tuple[Tensor, Tensor], row_table: Tensor, col_table: Tensor | None
    ) -> None:
        """Recompute s, form H and multiply it from both sides."""
        tiles = _Buffers(pair, self.settings.tile)
        fill, unit = (self._careful_tile, 1.0) if self.settings.careful else (self._plain_tile, LOG2_E)
        for i, j in pair.tiles(self.settings.tile):
            diagonal = pair.mirrored and i.start == j.start
            s_IJ = tiles.scores(pair, i, j, unit)
            weight_IJ = tiles.weights(pair, i, j, self.settings)
            h_IJ = fill(s_IJ, weight_IJ, tiles.spare(i, j), (scalars[0][:, i, None], scalars[1][:, None, j]))
            if diagonal:
                h_IJ.fill_diagonal_(0)
            _add_product(row_table[i], h_IJ, pair.cols.factor_RD[j])
            if col_table is not None and not diagonal:
                _add_product(col_table[j], h_IJ.T, pair.rows.factor_RD[i])

    def _plain_tile(
        self, s_IJ: Tensor, weight_IJ: Tensor | None, spare_IJ: Tensor, scalars: tuple[Tensor, Tensor]
    ) -> Tensor:
        rows, cols = scalars
        h_IJ = torch.add(rows[PULL], cols[PULL], out=spare_IJ).mul_(s_IJ.exp2_())
        if weight_IJ is not None:
            h_IJ.addcmul_(weight_IJ, torch.add(rows[PUSH], cols[PUSH], out=s_IJ), value=-1)
        return h_IJ

    def _careful_tile(
        self, s_IJ: Tensor, weight_IJ: Tensor | None, spare_IJ: Tensor, scalars: tuple[Tensor, Tensor]
    ) -> Tensor:
        h_IJ = spare_IJ.zero_()
        for role in scalars:
            p_IJ = (s_IJ - role[LSE]).exp_()
            h_IJ.addcmul_(p_IJ, role[PULL])
            if weight_IJ is not None:
                credit = p_IJ / (p_IJ + self.settings.epsilon) if self.settings.epsilon > 0 else 1.0
                h_IJ.sub_(weight_IJ * credit * role[PUSH])
        return h_IJ

    def merge(self, table: Tensor, part: Tensor) -> None:
        """Gradients add."""
        table += part


class _Buffers:
    """Three tiles of memory that stay in the processor's cache: fresh memory costs more than the sums done in it."""

    def __init__(self, pair: Pair, tile: int) -> None:
        size = min(tile, len(pair.rows.z_RD)) * min(tile, len(pair.cols.z_RD))
        self._scores, self._weights, self._spare = pair.rows.z_RD.new_empty(3, size)

    def scores(self, pair: Pair, i: slice, j: slice, unit: float = 1.0) -> Tensor:
        """The scores s times a unit."""
        a_ID, b_JD = pair.rows.factor_RD[i], pair.cols.factor_RD[j]
        s_IJ = _tile_of(self._scores, i, j)
        if a_ID.dtype == s_IJ.dtype:
            return s_IJ.addmm_(a_ID, b_JD.T, beta=0, alpha=unit)
        return torch.mul(_wide_product(a_ID, b_JD.T), unit, out=s_IJ)

    def weights(self, pair: Pair, i: slice, j: slice, settings: ResolvedSettings) -> Tensor | None:
        """`weight_tile`; overwrites the spare tile."""
        tile = _tile_of(self._weights, i, j)
        return weight_tile(pair, i, j, settings, out_IJ=tile, spare_IJ=self.spare(i, j))

    def spare(self, i: slice, j: slice) -> Tensor:
        return _tile_of(self._spare, i, j)


def _tile_of(memory: Tensor, i: slice, j: slice) -> Tensor:
    shape = i.stop - i.start, j.stop - j.start
    return memory[: shape[0] * shape[1]].view(shape)


def _add_product(table: Tensor, h_IJ: Tensor, factor_JD: Tensor) -> None:
    if factor_JD.dtype == table.dtype:
        table.addmm_(h_IJ, factor_JD)
    else:
        table += _wide_product(h_IJ.to(factor_JD.dtype), factor_JD)


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """Product of two bfloat16 matrices added up in float32."""
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()  # a product of two bfloat16 numbers is a float32 number


def _add_online(s_IJ: Tensor, part: Tensor, dim: int) -> None:
    maximum = s_IJ.amax(dim, keepdim=True)
    # A row whose every score is −∞ (its own tile of one) must not become NaN by −∞ − (−∞).
    shifted_IJ = s_IJ - maximum.clamp(min=torch.finfo(s_IJ.dtype).min)
    _merge_online(part, shifted_IJ.exp_().sum(dim).double(), maximum.squeeze(dim).double())


def _merge_online(table: Tensor, exponentials: Tensor, maximum: Tensor) -> None:
    larger = torch.maximum(table[MAXIMUM], maximum)
    anchor = larger.clamp(min=torch.finfo(torch.float64).min)
    table[EXP] = table[EXP] * (table[MAXIMUM] - anchor).exp() + exponentials * (maximum - anchor).exp()
    table[MAXIMUM] = larger
