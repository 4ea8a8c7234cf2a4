"""The three kernels over tiles of the pair matrix: sums, the epsilon term and the gradient. Nothing of size N² is kept.

Every kernel fills a table for the rows and, because w and s are symmetric, one for its columns at the same time. Row
sums are added up in float64 across tiles.

Shape suffixes: R rows of a block, D projection width, I and J rows and columns of one tile.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from trainers.losses.contrastive.settings import ResolvedSettings

EXP, WEIGHT, SCORE, NUMBER, MAXIMUM = range(5)
"""Lines of the table of `Sums`: Σ_{j≠i} exp(s − maximum), R = Σw, S = Σw·s, K = #{w > 0}, and the running maximum."""
LOG2_E = 1 / math.log(2)
"""Where no maximum is subtracted, exp(s) is 2^(s · LOG2_E): the factor is free in a product, and a CPU takes half the
time for a power of two."""
LSE, PULL, PUSH = range(3)
"""Lines of the scalars of `Gradient`: lse_i, a_i = A_i·exp(−lse_i)/N (A_i/N when careful) and b_i = 1/(D_i·N)."""


SPREAD = 100.0
"""Exponents that differ by no more leave float32 its range when one number is subtracted from all of them."""
HEADROOM = 60.0
"""How far that number lies above the smallest of them."""

Scalars = tuple[Tensor, Tensor]
"""(k, R) of the rows and of the columns of a pair of blocks."""


class TileBlock(Protocol):
    """The rows of a block, as products read them."""

    @property
    def z_RD(self) -> Tensor:
        """Unit norm times √(1/τ), so that a product of two rows is s_ij."""
        ...

    @property
    def factor_RD(self) -> Tensor:
        """The same as it enters products, perhaps in bfloat16."""
        ...


class TilePair(Protocol):
    """Two blocks whose pairs are computed tile after tile, and what holds between their rows."""

    @property
    def rows(self) -> TileBlock:
        """The block along the rows of the pair matrix."""
        ...

    @property
    def cols(self) -> TileBlock:
        """The block along its columns."""
        ...

    @property
    def mirrored(self) -> bool:
        """Both blocks are the same: tiles on and above the diagonal suffice, and a row is no pair with itself."""
        ...

    def tiles(self, size: int) -> Iterator[tuple[slice, slice]]:
        """Row and column ranges of each tile."""
        ...

    def weights(
        self, i: slice, j: slice, settings: ResolvedSettings, *, out_IJ: Tensor, spare_IJ: Tensor
    ) -> Tensor | None:
        """Positive weights w_ij of a tile in ``out_IJ``, or None where it holds no positive; overwrites the spare."""
        ...

    def blocked(self, i: slice, j: slice) -> Tensor | None:
        """Pairs of a tile that are neither positives nor negatives, bool; None where there are none."""
        ...


class TileKernel(ABC):
    """A sum over pairs, computed from one pair of blocks after another."""

    def __init__(self, settings: ResolvedSettings) -> None:
        self.settings = settings

    @abstractmethod
    def table(self, block: TileBlock) -> Tensor:
        """An empty result for the rows of a block."""

    @abstractmethod
    def accumulate(self, pair: TilePair, scalars: Scalars, row_table: Tensor | None, col_table: Tensor | None) -> None:
        """Add what the pairs contribute to the rows and to the columns, to those that have a table."""

    def merge(self, table: Tensor, part: Tensor) -> None:
        """Add the contributions that another rank found for the same rows."""
        table += part


class Sums(TileKernel):
    """First kernel: the normaliser lse and the sums R, S, K of every row, as a (5 or 4, R) float64 table."""

    def table(self, block: TileBlock) -> Tensor:
        """Zeros, and a maximum of −∞ when it is kept."""
        lines = 5 if self.settings.online else 4
        table = block.z_RD.new_zeros((lines, len(block.z_RD)), dtype=torch.float64)
        if self.settings.online:
            table[MAXIMUM] = -math.inf
        return table

    def accumulate(self, pair: TilePair, scalars: Scalars, row_table: Tensor | None, col_table: Tensor | None) -> None:
        """Add Σexp(s), Σw, Σw·s and, where it differs from Σw, #{w > 0}."""
        del scalars
        tiles = Buffers(pair, self.settings.tile)
        unit = _unit(tiles.dtype, self.settings.online)
        for i, j in pair.tiles(self.settings.tile):
            diagonal = pair.mirrored and i.start == j.start
            row_part = None if row_table is None else row_table[:, i]
            col_part = None if diagonal or col_table is None else col_table[:, j]
            s_IJ = tiles.scores(pair, i, j, unit)
            weight_IJ = tiles.weights(pair, i, j, self.settings)
            if weight_IJ is not None:
                score_IJ = torch.mul(s_IJ, 1 / unit, out=tiles.spare(i, j)).mul_(weight_IJ)
                _add_sums(weight_IJ, row_part, col_part, WEIGHT)
                _add_sums(score_IJ, row_part, col_part, SCORE)
                if self.settings.weighing:
                    _add_sums((weight_IJ > 0).to(weight_IJ.dtype), row_part, col_part, NUMBER)
            if diagonal:
                s_IJ.fill_diagonal_(-math.inf)
            if (blocked_IJ := pair.blocked(i, j)) is not None:
                s_IJ.masked_fill_(blocked_IJ, -math.inf)
            if self.settings.online:
                _add_online(s_IJ, row_part, col_part, unit)
            else:
                _add_sums(s_IJ.exp2_(), row_part, col_part, EXP)

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


class EpsilonTerm(TileKernel):
    """Second kernel, for ε > 0: Σ_j w·log(p + ε) and Σ_j w·p/(p + ε) of every row, as a (2, R) float64 table."""

    def table(self, block: TileBlock) -> Tensor:
        """Zeros."""
        return block.z_RD.new_zeros((2, len(block.z_RD)), dtype=torch.float64)

    def accumulate(self, pair: TilePair, scalars: Scalars, row_table: Tensor | None, col_table: Tensor | None) -> None:
        """Add both sums; p_ij = exp(s_ij − lse_i) differs between the two roles of a pair."""
        tiles = Buffers(pair, self.settings.tile)
        row_lse_R, col_lse_R = scalars[0][LSE], scalars[1][LSE]
        for i, j in pair.tiles(self.settings.tile):
            weight_IJ = tiles.weights(pair, i, j, self.settings)
            if weight_IJ is None:
                continue
            s_IJ = tiles.scores(pair, i, j)
            if row_table is not None:
                self._add(s_IJ - row_lse_R[i, None], weight_IJ, row_table[:, i], 1)
            if col_table is not None and not (pair.mirrored and i.start == j.start):
                self._add(s_IJ - col_lse_R[None, j], weight_IJ, col_table[:, j], 0)

    def _add(self, log_p_IJ: Tensor, weight_IJ: Tensor, part: Tensor, dim: int) -> None:
        p_IJ = log_p_IJ.exp_()
        raised_IJ = p_IJ + self.settings.epsilon
        part[0] += (weight_IJ * raised_IJ.log()).sum(dim)
        part[1] += (weight_IJ * p_IJ / raised_IJ).sum(dim)


class Gradient(TileKernel):
    """Last kernel: Σ_j H_ij·z_j of every row, an (R, D) table in the dtype of the projections."""

    def table(self, block: TileBlock) -> Tensor:
        """Zeros."""
        return torch.zeros_like(block.z_RD)

    def accumulate(self, pair: TilePair, scalars: Scalars, row_table: Tensor | None, col_table: Tensor | None) -> None:
        """Recompute s, form H and multiply it from both sides."""
        tiles = Buffers(pair, self.settings.tile)
        unit = _unit(tiles.dtype, self.settings.careful)
        for i, j in pair.tiles(self.settings.tile):
            diagonal = pair.mirrored and i.start == j.start
            s_IJ = tiles.scores(pair, i, j, unit)
            weight_IJ = tiles.weights(pair, i, j, self.settings)
            if (blocked_IJ := pair.blocked(i, j)) is not None:
                s_IJ.masked_fill_(blocked_IJ, -math.inf)
            part = scalars[0][:, i, None], scalars[1][:, None, j]
            h_IJ = self._fill(s_IJ, weight_IJ, tiles.spare(i, j), part)
            if diagonal:
                h_IJ.fill_diagonal_(0)
            if row_table is not None:
                add_product(row_table[i], h_IJ, pair.cols.factor_RD[j])
            if col_table is not None and not diagonal:
                add_product(col_table[j], h_IJ.T, pair.rows.factor_RD[i])

    def _fill(self, s_IJ: Tensor, weight_IJ: Tensor | None, spare_IJ: Tensor, scalars: tuple[Tensor, Tensor]) -> Tensor:
        """H of a tile in the spare one, from scores in the unit of `_unit`."""
        if not self.settings.careful:
            return _plain_tile(s_IJ, weight_IJ, spare_IJ, (scalars[0][PULL], scalars[1][PULL]), scalars)
        if s_IJ.dtype == torch.float64:
            return self._careful_tile(s_IJ, weight_IJ, spare_IJ, scalars)
        if self.settings.epsilon == 0 and (shift := _common(*(role[LSE] for role in scalars))) is not None:
            # One power for both roles: exp(s − lse)·a is exp(s − shift) times exp(shift − lse)·a.
            pulls = [role[PULL] * (shift - role[LSE]).exp().where(role[LSE] > -math.inf, 0) for role in scalars]
            return _plain_tile(s_IJ.sub_(shift * LOG2_E), weight_IJ, spare_IJ, (pulls[0], pulls[1]), scalars)
        return self._careful_tile(s_IJ.mul_(1 / LOG2_E), weight_IJ, spare_IJ, scalars)

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


def _plain_tile(
    s_IJ: Tensor, weight_IJ: Tensor | None, spare_IJ: Tensor, pulls: tuple[Tensor, Tensor], scalars: Scalars
) -> Tensor:
    """2^s·(a_i + a_j) − w·(b_i + b_j) in the spare tile."""
    h_IJ = torch.add(*pulls, out=spare_IJ).mul_(s_IJ.exp2_())
    if weight_IJ is not None:
        h_IJ.addcmul_(weight_IJ, torch.add(scalars[0][PUSH], scalars[1][PUSH], out=s_IJ), value=-1)
    return h_IJ


class Buffers:
    """Three tiles of memory that stay in the processor's cache: fresh memory costs more than the sums done in it."""

    def __init__(self, pair: TilePair, tile: int) -> None:
        size = min(tile, len(pair.rows.z_RD)) * min(tile, len(pair.cols.z_RD))
        self.dtype = pair.rows.z_RD.dtype
        self._scores, self._weights, self._spare = pair.rows.z_RD.new_empty(3, size)

    def scores(self, pair: TilePair, i: slice, j: slice, unit: float = 1.0) -> Tensor:
        """The scores s times a unit."""
        a_ID, b_JD = pair.rows.factor_RD[i], pair.cols.factor_RD[j]
        s_IJ = _tile_of(self._scores, i, j)
        if a_ID.dtype == s_IJ.dtype:
            return s_IJ.addmm_(a_ID, b_JD.T, beta=0, alpha=unit)
        return torch.mul(_wide_product(a_ID, b_JD.T), unit, out=s_IJ)

    def weights(self, pair: TilePair, i: slice, j: slice, settings: ResolvedSettings) -> Tensor | None:
        """The pair's weights; overwrites the spare tile."""
        return pair.weights(i, j, settings, out_IJ=_tile_of(self._weights, i, j), spare_IJ=self.spare(i, j))

    def spare(self, i: slice, j: slice) -> Tensor:
        """A tile that may be overwritten."""
        return _tile_of(self._spare, i, j)


def _tile_of(memory: Tensor, i: slice, j: slice) -> Tensor:
    shape = i.stop - i.start, j.stop - j.start
    return memory[: shape[0] * shape[1]].view(shape)


def add_product(table: Tensor, h_IJ: Tensor, factor_JD: Tensor) -> None:
    """Add H·z to the rows of a table, in the dtype of the factor and summed in that of the table."""
    if factor_JD.dtype == table.dtype:
        table.addmm_(h_IJ, factor_JD)
    else:
        table += _wide_product(h_IJ.to(factor_JD.dtype), factor_JD)


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """Product of two bfloat16 matrices added up in float32."""
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()  # a product of two bfloat16 numbers is a float32 number


def _add_sums(term_IJ: Tensor, row_part: Tensor | None, col_part: Tensor | None, line: int) -> None:
    if row_part is not None:
        row_part[line] += term_IJ.sum(1)
    if col_part is not None:
        col_part[line] += term_IJ.sum(0)


def _unit(dtype: torch.dtype, careful: bool) -> float:
    """What scores are multiplied by: LOG2_E where powers of two serve. Careful float64 keeps every digit of s − lse."""
    return 1.0 if careful and dtype == torch.float64 else LOG2_E


def _add_online(s_IJ: Tensor, row_part: Tensor | None, col_part: Tensor | None, unit: float) -> None:
    """Add the exponentials of scores in the unit of `_unit`; they are overwritten."""
    parts = [(part, dim) for part, dim in ((row_part, 1), (col_part, 0)) if part is not None]
    peaks = [s_IJ.amax(dim) / unit for _, dim in parts]
    shift = _common(*peaks) if unit == LOG2_E else None
    if shift is not None:
        s_IJ.sub_(shift * LOG2_E).exp2_()
        for (part, dim), peak in zip(parts, peaks, strict=True):
            maximum = torch.full_like(peak, shift, dtype=torch.float64).where(peak > -math.inf, -math.inf)
            _merge_online(part, s_IJ.sum(dim).double(), maximum)
        return
    s_IJ.mul_(1 / unit)
    for (part, dim), peak in zip(parts, peaks, strict=True):
        # A row whose every score is −∞ (its own tile of one) must not become NaN by −∞ − (−∞).
        anchor = peak.clamp(min=torch.finfo(s_IJ.dtype).min).unsqueeze(dim)
        _merge_online(part, (s_IJ - anchor).exp_().sum(dim).double(), peak.double())


def _common(*exponents: Tensor) -> float | None:
    """A number to subtract from all exponents of a tile before they are raised; None where they lie too far apart.

    One power a pair then serves rows and columns. Read on a CPU alone: a GPU would wait for the answer.
    """
    if exponents[0].device.type != "cpu":
        return None
    finite = torch.cat([exponent.flatten() for exponent in exponents])
    finite = finite[finite != -math.inf]
    if len(finite) == 0:
        return 0.0
    low, high = (number.item() for number in torch.aminmax(finite))
    return low + min(HEADROOM, high - low) if high - low <= SPREAD else None


def _merge_online(table: Tensor, exponentials: Tensor, maximum: Tensor) -> None:
    larger = torch.maximum(table[MAXIMUM], maximum)
    anchor = larger.clamp(min=torch.finfo(torch.float64).min)
    table[EXP] = table[EXP] * (table[MAXIMUM] - anchor).exp() + exponentials * (maximum - anchor).exp()
    table[MAXIMUM] = larger
