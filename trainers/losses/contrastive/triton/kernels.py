"""Sums and gradient over pairs as Triton kernels: a program owns a tile of rows and loops over the column tiles of its
split.

Nothing is shared between programs, so no sum depends on which of them runs first. Columns start with the labelled ones:
a first loop multiplies tags, a second one does not. A tile that may hold rows of the program's own clips (the spans of
their codes overlap), and the last one, which may be short, are looked at pair by pair; all others are products and
exponentials only. Rows and columns that are there for padding are never stored and never counted.

Shape suffixes: I and J rows and columns of one tile, D width padded to a power of two, T tags padded likewise. Pointers
are to contiguous tables: factor (R, D), code (R,) float32, tags (L, T) int8, number (L,) float32, span (2, J tiles).
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.0e38)
# They differ from step to step: a kernel made for one of them in particular would be compiled in the middle of a run.
COUNTS = ["num_rows", "num_cols", "row_labelled", "col_labelled"]


@triton.jit(do_not_specialize=COUNTS)
def sums_kernel(
    table,  # (splits, 3 to 5, num_rows) float64, to be written
    row_factor,
    row_code,
    row_tags,
    row_number,
    col_factor,
    col_code,
    col_tags,
    col_number,
    col_span,
    num_rows,
    num_cols,
    row_labelled,
    col_labelled,
    I: tl.constexpr,
    J: tl.constexpr,
    D: tl.constexpr,
    T: tl.constexpr,
    CRITERION: tl.constexpr,
    WEIGHING: tl.constexpr,
    ONLINE: tl.constexpr,
    MIRRORED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Σexp(s), Σw, Σw·s, #{w > 0} and the maximum of each row, in the order of `tiles.Sums`."""
    start = tl.program_id(0) * I
    rows_I = start + tl.arange(0, I)
    stored_I = rows_I < num_rows
    code_I = tl.load(row_code + rows_I, mask=stored_I, other=-1.0)
    low, high = _span(code_I, stored_I)
    a_ID = _factor(row_factor, start, I, D)
    exp_I = tl.zeros((I,), tl.float64)
    weight_I, score_I, number_I = exp_I, exp_I, exp_I
    peak_I = tl.full((I,), float("-inf"), tl.float32)
    t, splits, num_tiles = tl.program_id(1), tl.num_programs(1), tl.cdiv(num_cols, J)
    if T > 0:
        tags_IT = _tags(row_tags, start, row_labelled, I, T)
        tags_I = tl.load(row_number + rows_I, mask=rows_I < row_labelled, other=0.0)
    for TAGGED in tl.static_range(1 if T > 0 else 0, -1, -1):
        stop = _tagged_tiles(start, row_labelled, col_labelled, J) if TAGGED else num_tiles
        for j in tl.range(t, stop, splits):
            near = _near(col_span, j, num_tiles, low, high)
            s_IJ = tl.dot(a_ID, tl.trans(_factor(col_factor, j * J, J, D)), input_precision=PRECISION)
            if TAGGED:
                tags_JT = _tags(col_tags, j * J, col_labelled, J, T)
                w_IJ = _tag_weight(tags_IT, tags_JT, tags_I, col_number, j, col_labelled, CRITERION, WEIGHING)
            if near:
                other_IJ = _others(rows_I, j, num_cols, J, MIRRORED)
                same_IJ = _same_clip(code_I, col_code, j, num_cols, J)
                if TAGGED:
                    w_IJ = tl.where(other_IJ, tl.where(same_IJ, 1.0, w_IJ), 0.0)
                else:
                    w_IJ = tl.where(other_IJ & same_IJ, 1.0, 0.0)
                    weight_I, score_I, number_I = _add(w_IJ, s_IJ, weight_I, score_I, number_I, WEIGHING)
            if TAGGED:
                weight_I, score_I, number_I = _add(w_IJ, s_IJ, weight_I, score_I, number_I, WEIGHING)
            if near:
                s_IJ = tl.where(_others(rows_I, j, num_cols, J, MIRRORED), s_IJ, float("-inf"))
            exp_I, peak_I = _add_exponentials(s_IJ, exp_I, peak_I, ONLINE)
        t += tl.cdiv(tl.maximum(stop - t, 0), splits) * splits
    lines: tl.constexpr = 5 if ONLINE else 4
    out_I = table + tl.program_id(1).to(tl.int64) * lines * num_rows + rows_I
    tl.store(out_I, exp_I, mask=stored_I)
    tl.store(out_I + num_rows, weight_I, mask=stored_I)
    tl.store(out_I + 2 * num_rows, score_I, mask=stored_I)
    tl.store(out_I + 3 * num_rows, number_I, mask=stored_I)
    if ONLINE:
        tl.store(out_I + 4 * num_rows, peak_I.to(tl.float64), mask=stored_I)


@triton.jit(do_not_specialize=COUNTS)
def gradient_kernel(
    table,  # (splits, num_rows, width) float32, to be added to
    row_factor,
    row_code,
    row_tags,
    row_number,
    row_scalars,  # (3, num_rows) float32: lse, pull, push
    col_factor,
    col_code,
    col_tags,
    col_number,
    col_scalars,
    col_span,
    num_rows,
    num_cols,
    row_labelled,
    col_labelled,
    width,
    I: tl.constexpr,
    J: tl.constexpr,
    D: tl.constexpr,
    T: tl.constexpr,
    CRITERION: tl.constexpr,
    WEIGHING: tl.constexpr,
    CAREFUL: tl.constexpr,
    MIRRORED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Σ_j H_ij·z_j of each row; the scores are computed again."""
    start = tl.program_id(0) * I
    rows_I = start + tl.arange(0, I)
    stored_I = rows_I < num_rows
    code_I = tl.load(row_code + rows_I, mask=stored_I, other=-1.0)
    low, high = _span(code_I, stored_I)
    lse_I = tl.load(row_scalars + rows_I, mask=stored_I, other=0.0)
    pull_I = tl.load(row_scalars + num_rows + rows_I, mask=stored_I, other=0.0)
    push_I = tl.load(row_scalars + 2 * num_rows + rows_I, mask=stored_I, other=0.0)
    a_ID = _factor(row_factor, start, I, D)
    sum_ID = tl.zeros((I, D), tl.float32)
    t, splits, num_tiles = tl.program_id(1), tl.num_programs(1), tl.cdiv(num_cols, J)
    if T > 0:
        tags_IT = _tags(row_tags, start, row_labelled, I, T)
        tags_I = tl.load(row_number + rows_I, mask=rows_I < row_labelled, other=0.0)
    for TAGGED in tl.static_range(1 if T > 0 else 0, -1, -1):
        stop = _tagged_tiles(start, row_labelled, col_labelled, J) if TAGGED else num_tiles
        for j in tl.range(t, stop, splits):
            near = _near(col_span, j, num_tiles, low, high)
            b_JD = _factor(col_factor, j * J, J, D)
            s_IJ = tl.dot(a_ID, tl.trans(b_JD), input_precision=PRECISION)
            h_IJ = _pulled(s_IJ, lse_I, pull_I, col_scalars, j, num_cols, J, CAREFUL)
            if TAGGED:
                tags_JT = _tags(col_tags, j * J, col_labelled, J, T)
                w_IJ = _tag_weight(tags_IT, tags_JT, tags_I, col_number, j, col_labelled, CRITERION, WEIGHING)
            if near:
                other_IJ = _others(rows_I, j, num_cols, J, MIRRORED)
                same_IJ = _same_clip(code_I, col_code, j, num_cols, J)
                if TAGGED:
                    w_IJ = tl.where(other_IJ, tl.where(same_IJ, 1.0, w_IJ), 0.0)
                else:
                    h_IJ -= tl.where(same_IJ, _pushed(push_I, col_scalars, j, num_cols, J), 0.0)
                h_IJ = tl.where(other_IJ, h_IJ, 0.0)
            if TAGGED:
                h_IJ -= w_IJ * _pushed(push_I, col_scalars, j, num_cols, J)
            sum_ID = tl.dot(h_IJ.to(b_JD.dtype), b_JD, sum_ID, input_precision=PRECISION)
        t += tl.cdiv(tl.maximum(stop - t, 0), splits) * splits
    columns_D = tl.arange(0, D)
    split = tl.program_id(1).to(tl.int64) * num_rows * width
    out_ID = table + split + rows_I.to(tl.int64)[:, None] * width + columns_D[None, :]
    mask_ID = stored_I[:, None] & (columns_D < width)[None, :]
    tl.store(out_ID, tl.load(out_ID, mask=mask_ID, other=0.0) + sum_ID, mask=mask_ID)


@triton.jit
def _factor(table, start, R: tl.constexpr, D: tl.constexpr):
    """Rows ``start`` … ``start`` + R; the table is padded behind its last row."""
    offset_RD = tl.arange(0, R)[:, None] * D + tl.arange(0, D)[None, :]
    return tl.load(table + tl.cast(start, tl.int64) * D + offset_RD)


@triton.jit
def _tags(table, start, labelled, R: tl.constexpr, T: tl.constexpr):
    offset_RT = tl.arange(0, R)[:, None] * T + tl.arange(0, T)[None, :]
    there_R1 = (tl.arange(0, R) < labelled - start)[:, None]
    return tl.load(table + tl.cast(start, tl.int64) * T + offset_RT, mask=there_R1, other=0)


@triton.jit
def _column(vector, j, num_cols, J: tl.constexpr):
    cols_J = j * J + tl.arange(0, J)
    return tl.load(vector + cols_J, mask=cols_J < num_cols, other=0.0)


@triton.jit
def _span(code_I, stored_I):
    """Smallest and largest code of a clip of this rank; an empty range without any."""
    known_I = stored_I & (code_I >= 0)
    low = tl.min(tl.where(known_I, code_I, float("inf")), 0)
    return low, tl.max(tl.where(known_I, code_I, float("-inf")), 0)


@triton.jit
def _near(span, j, num_tiles, low, high):
    """Whether column tile j may hold a clip of these rows, or is the last."""
    overlaps = (tl.load(span + j) <= high) & (tl.load(span + num_tiles + j) >= low)
    return overlaps | (j == num_tiles - 1)


@triton.jit
def _tagged_tiles(start, row_labelled, col_labelled, J: tl.constexpr):
    """Column tiles with labelled rows, if there is one among the rows from ``start`` on."""
    return tl.where(start < row_labelled, tl.cdiv(col_labelled, J), 0)


@triton.jit
def _others(rows_I, j, num_cols, J: tl.constexpr, MIRRORED: tl.constexpr):
    """Columns that are there, but for a row itself."""
    cols_1J, start = tl.arange(0, J)[None, :], j * J
    there_IJ = (cols_1J < num_cols - start) & (rows_I >= 0)[:, None]
    return there_IJ & (cols_1J != (rows_I - start)[:, None]) if MIRRORED else there_IJ


@triton.jit
def _same_clip(code_I, col_code, j, num_cols, J: tl.constexpr):
    """A row of a clip that this rank does not have has code −1 and equals none: one side is always its own."""
    return code_I[:, None] == _column(col_code, j, num_cols, J)[None, :]


@triton.jit
def _tag_weight(
    tags_IT,
    tags_JT,
    number_I,
    col_number,
    j,
    col_labelled,
    CRITERION: tl.constexpr,
    WEIGHING: tl.constexpr,
):
    """1 from C shared tags on, or 2·C_ij / (C_i + C_j); counted in whole numbers."""
    shared_IJ = tl.dot(tags_IT, tl.trans(tags_JT), out_dtype=tl.int32)
    if WEIGHING:
        number_J = _column(col_number, j, col_labelled, tags_JT.shape[0])
        total_IJ = tl.maximum(number_I[:, None] + number_J[None, :], 1.0)
        return 2.0 * shared_IJ.to(tl.float32) / total_IJ
    return tl.where(shared_IJ >= CRITERION, 1.0, 0.0)


@triton.jit
def _add(w_IJ, s_IJ, weight_I, score_I, number_I, WEIGHING: tl.constexpr):
    weight_I += tl.sum(w_IJ, 1).to(tl.float64)
    score_I += tl.sum(w_IJ * s_IJ, 1).to(tl.float64)
    if WEIGHING:
        number_I += tl.sum(tl.where(w_IJ > 0, 1.0, 0.0), 1).to(tl.float64)
    return weight_I, score_I, number_I


@triton.jit
def _add_exponentials(s_IJ, exp_I, peak_I, ONLINE: tl.constexpr):
    if ONLINE:
        larger_I = tl.maximum(peak_I, tl.max(s_IJ, 1))
        # A row whose every score is −∞ must not become NaN by −∞ − (−∞).
        anchor_I = tl.maximum(larger_I, LOWEST)
        kept_I = tl.exp2((peak_I - anchor_I) * LOG2_E).to(tl.float64)
        p_IJ = tl.exp2((s_IJ - anchor_I[:, None]) * LOG2_E)
        return exp_I * kept_I + tl.sum(p_IJ, 1).to(tl.float64), larger_I
    return exp_I + tl.sum(tl.exp2(s_IJ * LOG2_E), 1).to(tl.float64), peak_I


@triton.jit
def _pulled(s_IJ, lse_I, pull_I, col_scalars, j, num_cols, J: tl.constexpr, CAREFUL: tl.constexpr):
    """exp(s)·(a_i + a_j), or with each role's own normaliser inside the exponential."""
    pull_J = _column(col_scalars + num_cols, j, num_cols, J)
    if CAREFUL:
        lse_J = _column(col_scalars, j, num_cols, J)
        row_IJ = tl.exp2((s_IJ - lse_I[:, None]) * LOG2_E) * pull_I[:, None]
        return row_IJ + tl.exp2((s_IJ - lse_J[None, :]) * LOG2_E) * pull_J[None, :]
    return tl.exp2(s_IJ * LOG2_E) * (pull_I[:, None] + pull_J[None, :])


@triton.jit
def _pushed(push_I, col_scalars, j, num_cols, J: tl.constexpr):
    """b_i + b_j."""
    return push_I[:, None] + _column(col_scalars + 2 * num_cols, j, num_cols, J)[None, :]
