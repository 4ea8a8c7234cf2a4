"""The phase vocoder on a GPU, around its two transforms: frames before them, the reading of what they give after them.

Shape suffixes: n rows, m rows that a kernel works on, T samples, F analysis frames, J synthesis frames.
"""

import triton
import triton.language as tl
from torch import Tensor

from trainers.augment.dsp.resampling import SPLINE_REACH

BLOCK = 1024
FRAMES_STEP = 4096
"""Frames of a transform come in multiples of this: cuFFT plans anew for every count that it has not met."""


def padded(frames: int) -> int:
    """``frames`` up to a multiple of `FRAMES_STEP`, of a sixteenth of it where there are few."""
    step = FRAMES_STEP if frames > 4 * FRAMES_STEP else FRAMES_STEP // 16
    return -(-frames // step) * step


@triton.jit(do_not_specialize=["length", "frames"], do_not_specialize_on_alignment=["row"])
def frame_kernel(wave, out, row, window, wave_stride, length, frames, N_FFT: tl.constexpr, HOP: tl.constexpr):
    i, f = tl.program_id(0) // frames, tl.program_id(0) % frames
    s = tl.arange(0, N_FFT)
    t = f * HOP - N_FFT // 2 + s
    value = tl.load(wave + tl.load(row + i) * wave_stride + t, mask=(t >= 0) & (t < length), other=0.0)
    tl.store(out + tl.program_id(0).to(tl.int64) * N_FFT + s, value * tl.load(window + s))


def windowed_frames(wave_nT: Tensor, row_m: Tensor, window: Tensor, *, hop: int) -> Tensor:
    """Windowed frames of some rows, one row's after the other's; two whole frames of silence behind each.

    Args:
        wave_nT: float32, its rows contiguous.
        row_m: int64.
        window: float32 (n_fft,).
        hop: samples.

    Returns:
        float32 (≥ m·F, n_fft) with F = `num_frames`; unwritten from m·F on.
    """
    n_fft, T = len(window), wave_nT.shape[1]
    F = analysis_frames(T, n_fft, hop)
    out = wave_nT.new_empty(padded(len(row_m) * F), n_fft)
    if len(row_m):
        frame_kernel[(len(row_m) * F,)](
            wave_nT, out, row_m, window, wave_nT.stride(0), T, F, N_FFT=n_fft, HOP=hop, num_warps=n_fft // 256
        )
    return out


def analysis_frames(num_samples: int, n_fft: int, hop: int) -> int:
    """F: frames centred on multiples of the hop, up to two frames of silence behind the end."""
    return (num_samples + n_fft // 2 + 2 * n_fft - n_fft) // hop + 1


@triton.jit
def _inner_cubic(t):
    return (t / 2 - 1) * t * t + 2.0 / 3


@triton.jit
def _inner_quintic(t):
    square = t * t
    return 0.55 + square * (-0.5 + square * (0.25 - t / 12))


@triton.jit
def _outer_quintic(t):
    return 0.425 + t * (0.625 + t * (-1.75 + t * (1.25 + t * (-0.375 + t / 24))))


@triton.jit
def _spline(t, tap: tl.constexpr, degree: tl.constexpr):
    """The B-spline's weight of a tap, see `resampling`."""
    u = 1 - t
    if degree == 3:
        if tap == 0:
            return u * u * u / 6
        elif tap == 3:
            return t * t * t / 6
        else:
            return _inner_cubic(t if tap == 1 else u)
    else:
        if tap == 0:
            return u * u * u * u * u / 120
        elif tap == 5:
            return t * t * t * t * t / 120
        elif (tap == 1) | (tap == 4):
            return _outer_quintic((t if tap == 1 else u) + 1)
        else:
            return _inner_quintic(t if tap == 2 else u)


@triton.jit(do_not_specialize=["frames", "columns"])
def overlap_kernel(
    spoken, out, window, frames, columns, first, out_stride, N_FFT: tl.constexpr, HOP: tl.constexpr, BLOCK: tl.constexpr
):
    blocks = tl.cdiv(columns, BLOCK)
    i = (tl.program_id(0) // blocks).to(tl.int64)
    t = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    frame, inner = (t + first) // HOP, (t + first) % HOP
    base = spoken + i * frames * N_FFT
    total = tl.zeros([BLOCK], tl.float32)
    weight = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(N_FFT // HOP):
        j, s = frame - part, inner + part * HOP
        valid = (j >= 0) & (j < frames) & (t < columns)
        factor = tl.load(window + s, mask=valid, other=0.0)
        total += factor * tl.load(base + j * N_FFT + s, mask=valid, other=0.0)
        weight += factor * factor
    tl.store(out + i * out_stride + t, total / tl.maximum(weight, 1e-3), mask=t < columns)


def overlap_add(spoken: Tensor, rows: int, window: Tensor, *, frames: int, hop: int) -> Tensor:
    """Windowed frames over the sum of squared windows, from `SPLINE_REACH` samples before the first centre.

    Args:
        spoken: float32 (≥ m·J, n_fft): synthesis frames, not yet windowed.
        rows: m.
        window: float32 (n_fft,).
        frames: J.
        hop: samples.

    Returns:
        float32 (m, L), what `read_rows` reads.
    """
    n_fft = len(window)
    first = n_fft // 2 - SPLINE_REACH
    columns = (frames - 1) * hop + n_fft - first
    out = spoken.new_empty(rows, -(-columns // 32) * 32)
    overlap_kernel[(rows * triton.cdiv(columns, BLOCK),)](
        spoken, out, window, frames, columns, first, out.stride(0), N_FFT=n_fft, HOP=hop, BLOCK=BLOCK
    )
    return out[:, :columns]


@triton.jit(do_not_specialize=["columns"], do_not_specialize_on_alignment=["row", "ratio"])
def spline_kernel(
    stretched, wave, row, ratio, stretched_stride, wave_stride, columns,
    DEGREE: tl.constexpr, REACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(columns, BLOCK)
    i = (tl.program_id(0) // blocks).to(tl.int64)
    t = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = tl.load(row + i)
    place = t.to(tl.float64) * tl.load(ratio + at)
    start = place.to(tl.int32)
    after = (place - start).to(tl.float32)
    source = stretched + i * stretched_stride + start + (REACH + 1 - (DEGREE + 1) // 2)
    value = tl.zeros([BLOCK], tl.float32)
    for tap in tl.static_range(DEGREE + 1):
        value += _spline(after, tap, DEGREE) * tl.load(source + tap, mask=t < columns, other=0.0)
    tl.store(wave + at * wave_stride + t, value, mask=t < columns)


def read_rows(stretched_mL: Tensor, wave: Tensor, row_m: Tensor, ratio_n: Tensor, *, columns: int, degree: int) -> None:
    """Each stretched row read with its stride (see `resampling.read_spline`) into its row of ``wave``.

    Args:
        stretched_mL: float32.
        wave: float32, its rows contiguous.
        row_m: int64, into ``wave`` and ``ratio_n``.
        ratio_n: stride, float64.
        columns: samples a row.
        degree: of the spline, 3 or 5.
    """
    spline_kernel[(len(row_m) * triton.cdiv(columns, BLOCK),)](
        stretched_mL, wave, row_m, ratio_n, stretched_mL.stride(0), wave.stride(0), columns,
        DEGREE=degree, REACH=SPLINE_REACH, BLOCK=BLOCK,
    )  # fmt: skip
