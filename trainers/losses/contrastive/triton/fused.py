"""The kernels of `tiles` as Triton kernels, one launch for the rows and one for the columns of a pair of blocks.

Sums and gradient are those of `tiles`: products of bfloat16 rows (or of float32 rows, without TF32) added up in
float32, row sums in float64 across tiles. Where a GPU can hold more programs than there are row tiles, several share
one, each with every k-th column tile, and their parts are added in order. Nothing is atomic: the same rows give the
same bits.

Shape suffixes: R rows of a block, L lines of the table of `tiles.Sums`, D projection width, K parts of a row tile.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from trainers.kernel_choice import KernelChoice
from trainers.losses.contrastive.pairs import Pair, tiled
from trainers.losses.contrastive.tiles import EXP, MAXIMUM, Gradient, Scalars, Sums, TileKernel, TilePair
from trainers.losses.contrastive.triton.launch import Launch, pairs_of_sides

TOLERANCES: dict[str, tuple[float, tuple[int, ...]]] = {"sums": (1e-3, (1,)), "gradient": (2e-2, (0, 1))}
"""Difference from the tiles, relative to the largest number of a line of sums or of the gradient: both add the
same products in float32, but the gradient's factors are rounded to bfloat16."""


class FusedKernel(TileKernel):
    """A kernel of `tiles` by launches of a Triton kernel, compared with the tiles where the settings have a choice."""

    name: str

    def accumulate(self, pair: TilePair, scalars: Scalars, row_table: Tensor | None, col_table: Tensor | None) -> None:
        """Add what every row finds among the columns and, where they have a table, every column among the rows."""
        assert isinstance(pair, Pair)
        assert row_table is not None

        def plain(rows: Tensor, cols: Tensor | None) -> None:
            super(FusedKernel, self).accumulate(  # type: ignore[safe-super]  # the tiles' in both subclasses
                tiled(pair, self.settings.tile), scalars, rows, cols
            )

        def fused(rows: Tensor, cols: Tensor | None) -> None:
            self._launch(pair, scalars, rows, cols)

        _checked(self.settings.choice, self.name, fused, plain, (row_table, col_table))

    @abstractmethod
    def _launch(self, pair: Pair, scalars: Scalars, row_table: Tensor, col_table: Tensor | None) -> None: ...


class FusedSums(FusedKernel, Sums):
    """The sums, by `kernels.sums_kernel`."""

    name = "sums"

    def _launch(self, pair: Pair, scalars: Scalars, row_table: Tensor, col_table: Tensor | None) -> None:
        from trainers.losses.contrastive.triton.kernels import sums_kernel

        for rows, cols in pairs_of_sides(pair, scalars, (row_table, col_table), rows_along=1):
            launch = Launch("sums", rows, cols, self.settings)
            part_KLR = rows.table.new_empty(launch.splits, *rows.table.shape)
            launch.run(sums_kernel, table=part_KLR, MIRRORED=pair.mirrored, ONLINE=self.settings.online)
            self.merge(rows.table, self._total(part_KLR))

    def _total(self, part_KLR: Tensor) -> Tensor:
        if not self.settings.online:
            return part_KLR.sum(0)
        peak_R = part_KLR[:, MAXIMUM].amax(0)
        anchor_R = peak_R.clamp(min=torch.finfo(torch.float64).min)
        part_KLR[:, EXP] *= (part_KLR[:, MAXIMUM] - anchor_R).exp()
        total_LR = part_KLR.sum(0)
        total_LR[MAXIMUM] = peak_R
        return total_LR


class FusedGradient(FusedKernel, Gradient):
    """The gradient, by `kernels.gradient_kernel`."""

    name = "gradient"

    def _launch(self, pair: Pair, scalars: Scalars, row_table: Tensor, col_table: Tensor | None) -> None:
        from trainers.losses.contrastive.triton.kernels import gradient_kernel

        for rows, cols in pairs_of_sides(pair, scalars, (row_table, col_table), rows_along=0):
            launch = Launch("gradient", rows, cols, self.settings)
            part_KRD = rows.table[None]
            if launch.splits > 1:
                part_KRD = rows.table.new_zeros(launch.splits, *rows.table.shape)
            launch.run(
                gradient_kernel,
                table=part_KRD,
                row_scalars=rows.scalars.contiguous(),
                col_scalars=cols.scalars.contiguous(),
                width=rows.table.shape[1],
                MIRRORED=pair.mirrored,
                CAREFUL=self.settings.careful,
            )
            if launch.splits > 1:
                rows.table.add_(part_KRD.sum(0))


Tables = tuple[Tensor, Tensor | None]


def _checked(
    choice: KernelChoice | None,
    part: str,
    fused: Callable[[Tensor, Tensor | None], None],
    plain: Callable[[Tensor, Tensor | None], None],
    tables: Tables,
) -> None:
    """Fill the tables by kernels that agree with the tiles, else by the tiles.

    Both work on copies, so that kernels that fail half-way leave nothing behind. Every rank decides for itself and no
    collective depends on it.
    """
    if choice is None:
        fused(*tables)
        return
    row_table, col_table = tables

    def on_copies(accumulate: Callable[[Tensor, Tensor | None], None]) -> Tables:
        rows = row_table.clone()
        cols = rows if col_table is row_table else None if col_table is None else col_table.clone()
        accumulate(rows, cols)
        return rows, cols

    made = choice.run(
        part, lambda: on_copies(fused), lambda: on_copies(plain), lambda a, b: _difference(a, b, *TOLERANCES[part])
    )
    row_table.copy_(made[0])
    if col_table is not None and made[1] is not None and col_table is not row_table:
        col_table.copy_(made[1])


def _difference(fused: Tables, plain: Tables, allowed: float, dim: tuple[int, ...]) -> str | None:
    for made, expected in zip(fused, plain, strict=True):
        if made is None or expected is None:
            continue
        same = (made == expected) | (made.isnan() & expected.isnan())
        scale = expected.where(expected.isfinite(), 0).abs().amax(dim, keepdim=True)
        wrong = int((~((made - expected).abs() <= allowed * scale) & ~same).sum())
        if wrong:
            return f"{wrong} of {made.numel()} numbers differ from those of the tensor code"
    return None
