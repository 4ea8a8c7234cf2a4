"""Which rows are positives of each other, and which tiles of the pair matrix can hold any.

Shape suffixes: R rows of one block (one rank's share of the global batch), L its labelled rows and one tile more,
C tags, D projection width, I and J rows and columns of one tile.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainers.losses.contrastive.settings import ResolvedSettings, VariantPositives

PADDING = 128
"""Rows of zeros behind the tables of fused kernels, so that none reads past an end: the longest tile."""
SMALLEST_PRODUCT = 32
"""Columns that a tensor core wants at least."""


class Block(NamedTuple):
    """Rows of one rank in the order of `sort_rows`."""

    z_RD: Tensor
    """Unit norm times √(1/τ), so that a product of two rows is s_ij."""
    factor_RD: Tensor
    """The same as it enters products: in bfloat16 when they are `ResolvedSettings.half`; `padded` for fused kernels."""
    clip_code_R: Tensor
    """Which clip of this rank each row belongs to, from `clip_codes`."""
    tags_LC: Tensor
    """0 or 1 in the dtype of ``z_RD``; a tile that starts at a labelled row finds all its rows here. Int8, without
    unlabelled rows and `padded` for fused kernels."""
    num_tags_L: Tensor
    num_labelled: int
    """They are the first rows."""
    spans: list[tuple[float, float]] | None
    """Smallest and largest clip code of each tile; None where reading them would stall a GPU."""


class Pair(NamedTuple):
    """The part of the pair matrix of two blocks that is computed at a time."""

    rows: Block
    cols: Block
    mirrored: bool = False
    """Both blocks are the same: tiles on and above the diagonal suffice."""
    row_stop: int | None = None
    col_start: int = 0

    def tiles(self, size: int) -> Iterator[tuple[slice, slice]]:
        """Row and column ranges of each tile."""
        row_stop = len(self.rows.z_RD) if self.row_stop is None else self.row_stop
        col_stop = len(self.cols.z_RD)
        for i in range(0, row_stop, size):
            for j in range(i if self.mirrored else self.col_start, col_stop, size):
                yield slice(i, min(i + size, row_stop)), slice(j, min(j + size, col_stop))

    def weights(
        self, i: slice, j: slice, settings: ResolvedSettings, *, out_IJ: Tensor, spare_IJ: Tensor
    ) -> Tensor | None:
        """`weight_tile` of a tile."""
        return weight_tile(self, i, j, settings, out_IJ=out_IJ, spare_IJ=spare_IJ)

    def blocked(self, i: slice, j: slice) -> None:
        """None: every other row of the batch is a positive or a negative."""


def sort_rows(clip_id_R: Tensor, labelled_R: Tensor) -> Tensor:
    """Order that puts labelled rows first and views of a clip side by side: most tiles then hold no positive."""
    by_clip = clip_id_R.argsort(stable=True)
    return by_clip[labelled_R[by_clip].logical_not().to(torch.uint8).argsort(stable=True)]


class Clips(NamedTuple):
    """The K clips of this rank."""

    id_K: Tensor
    """Sorted and unique."""
    first_K: Tensor
    """The first row of each. In the order of `sort_rows` it is a narrow range in every tile, labelled or not."""


def known_clips(clip_id_R: Tensor) -> Clips:
    """The clips of rows in the order of `sort_rows`.

    >>> known_clips(torch.tensor([70, 70, 50]))
    Clips(id_K=tensor([50, 70]), first_K=tensor([2, 0]))
    """
    id_K, place_R = torch.unique(clip_id_R, return_inverse=True)
    row_R = torch.arange(len(clip_id_R), device=clip_id_R.device)
    return Clips(id_K, torch.empty_like(id_K).scatter_reduce_(0, place_R, row_R, "amin", include_self=False))


def clip_codes(clip_id_R: Tensor, known: Clips, dtype: torch.dtype) -> Tensor:
    """This rank's first row of each row's clip, or −1; floats compare ten times faster than int64.

    >>> clip_codes(torch.tensor([70, 8, 50]), known_clips(torch.tensor([70, 70, 50])), torch.float32)
    tensor([ 0., -1.,  2.])
    """
    place_R = torch.searchsorted(known.id_K, clip_id_R).clamp_(max=len(known.id_K) - 1)
    return torch.where(known.id_K[place_R] == clip_id_R, known.first_K[place_R], -1).to(dtype)


def variant_codes(code_R: Tensor, treated_R: Tensor, rule: VariantPositives, *, own: bool) -> Tensor:
    """Clip codes of a variant head: rows with equal ones are its positives.

    The halves between two whole numbers are free: a treated row of this rank takes the one behind its own place, which
    no other row has, and stays in the narrow range of its tile. Those of other ranks equal no row of this one.

    Args:
        code_R: of `clip_codes`.
        treated_R: whether the row got the head's effect, bool.
        rule: ``untreated`` gives every treated row a clip of its own, ``alike`` one to those of a clip, ``all`` none.
        own: whether the rows are those whose first rows the codes count.

    >>> code = torch.tensor([0.0, 0.0, 2.0])
    >>> variant_codes(code, torch.tensor([False, True, True]), "untreated", own=True)
    tensor([0.0000, 1.5000, 2.5000])
    """
    if rule == "all":
        return code_R
    if rule == "alike":
        return code_R.where(~treated_R | (code_R < 0), code_R + 0.5)
    alone_R = torch.arange(len(code_R), device=code_R.device) + 0.5 if own else torch.full_like(code_R, -1)
    return code_R.where(~treated_R, alone_R.to(code_R.dtype))


def make_block(
    z_RD: Tensor, clip_code_R: Tensor, labels_RC: Tensor | None, num_labelled: int, settings: ResolvedSettings
) -> Block:
    """Prepare sorted rows: tags as numbers, and the range of clip codes of each tile."""
    factor_RD = z_RD.bfloat16() if settings.half else z_RD
    if settings.fused:
        labels_RC = z_RD.new_empty(0, 0, dtype=torch.bool) if labels_RC is None else labels_RC[:num_labelled]
        tags_LC = padded(labels_RC.to(torch.int8))
        number_L = labels_RC.sum(1, dtype=z_RD.dtype)
        return Block(z_RD, padded(factor_RD), clip_code_R, tags_LC, number_L, num_labelled, None)
    tags_LC = z_RD.new_empty(0, 0)
    if labels_RC is not None and num_labelled > 0:
        tags_LC = labels_RC[: num_labelled + settings.tile].to(z_RD.dtype)
    spans = None
    if z_RD.device.type == "cpu":
        spans = [span(codes) for codes in torch.split(clip_code_R, settings.tile)]
    return Block(z_RD, factor_RD, clip_code_R, tags_LC, tags_LC.sum(1), num_labelled, spans)


def tiled(pair: Pair, tile: int) -> Pair:
    """A pair of blocks made for fused kernels, as the tiles' kernels read it."""
    return pair._replace(rows=_tiled(pair.rows, tile), cols=_tiled(pair.cols, tile))


def _tiled(block: Block, tile: int) -> Block:
    rows, width = block.z_RD.shape
    num_labelled = block.num_labelled
    behind = min(rows, num_labelled + tile) - num_labelled if num_labelled else 0
    tags_LC = functional.pad(block.tags_LC[:num_labelled].to(block.z_RD.dtype), (0, 0, 0, behind))
    return block._replace(factor_RD=block.factor_RD[:rows, :width], tags_LC=tags_LC, num_tags_L=tags_LC.sum(1))


def padded(table: Tensor) -> Tensor:
    """Zeros around a table: `PADDING` rows behind it, columns up to a power of two.

    >>> padded(torch.ones(3, 50)).shape
    torch.Size([131, 64])
    """
    width = max(SMALLEST_PRODUCT, 2 ** math.ceil(math.log2(max(table.shape[1], 1))))
    return functional.pad(table, (0, width - table.shape[1], 0, PADDING))


def span(codes: Tensor) -> tuple[float, float]:
    """The least and the greatest code that is known, ≥ 0."""
    known = codes[codes >= 0]
    return (known.min().item(), known.max().item()) if len(known) else (math.inf, -math.inf)


def weight_tile(
    pair: Pair, i: slice, j: slice, settings: ResolvedSettings, *, out_IJ: Tensor, spare_IJ: Tensor
) -> Tensor | None:
    """Positive weights w_ij of tile (i, j) in ``out_IJ``, the diagonal of the pair matrix excluded; None where it holds
    no positive. ``spare_IJ``, of the projections' dtype as well, is overwritten.
    """
    tagged = i.start < pair.rows.num_labelled and j.start < pair.cols.num_labelled
    if tagged:
        _shared_tags(pair, i, j, settings, out_IJ, spare_IJ)
    if _may_share_clips(pair, i, j, settings.tile):
        a_I1, b_1J = pair.rows.clip_code_R[i, None], pair.cols.clip_code_R[None, j]
        same_IJ = torch.eq(a_I1, b_1J, out=spare_IJ if tagged else out_IJ)
        if tagged:
            torch.maximum(out_IJ, same_IJ, out=out_IJ)
    elif not tagged:
        return None
    return out_IJ.fill_diagonal_(0) if pair.mirrored and i.start == j.start else out_IJ


def _shared_tags(pair: Pair, i: slice, j: slice, settings: ResolvedSettings, out_IJ: Tensor, spare_IJ: Tensor) -> None:
    rows, cols = pair.rows, pair.cols
    # A product of 0/1 matrices counts exactly; clamping the small integers is several times faster than comparing.
    torch.mm(rows.tags_LC[i], cols.tags_LC[j].T, out=out_IJ)
    if settings.weighing:
        total_IJ = torch.add(rows.num_tags_L[i, None], cols.num_tags_L[None, j], out=spare_IJ)
        out_IJ.mul_(2).div_(total_IJ.clamp_(min=1))
        return
    if settings.criterion > 1:
        out_IJ.sub_(settings.criterion - 1).clamp_(min=0)
    out_IJ.clamp_(max=1)


def _may_share_clips(pair: Pair, i: slice, j: slice, tile: int) -> bool:
    if pair.rows.spans is None or pair.cols.spans is None:
        return True
    # A half-block of the ring may start inside a tile: two spans then cover it.
    row_spans = pair.rows.spans[i.start // tile : (i.stop - 1) // tile + 1]
    col_spans = pair.cols.spans[j.start // tile : (j.stop - 1) // tile + 1]
    return any(a[0] <= b[1] and b[0] <= a[1] for a in row_spans for b in col_spans)
