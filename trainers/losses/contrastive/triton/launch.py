"""Launches of the two Triton kernels: which rows they can take, how they cut up the pair matrix, what each is given.

Triton is imported where a kernel is launched and not before.

Shape suffixes: R rows of a block.
"""

import importlib.util
import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainers.losses.contrastive.pairs import Block, Pair
from trainers.losses.contrastive.settings import ResolvedSettings

LARGEST_WIDTH, LARGEST_VOCABULARY = 256, 256
"""Wider rows, or more tags, would not fit into a multiprocessor beside what else a tile needs."""
SHARED_BYTES = 227 * 1024
"""Shared memory that a program may take on Hopper and on the Blackwell of data centres."""
SPARE_BYTES = 2**28
"""What the parts of a split row tile may take besides its table."""


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
        return "epsilon > 0 needs a kernel that is not there"
    if z.shape[1] > LARGEST_WIDTH:
        return f"rows of {z.shape[1]} numbers are wider than {LARGEST_WIDTH}"
    if labels is not None and labels.shape[1] > LARGEST_VOCABULARY:
        return f"{labels.shape[1]} tags are more than {LARGEST_VOCABULARY}"
    return None


def _shared_bytes(device: torch.device) -> int:
    properties = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]  # the stubs forget it


class Side(NamedTuple):
    """The rows of one block that a launch covers."""

    block: Block
    scalars: Tensor
    table: Tensor


def pairs_of_sides(
    pair: Pair, scalars: tuple[Tensor, Tensor], tables: tuple[Tensor, Tensor | None], *, rows_along: int
) -> Iterator[tuple[Side, Side]]:
    """Rows against columns, and columns against rows where those have a table of their own."""
    row_table, col_table = tables
    row_stop = len(pair.rows.z_RD) if pair.row_stop is None else pair.row_stop
    rows = _side(pair.rows, scalars[0], row_table, slice(0, row_stop), rows_along)
    cols = _side(pair.cols, scalars[1], col_table, slice(pair.col_start, len(pair.cols.z_RD)), rows_along)
    if len(rows.block.z_RD) and len(cols.block.z_RD):
        yield rows, cols
        if col_table is not None and not pair.mirrored:
            yield cols, rows


def _side(block: Block, scalars: Tensor, table: Tensor | None, part: slice, rows_along: int) -> Side:
    narrowed = Block(
        block.z_RD[part],
        block.factor_RD[part.start :],  # the padding behind the last row stays
        block.clip_code_R[part],
        block.tags_LC[part.start :],
        block.num_tags_L[part.start :],
        min(max(block.num_labelled - part.start, 0), part.stop - part.start),
        None,
    )
    held = scalars if table is None else table.narrow(rows_along, part.start, part.stop - part.start)
    return Side(narrowed, scalars[:, part], held)


class Launch:
    """Everything about one launch but what differs between the kernels."""

    def __init__(self, kernel: Literal["sums", "gradient"], rows: Side, cols: Side, settings: ResolvedSettings) -> None:
        self.rows, self.cols, self.settings = rows, cols, settings
        self.tiling = TILINGS[kernel, rows.block.factor_RD.dtype]
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
        """As many as fit beside the tile of rows; some bytes are left for vectors."""
        row_bytes = factor.shape[1] * factor.element_size() + tags.shape[1]
        free = SHARED_BYTES - 8192 - self.tiling.rows * row_bytes
        return min(self.tiling.stages, free // (self.tiling.cols * row_bytes))

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
                CRITERION=self.settings.criterion,
                WEIGHING=self.settings.weighing,
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
