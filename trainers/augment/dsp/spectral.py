"""Filter and coloured noise in one pass through the spectrum: y = irFFT(H · (rFFT(x) + σ·S·ξ)).

H = a0 + a1·LP(c1) + a2·LP(c2) covers low pass, high pass, band pass and band cut without a branch a row. LP is
the response of a Hann-windowed sinc of eight zero crossings, the filter of julius. ξ has unit modulus and one of
four phases a bin, drawn by hashing (row's seed, bin), so a row's noise is the same on every device, and its level
is exact over the transform's period.

Shape suffixes: n rows, T samples, K bins of the transform.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

KINDS = ("none", "low_pass", "high_pass", "band_pass", "band_cut")
MAX_HALF = 6487
"""Longest half of a filter, samples: 59,049 + 6,487 = 2^16. It binds below 14 Hz at 22,050 Hz."""
ZERO_CROSSINGS = 8
EDGE_SPAN = 32.0
"""The table of an edge covers offsets up to this many periods of its filter."""
_EDGE_POINTS = 8193
_PHASES_A_WORD = 16


def transform_length(num_samples: int) -> int:
    """N of the transform of a row: the same with and without a filter, so that the noise is the same too; and even, so
    that a real transform is a complex one of half the length.

    >>> transform_length(59_049), transform_length(77_788)
    (65536, 86400)
    """
    from scipy.fft import next_fast_len  # .3 s that an encoder alone need not wait for

    return 2 * int(next_fast_len(-(-(num_samples + MAX_HALF) // 2), real=True))


class Filters(NamedTuple):
    """A filter a row."""

    kind_n: Tensor
    """Index into ``KINDS``, int64."""
    low_hz_n: Tensor
    """The cutoff of a low or high pass, the lower edge of a band."""
    high_hz_n: Tensor
    """The upper edge of a band; not read for the other kinds."""


class Noise(NamedTuple):
    """A coloured noise a row."""

    snr_db_n: Tensor
    """Power of the row over power of its noise, dB."""
    slope_n: Tensor
    """Exponent e of the noise's amplitude (knee + f)^e."""
    seed_n: Tensor
    """int64 in [0, 2^63)."""
    knee_hz: float = 0.0
    """Below it the spectrum is flat."""


def shape_spectrum(
    wave_nT: Tensor, *, sample_rate: int, noise: Noise | None = None, filters: Filters | None = None
) -> Tensor:
    """Add each row's noise, then send the sum through each row's filter.

    Args:
        wave_nT: any level, shape (n, T); zeros are assumed before and after it, and silence gets no noise.
        sample_rate: Hz.
        noise: or None.
        filters: or None.

    Returns:
        Shape (n, T).
    """
    if noise is None and filters is None:
        return wave_nT
    T = wave_nT.shape[1]
    size = transform_length(T)
    if filters is None:
        assert noise is not None
        spectrum_nK = _noise_spectrum(wave_nT, noise, size, sample_rate)
        return wave_nT + _inverse(spectrum_nK, size, T)
    spectrum: Tensor = torch.fft.rfft(_at_least_two_rows(wave_nT), size)
    spectrum_nK = spectrum[: len(wave_nT)]
    if noise is not None:
        spectrum_nK = spectrum_nK + _noise_spectrum(wave_nT, noise, size, sample_rate)
    return _inverse(spectrum_nK * _response(filters, size, sample_rate), size, T)


def _inverse(spectrum_nK: Tensor, size: int, num_samples: int) -> Tensor:
    wave: Tensor = torch.fft.irfft(_at_least_two_rows(spectrum_nK), size)
    return wave[: len(spectrum_nK), :num_samples]


def _at_least_two_rows(rows: Tensor) -> Tensor:
    """A single row twice: MKL rounds a single transform differently, and a vocoder after it amplifies the last bit."""
    return rows.repeat(2, 1) if len(rows) == 1 else rows


def _noise_spectrum(wave_nT: Tensor, noise: Noise, size: int, sample_rate: int) -> Tensor:
    K = size // 2 + 1
    slope_n1 = noise.slope_n.to(wave_nT.dtype)[:, None]
    log_hz_K = log_frequencies(size, sample_rate, noise.knee_hz, device=wave_nT.device, dtype=wave_nT.dtype)
    amplitude_nK = torch.exp(slope_n1 * log_hz_K)
    amplitude_nK[:, 0] = 0
    amplitude_nK[:, -1] = 0  # a real signal keeps half of that bin: without it the level is exact
    rms_n1 = wave_nT.square().mean(1, keepdim=True).sqrt()
    sigma_n1 = rms_n1 * 10 ** (noise.snr_db_n.to(wave_nT.dtype)[:, None] / -20)
    unit_n1 = amplitude_nK.square().sum(1, keepdim=True).sqrt() * (2**0.5 / size)
    return random_phases(noise.seed_n, K).to(wave_nT.device) * (amplitude_nK * (sigma_n1 / unit_n1))


@lru_cache(maxsize=8)
def log_frequencies(
    size: int,
    sample_rate: int,
    knee_hz: float,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Logarithm of (knee + frequency) of each bin over that of the middle one, which only keeps exp in range."""
    frequency_K = torch.arange(size // 2 + 1, device=device, dtype=dtype) * (sample_rate / size)
    log_K = (frequency_K + knee_hz).clamp(min=sample_rate / size).log()
    return log_K - log_K[len(log_K) // 2]


def random_phases(seed_n: Tensor, count: int) -> Tensor:
    """Numbers (±1 ± i)/√2 that depend on (seed, position) alone, complex64 of shape (n, count)."""
    num_words = -(-count // _PHASES_A_WORD)
    word = torch.arange(num_words, device=seed_n.device) * 0x9E3779B9
    low_n1, high_n1 = (seed_n & 0xFFFFFFFF)[:, None], (seed_n >> 32)[:, None]
    hash_nW = _mix(_mix((word + low_n1) & 0xFFFFFFFF) ^ high_n1)
    byte_nWB = ((hash_nW[..., None] >> torch.arange(0, 32, 8, device=seed_n.device)) & 255).int()
    four_phases = _four_phases(seed_n.device).index_select(0, byte_nWB.flatten())
    return four_phases.view(len(seed_n), -1)[:, :count]


def _mix(word: Tensor) -> Tensor:
    """32-bit finaliser by Chris Wellons (lowbias32), on int64 so that the shift is a logical one."""
    word = ((word ^ (word >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    word = ((word ^ (word >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return word ^ (word >> 16)


@lru_cache(maxsize=8)
def _four_phases(device: torch.device) -> Tensor:
    """The four phases that the eight bits of a byte stand for, shape (256, 4)."""
    bit = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
    sign = (bit * 2 - 1).float() * 0.5**0.5
    return torch.complex(sign[:, 0::2].contiguous(), sign[:, 1::2].contiguous())


def _response(filters: Filters, size: int, sample_rate: int) -> Tensor:
    """H of shape (n, K), real: the filters are symmetric in time."""
    kind_n1 = filters.kind_n[:, None]
    band_n1 = kind_n1 >= 3
    low_n1, high_n1 = (hz[:, None].double() / sample_rate for hz in (filters.low_hz_n, filters.high_hz_n))
    half_n1 = (ZERO_CROSSINGS / 2 / low_n1.clamp(min=1e-9)).clamp(max=MAX_HALF).floor()
    low_nK, high_nK = _edge(low_n1, half_n1, size), _edge(high_n1, half_n1, size)
    # H = a0 + a1·LP(low) + a2·LP(high)
    passes_low_n1 = (kind_n1 == 1) | (kind_n1 == 4)
    a0_n1 = ((kind_n1 == 0) | (kind_n1 == 2) | (kind_n1 == 4)).float()
    a1_n1 = torch.where(passes_low_n1, 1.0, -1.0) * (kind_n1 > 0)
    a2_n1 = -a1_n1 * band_n1
    return low_nK.mul_(a1_n1).addcmul_(high_nK, a2_n1).add_(a0_n1)


def _edge(cutoff_n1: Tensor, half_n1: Tensor, size: int) -> Tensor:
    """Response of a low pass of 2 · ``half`` samples at each bin, float32 (n, K)."""
    table = edge_table(cutoff_n1.device)
    # Place in the table, a + b·k: float64 where it is one number a row, then single precision is enough.
    scale = (_EDGE_POINTS - 1) / (2 * EDGE_SPAN)
    a_n1 = ((2 * half_n1 * cutoff_n1 + EDGE_SPAN) * scale).float()
    b_n1 = (-2 * half_n1 * (scale / size)).float()
    bin_K = torch.arange(size // 2 + 1, device=cutoff_n1.device, dtype=torch.float32)
    place_nK = (bin_K * b_n1).add_(a_n1).clamp_(0, _EDGE_POINTS - 1.001)
    index = place_nK.int()
    here, next_ = (points.index_select(0, index.flatten()).view_as(index) for points in (table[:-1], table[1:]))
    return here.lerp_(next_, place_nK.frac_())


@lru_cache(maxsize=8)
def edge_table(device: torch.device) -> Tensor:
    """Integral of the Hann window's transform from −∞, by Simpson's rule."""
    fine = torch.linspace(-EDGE_SPAN, EDGE_SPAN, 2 * _EDGE_POINTS - 1, dtype=torch.float64)
    density = 0.5 * torch.sinc(fine) + 0.25 * torch.sinc(fine - 1) + 0.25 * torch.sinc(fine + 1)
    step = (fine[2] - fine[0]) / 6
    area = torch.cumsum(step * (density[:-2:2] + 4 * density[1::2] + density[2::2]), 0)
    table = torch.cat([torch.zeros(1, dtype=torch.float64), area])
    return (table + (1 - table[-1]) / 2).float().to(device)
