"""The walks of `tiles` as one Triton launch for each role of a pair of blocks.

Sums and gradient are those of `tiles`: products of bfloat16 rows (or of float32 rows, without TF32) added up in
float32, row sums in float64 across tiles. Where a GPU can hold more programs than there are row tiles, several share
one, each with every k-th column tile, and their parts are added in order. Nothing is atomic: the same rows give the
same bits. Triton is imported where a kernel is launched and not before.

Shape suffixes: R rows of a block, L lines of the table of `tiles.Sums`, D projection width, K parts of a split walk.
"""

import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainers.kernel_choice import KernelChoice
from trainers.losses.pairs import Block, Pair, Recipe, tiled
from trainers.losses.tiles import EXP, MAXIMUM, Gradient, Sums

LARGEST_WIDTH, LARGEST_VOCABULARY = 256, 256
"""Wider rows, or more tags, would not fit into a multiprocessor beside what else a tile needs."""
SHARED_BYTES = 227 * 1024
"""Shared memory that a program may take on Hopper and on the Blackwell of data centres."""
TOLERANCES: dict[str, tuple[float, tuple[int, ...]]] = {"sums": (1e-3, (1,)), "gradient": (2e-2, (0, 1))}
"""Difference from the tiles, relative to the largest number of a line of sums or of the gradient: both walks add the
same products in float32, but the gradient's factors are rounded to bfloat16."""
SPARE_BYTES = 2**28
"""What the parts of a split walk may take besides its table."""


class Tiling(NamedTuple):
    """How a kernel cuts up the pair matrix; chosen by compiled code (docs/numerics.md), to be measured."""

    rows: int
    cols: int
    warps: int
    stages: int
    """Column tiles on their way while one is worked on."""
    resident: int
    """Programs that a multiprocessor holds at a time; their registers are limited to what that needs."""


TILINGS: dict[tuple[str, torch.dtype], Tiling] = {
    ("sums", torch.bfloat16): Tiling(128, 64, 8, 3, 2),
    ("gradient", torch.bfloat16): Tiling(128, 64, 8, 3, 1),
    ("sums", torch.float32): Tiling(32, 32, 4, 2, 2),
    ("gradient", torch.float32): Tiling(32, 32, 4, 2, 2),
}


def interpreted() -> bool:
    """Whether Triton runs kernels in Python, on any machine: ``TRITON_INTERPRET=1``, set before it is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def obstacle(z: Tensor, labels: Tensor | None, epsilon: float) -> str | None:
    """Why the kernels cannot compute this loss; None when they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not z.is_cuda and not interpreted():
        return f"the rows are on {z.device.type}, not on a CUDA device"
    if z.is_cuda and _shared_bytes(z.device) < SHARED_BYTES:
        return f"{torch.cuda.get_device_name(z.device)} has less shared memory than they need"
    if z.dtype != torch.float32:
        return f"the rows are {z.dtype}, not torch.float32"
    if epsilon > 0:
        return "epsilon > 0 needs a walk that they do not have"
    if z.shape[1] > LARGEST_WIDTH:
        return f"rows of {z.shape[1]} numbers are wider than {LARGEST_WIDTH}"
    if labels is not None and labels.shape[1] > LARGEST_VOCABULARY:
        return f"{labels.shape[1]} tags are more than {LARGEST_VOCABULARY}"
    return None


def _shared_bytes(device: torch.device) -> int:
    properties = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]  # the stubs forget it


class FusedSums(Sums):
    """First walk, by `fused_kernels.sums_kernel`."""

    def visit(self, pair: Pair, scalars: tuple[Tensor, Tensor], row_table: Tensor, col_table: Tensor | None) -> None:
        """Add what every row finds among the columns and, where they have a table, every column among the rows."""

        def plain(rows: Tensor, cols: Tensor | None) -> None:
            super(FusedSums, self).visit(tiled(pair, self.recipe.tile), scalars, rows, cols)

        def fused(rows: Tensor, cols: Tensor | None) -> None:
            self._launch(pair, scalars, rows, cols)

        _checked(self.recipe.choice, "sums", fused, plain, (row_table, col_table))

    def _launch(self, pair: Pair, scalars: tuple[Tensor, Tensor], row_table: Tensor, col_table: Tensor | None) -> None:
        from trainers.losses.fused_kernels import sums_kernel

        for rows, cols in _roles(pair, scalars, (row_table, col_table), rows_along=1):
            launch = _Launch("sums", rows, cols, self.recipe)
            part_KLR = rows.table.new_empty(launch.splits, *rows.table.shape)
            launch.run(sums_kernel, table=part_KLR, MIRRORED=pair.mirrored, ONLINE=self.recipe.online)
            self.merge(rows.table, self._total(part_KLR))

    def _total(self, part_KLR: Tensor) -> Tensor:
        if not self.recipe.online:
            return part_KLR.sum(0)
        peak_R = part_KLR[:, MAXIMUM].amax(0)
        anchor_R = peak_R.clamp(min=torch.finfo(torch.float64).min)
        part_KLR[:, EXP] *= (part_KLR[:, MAXIMUM] - anchor_R).exp()
        total_LR = part_KLR.sum(0)
        total_LR[MAXIMUM] = peak_R
        return total_LR


class FusedGradient(Gradient):
    """Last walk, by `fused_kernels.gradient_kernel`."""

    def visit(self, pair: Pair, scalars: tuple[Tensor, Tensor], row_table: Tensor, col_table: Tensor | None) -> None:
        """Add Σ_j H_ij·z_j to the rows and, where they have a table, to the columns."""

        def plain(rows: Tensor, cols: Tensor | None) -> None:
            super(FusedGradient, self).visit(tiled(pair, self.recipe.tile), scalars, rows, cols)

        def fused(rows: Tensor, cols: Tensor | None) -> None:
            self._launch(pair, scalars, rows, cols)

        _checked(self.recipe.choice, "gradient", fused, plain, (row_table, col_table))

    def _launch(self, pair: Pair, scalars: tuple[Tensor, Tensor], row_table: Tensor, col_table: Tensor | None) -> None:
        from trainers.losses.fused_kernels import gradient_kernel

        for rows, cols in _roles(pair, scalars, (row_table, col_table), rows_along=0):
            launch = _Launch("gradient", rows, cols, self.recipe)
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
                CAREFUL=self.recipe.careful,
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

    def on_copies(visit: Callable[[Tensor, Tensor | None], None]) -> Tables:
        rows = row_table.clone()
        cols = rows if col_table is row_table else None if col_table is None else col_table.clone()
        visit(rows, cols)
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


class _Side(NamedTuple):
    """The rows of one block that a visit covers."""

    block: Block
    scalars: Tensor
    table: Tensor


def _roles(
    pair: Pair, scalars: tuple[Tensor, Tensor], tables: tuple[Tensor, Tensor | None], *, rows_along: int
) -> Iterator[tuple[_Side, _Side]]:
    """Rows against columns, and columns against rows where those have a table of their own."""
    row_table, col_table = tables
    row_stop = len(pair.rows.z_RD) if pair.row_stop is None else pair.row_stop
    rows = _side(pair.rows, scalars[0], row_table, slice(0, row_stop), rows_along)
    cols = _side(pair.cols, scalars[1], col_table, slice(pair.col_start, len(pair.cols.z_RD)), rows_along)
    if len(rows.block.z_RD) and len(cols.block.z_RD):
        yield rows, cols
        if col_table is not None and not pair.mirrored:
            yield cols, rows


def _side(block: Block, scalars: Tensor, table: Tensor | None, part: slice, rows_along: int) -> _Side:
    narrowed = Block(
        block.z_RD[part],
        block.factor_RD[part.start :],  # the room behind the last row stays
        block.clip_code_R[part],
        block.tags_LC[part.start :],
        block.num_tags_L[part.start :],
        min(max(block.num_labelled - part.start, 0), part.stop - part.start),
        None,
    )
    held = scalars if table is None else table.narrow(rows_along, part.start, part.stop - part.start)
    return _Side(narrowed, scalars[:, part], held)


class _Launch:
    """Everything about one launch but what differs between the kernels."""

    def __init__(self, walk: Literal["sums", "gradient"], rows: _Side, cols: _Side, recipe: Recipe) -> None:
        self.rows, self.cols, self.recipe = rows, cols, recipe
        self.tiling = TILINGS[walk, rows.block.factor_RD.dtype]
        self.row_tiles = -(-len(rows.block.z_RD) // self.tiling.rows)
        col_tiles = -(-len(cols.block.z_RD) // self.tiling.cols)
        spare = SPARE_BYTES // (rows.table.nbytes + 1)
        self.splits = even_splits(self.row_tiles, min(col_tiles, max(spare, 1)), self._slots())

    def _slots(self) -> int:
        """Programs that the device holds at a time; of the interpreter, whatever makes it split."""
        device = self.rows.block.z_RD.device
        processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3
        return processors * self.tiling.resident

    def _stages(self, factor: Tensor, tags: Tensor) -> int:
        """As many as fit beside the tile of rows; some room is left for vectors."""
        row_bytes = factor.shape[1] * factor.element_size() + tags.shape[1]
        room = SHARED_BYTES - 8192 - self.tiling.rows * row_bytes
        return min(self.tiling.stages, room // (self.tiling.cols * row_bytes))

    def run(self, kernel: Any, **given: Any) -> None:
        """Launch a program for each row tile and split."""
        rows, cols, tiling = self.rows.block, self.cols.block, self.tiling
        tagged = rows.num_labelled > 0 and cols.num_labelled > 0
        with torch.cuda.device(rows.z_RD.device) if rows.z_RD.is_cuda else nullcontext():
            kernel[self.row_tiles, self.splits](
                **_columns("row", rows),
                **_columns("col", cols),
                **given,
                col_span=_spans(cols.clip_code_R, tiling.cols),
                num_rows=len(rows.z_RD),
                num_cols=len(cols.z_RD),
                I=tiling.rows,
                J=tiling.cols,
                D=rows.factor_RD.shape[1],
                T=rows.tags_LC.shape[1] if tagged else 0,
                CRITERION=self.recipe.criterion,
                WEIGHING=self.recipe.weighing,
                PRECISION="ieee",
                num_warps=tiling.warps,
                num_stages=self._stages(rows.factor_RD, rows.tags_LC),
                maxnreg=min(255, 65_536 // (32 * tiling.warps * tiling.resident)),
            )


def even_splits(row_tiles: int, most: int, slots: int) -> int:
    """Programs to share a row tile so that the last round of them leaves little of the device idle.

    >>> even_splits(8192, 100, 264), even_splits(384, 100, 264), even_splits(3, 100, 264)
    (1, 2, 80)
    """

    def busy(splits: int) -> float:
        programs = row_tiles * splits
        return programs / (math.ceil(programs / slots) * slots)

    tried = range(1, max(1, min(most, -(-4 * slots // row_tiles))) + 1)
    return next((splits for splits in tried if busy(splits) > 0.9), max(tried, key=busy))


def _columns(side: str, block: Block) -> dict[str, Any]:
    return {
        f"{side}_factor": block.factor_RD,
        f"{side}_code": block.clip_code_R,
        f"{side}_tags": block.tags_LC,
        f"{side}_number": block.num_tags_L,
        f"{side}_labelled": block.num_labelled,
    }


def _spans(code_R: Tensor, tile: int) -> Tensor:
    """Smallest and largest code of each tile, (2, tiles); an empty range where it holds no known clip."""
    code = functional.pad(code_R, (0, -len(code_R) % tile), value=-1).view(-1, tile)
    known = code >= 0
    return torch.stack([code.where(known, torch.inf).amin(1), code.where(known, -torch.inf).amax(1)])
