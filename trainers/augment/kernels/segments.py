"""The ends of the fused chain: int16 or float segments in, with their gain; echoes out.

Shape suffixes: B clips, W samples of a window, n rows, T samples.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048


@triton.jit(do_not_specialize=["length", "columns"], do_not_specialize_on_alignment=["row", "start", "frames", "gain"])
def segments_kernel(
    wave, out, row, start, frames, gain, wave_stride, out_stride, length, columns, scale, BLOCK: tl.constexpr
):
    blocks = tl.cdiv(columns, BLOCK)
    i = (tl.program_id(0) // blocks).to(tl.int64)
    t = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(start + i) + t % tl.load(frames + i).to(tl.int32)
    value = tl.load(wave + tl.load(row + i) * wave_stride + place, mask=t < length, other=0).to(tl.float32)
    factor = (tl.load(gain + i) * scale).to(tl.float32)
    tl.store(out + i * out_stride + t, value * factor, mask=t < columns)


def read_segments(
    wave_BW: Tensor,
    row_n: Tensor,
    start_n: Tensor,
    frames_n: Tensor,
    gain_n: Tensor,
    *,
    length: int,
    columns: int,
    rows: int | None = None,
    scale: float = 1.0,
) -> Tensor:
    """``out[i, t] = scale · gain[i] · wave[row[i], start[i] + t mod frames[i]]``, zeros from ``length`` on.

    Args:
        wave_BW: int16 or float32, its rows contiguous.
        row_n: int64.
        start_n: int64.
        frames_n: samples after which a row repeats, int64 ≥ 1.
        gain_n: float64.
        length: samples read.
        columns: samples written.
        rows: of the result, more than n leaves the rest unwritten.
        scale: a power of two, so that int16 times it times a gain is rounded once, as in eager mode.

    Returns:
        float32 (rows, columns), each row's first sample aligned to 128 bytes.
    """
    n = len(row_n)
    out = wave_BW.new_empty(n if rows is None else rows, -(-columns // 32) * 32, dtype=torch.float32)
    if n:
        segments_kernel[(n * triton.cdiv(columns, BLOCK),)](
            wave_BW, out, row_n, start_n, frames_n, gain_n, wave_BW.stride(0), out.stride(0), length, columns, scale,
            BLOCK=BLOCK,
        )  # fmt: skip
    return out[:, :columns]


@triton.jit(
    do_not_specialize=["columns", "first_tap"],
    do_not_specialize_on_alignment=["to_row", "delay", "reflections", "attenuation", "wet"],
)
def echo_kernel(
    wave, out, to_row, delay, reflections, attenuation, wet, wave_stride, out_stride, columns, first_tap, output_gain,
    BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(columns, BLOCK)
    i = (tl.program_id(0) // blocks).to(tl.int64)
    t = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    many = tl.load(reflections + i).to(tl.int32)
    kept = tl.load(attenuation + i).to(tl.float32)
    by = tl.load(delay + i).to(tl.int32)
    gain = tl.load(wet + i).to(tl.float32)
    value = tl.load(wave + i * wave_stride + t, mask=t < columns, other=0.0)
    source = t - first_tap * by
    for _ in range(many):
        gain = gain * kept
        value += gain * tl.load(wave + i * wave_stride + source, mask=(source >= 0) & (t < columns), other=0.0)
        source -= by
    value = tl.where(many > 0, value * output_gain, value)
    tl.store(out + tl.load(to_row + i) * out_stride + t, value, mask=t < columns)


def write_with_echoes(
    wave_nT: Tensor,
    out: Tensor,
    to_row_n: Tensor,
    delay_n: Tensor,
    reflections_n: Tensor,
    attenuation_n: Tensor,
    wet_n: Tensor,
    *,
    first_tap: int = 1,
    output_gain: float = 1.0,
) -> None:
    """Each row with its echoes (see `delay.echo`) into its row of ``out``; one without reflections as it is.

    Args:
        wave_nT: float32, its rows contiguous.
        out: float32 (≥ n, T), another tensor.
        to_row_n: row of ``out``, int64.
        delay_n: int64.
        reflections_n: int64.
        attenuation_n: float64.
        wet_n: float64.
        first_tap: delays of the first reflection.
        output_gain: of rows with reflections.
    """
    n, T = wave_nT.shape
    if n:
        echo_kernel[(n * triton.cdiv(T, BLOCK),)](
            wave_nT, out, to_row_n, delay_n, reflections_n, attenuation_n, wet_n, wave_nT.stride(0), out.stride(0), T,
            first_tap, output_gain, BLOCK=BLOCK,
        )  # fmt: skip
