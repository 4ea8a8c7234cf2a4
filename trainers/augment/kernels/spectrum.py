"""Noise and filters on a GPU: y = irFFT(H · (rFFT(x) + σ·S·ξ)) in one pass over the spectrum (see `spectral`).

A real transform of N samples is a complex one of N/2: sample pairs are its numbers, and this pass separates the two
interleaved spectra, shapes them and interleaves them again. It spares cuFFT's own pass to do so and the copy that
torch makes of every spectrum it inverts.

Shape suffixes: n rows, m rows that a kernel works on, T samples, M = N/2 complex numbers, K = M + 1 bins.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainers.augment.drawing import ViewParameters
from trainers.augment.dsp.spectral import EDGE_SPAN, MAX_HALF, ZERO_CROSSINGS
from trainers.augment.kernels.complex_words import pack, roots_of_unity, times, unpack, words

BLOCK = 512
ROW_BLOCK = 4096
PUT_BLOCK = 2048


@triton.jit(do_not_specialize=["length", "bins"], do_not_specialize_on_alignment=["row", "snr_db", "slope"])
def level_kernel(wave, out, row, snr_db, slope, log_hz, wave_stride, length, bins, unit_scale, BLOCK: tl.constexpr):
    at = tl.load(row + tl.program_id(0))
    t = tl.arange(0, BLOCK)
    power = tl.zeros([BLOCK], tl.float32)
    for first in range(0, length, BLOCK):
        value = tl.load(wave + at * wave_stride + first + t, mask=first + t < length, other=0.0)
        power += value * value
    e = tl.load(slope + at).to(tl.float32)
    drawn = tl.zeros([BLOCK], tl.float32)
    for first in range(0, bins, BLOCK):
        k = first + t
        inside = (k > 0) & (k < bins - 1)
        drawn += tl.where(inside, tl.exp(2 * e * tl.load(log_hz + k, mask=inside, other=0.0)), 0.0)
    rms = tl.sqrt(tl.sum(power, 0) / length)
    ratio = tl.exp(tl.load(snr_db + at).to(tl.float32) * -0.11512925464970229)  # 10^(-x/20)
    tl.store(out + at, rms * ratio / (tl.sqrt(tl.sum(drawn, 0)) * unit_scale))


def noise_level(
    wave_nT: Tensor, row_m: Tensor, snr_db_n: Tensor, slope_n: Tensor, log_hz_K: Tensor, out_n: Tensor
) -> None:
    """σ of the noise over the size of its shape, into the places of ``out``.

    Args:
        wave_nT: float32, its rows contiguous.
        row_m: which rows, int64.
        snr_db_n: float64.
        slope_n: float64.
        log_hz_K: logarithm of each bin's frequency over that of the middle one, float32.
        out_n: float32.
    """
    bins = len(log_hz_K)
    if len(row_m):
        level_kernel[(len(row_m),)](
            wave_nT, out_n, row_m, snr_db_n, slope_n, log_hz_K, wave_nT.stride(0), wave_nT.shape[1], bins,
            2**0.5 / (2 * bins - 2), BLOCK=ROW_BLOCK, num_warps=8,
        )  # fmt: skip


@triton.jit
def _mix(word):
    word = (word ^ (word >> 16)) * 0x7FEB352D
    word = (word ^ (word >> 15)) * 0x846CA68B
    return word ^ (word >> 16)


@triton.jit
def _noise(k, seed, slope, level, log_hz, last):
    """σ·S·ξ of bin k."""
    word = (k // 16).to(tl.uint32) * 0x9E3779B9 + (seed & 0xFFFFFFFF).to(tl.uint32)
    bits = _mix(_mix(word) ^ (seed >> 32).to(tl.uint32)) >> (2 * (k % 16)).to(tl.uint32)
    inside = (k > 0) & (k < last)
    amplitude = level * 0.7071067811865476 * tl.exp(slope * tl.load(log_hz + k, mask=inside, other=0.0))
    amplitude = tl.where(inside, amplitude, 0.0)
    return tl.where((bits & 1) != 0, amplitude, -amplitude), tl.where((bits & 2) != 0, amplitude, -amplitude)


@triton.jit
def _edge(k, cutoff, steepness, table, span: tl.constexpr, points: tl.constexpr):
    """Low pass at ``cutoff`` bins: whole bins and the rest apart, or float32 would lose the place in the table."""
    whole = tl.floor(cutoff)
    offset = steepness * ((whole.to(tl.int32) - k).to(tl.float32) + (cutoff - whole).to(tl.float32))
    place = (offset + span) * ((points - 1) / (2 * span))
    place = tl.minimum(tl.maximum(place, 0.0), points - 1.001)
    index = place.to(tl.int32)
    low, high = tl.load(table + index), tl.load(table + index + 1)
    return low + (place - index) * (high - low)


@triton.jit
def _response(k, kind, low, high, steepness, table, span: tl.constexpr, points: tl.constexpr):
    passed = _edge(k, low, steepness, table, span, points)
    if kind >= 3:
        passed -= _edge(k, high, steepness, table, span, points)
    if (kind == 2) | (kind == 3):
        passed = -passed
    if (kind == 2) | (kind == 4):
        passed += 1.0
    return tl.where(kind == 0, 1.0, passed)


@triton.jit(
    do_not_specialize=["half", "sample_rate"],
    do_not_specialize_on_alignment=["row", "level", "slope", "seed", "kind", "low_hz", "high_hz"],
)
def shape_kernel(
    spectrum, out, row, level, slope, seed, kind, low_hz, high_hz, log_hz, table, roots, half, sample_rate,
    zero_crossings, max_half,
    FILTERED: tl.constexpr, SPAN: tl.constexpr, POINTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(half // 2 + 1, BLOCK)
    i = (tl.program_id(0) // blocks).to(tl.int64)
    at = tl.load(row + i)
    k = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = k <= half // 2
    j = half - k  # the other bin of the pair; for k = 0 it is Nyquist's
    e, sigma, number = tl.load(slope + at).to(tl.float32), tl.load(level + at), tl.load(seed + at)
    a_re, a_im = _noise(k, number, e, sigma, log_hz, half)
    b_re, b_im = _noise(j, number, e, sigma, log_hz, half)
    root_re, root_im = unpack(tl.load(roots + k, mask=inside, other=0))
    if FILTERED:
        here_re, here_im = unpack(tl.load(spectrum + i * half + k, mask=inside, other=0))
        there_re, there_im = unpack(tl.load(spectrum + i * half + tl.where(k == 0, 0, j), mask=inside, other=0))
        even_re, even_im = 0.5 * (here_re + there_re), 0.5 * (here_im - there_im)
        odd_re, odd_im = times(0.5 * (here_im + there_im), 0.5 * (there_re - here_re), root_re, -root_im)
        a_re, a_im = a_re + even_re + odd_re, a_im + even_im + odd_im
        b_re, b_im = b_re + even_re - odd_re, b_im - even_im + odd_im
        which = tl.load(kind + at).to(tl.int32)
        low = tl.load(low_hz + at) / sample_rate
        taps = tl.floor(tl.minimum(0.5 * zero_crossings / tl.maximum(low, 1e-9), max_half))
        steepness = (taps / half).to(tl.float32)
        low, high = low * (2 * half), tl.load(high_hz + at) / sample_rate * (2 * half)
        factor = _response(k, which, low, high, steepness, table, SPAN, POINTS)
        a_re, a_im = a_re * factor, a_im * factor
        factor = _response(j, which, low, high, steepness, table, SPAN, POINTS)
        b_re, b_im = b_re * factor, b_im * factor
    even_re, even_im = a_re + b_re, a_im - b_im
    odd_re, odd_im = times(a_re - b_re, a_im + b_im, root_re, root_im)
    scale = 0.5 / half
    tl.store(out + i * half + k, pack(scale * (even_re - odd_im), scale * (even_im + odd_re)), mask=inside)
    paired = inside & (k > 0) & (j > k)
    tl.store(out + i * half + j, pack(scale * (even_re + odd_im), scale * (odd_re - even_im)), mask=paired)


class Shape(NamedTuple):
    """What all rows of a spectrum share."""

    log_hz_K: Tensor
    """Logarithm of each bin's frequency over that of the middle one, float32."""
    edge_table: Tensor
    """Response of a filter's edge, see `spectral`."""
    sample_rate: int
    """Hz."""


def shape_pairs(
    spectrum_mM: Tensor | None, row_m: Tensor, drawn: ViewParameters, level_n: Tensor, shape: Shape, *, rows: int
) -> Tensor:
    """The transform of sample pairs with noise added and filtered, ready for an inverse without a factor.

    Args:
        spectrum_mM: complex64 transform of pairs, its row i that of row ``row_m[i]``; None for the noise alone.
        row_m: int64, into the parameters.
        drawn: on the device, float64 and int64.
        level_n: float32, of `noise_level`; 0 for a row without noise.
        shape: of all rows.
        rows: of the result; more than m leaves the rest unwritten.

    Returns:
        complex64 (rows, M).
    """
    half, m = len(shape.log_hz_K) - 1, len(row_m)
    out = torch.empty(rows, half, dtype=torch.complex64, device=row_m.device)
    roots = words(roots_of_unity(half // 2 + 1, 2 * half, row_m.device))
    source = out if spectrum_mM is None else spectrum_mM
    if m:
        shape_kernel[(m * triton.cdiv(half // 2 + 1, BLOCK),)](
            words(source), words(out), row_m, level_n, drawn.noise_slope, drawn.noise_seed, drawn.filter_kind,
            drawn.low_hz, drawn.high_hz, shape.log_hz_K, shape.edge_table, roots, half, shape.sample_rate,
            float(ZERO_CROSSINGS), float(MAX_HALF),
            FILTERED=spectrum_mM is not None, SPAN=EDGE_SPAN, POINTS=len(shape.edge_table), BLOCK=BLOCK,
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["length"], do_not_specialize_on_alignment=["row"])
def put_kernel(part, wave, row, part_stride, wave_stride, length, ADD: tl.constexpr, BLOCK: tl.constexpr):
    blocks = tl.cdiv(length, BLOCK)
    i = (tl.program_id(0) // blocks).to(tl.int64)
    t = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(part + i * part_stride + t, mask=t < length, other=0.0)
    to = wave + tl.load(row + i) * wave_stride + t
    if ADD:
        value += tl.load(to, mask=t < length, other=0.0)
    tl.store(to, value, mask=t < length)


def put_rows(part: Tensor, wave_nT: Tensor, row_m: Tensor, *, add: bool) -> None:
    """The first T samples of ``part``'s rows into rows of ``wave``, or onto them."""
    T = wave_nT.shape[1]
    if len(row_m):
        put_kernel[(len(row_m) * triton.cdiv(T, PUT_BLOCK),)](
            part, wave_nT, row_m, part.stride(0), wave_nT.stride(0), T, ADD=add, BLOCK=PUT_BLOCK
        )
