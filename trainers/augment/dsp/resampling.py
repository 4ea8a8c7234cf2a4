"""Reading a wave at positions n·stride, each row with its own stride, by a B-spline.

A B-spline of degree d falls like sinc^(d+1): its images lie far below those of a polynomial through the
neighbours or of a windowed sinc with as many taps, if whoever makes the wave divides its spectrum by sinc^(d+1)
first. The phase vocoder can, at no cost.

Shape suffixes: n rows, L samples to read from, T samples read.
"""

import torch
from torch import Tensor

SPLINE_REACH = 2
"""Samples that the wave must hold before position 0; after the last position it needs three."""

_SIXTHS = ((1, 4, 1, 0), (-3, 0, 3, 0), (3, -6, 3, 0), (-1, 3, -3, 1))
_HUNDRED_TWENTIETHS = (
    *((1, 26, 66, 26, 1, 0), (-5, -50, 0, 50, 5, 0), (10, 20, -60, 20, 10, 0)),
    *((-10, 20, 0, -20, 10, 0), (5, -20, 30, -20, 5, 0), (-1, 5, -10, 10, -5, 1)),
)
_PIECES = {
    3: [[tap / 6 for tap in taps] for taps in _SIXTHS],
    5: [[tap / 120 for tap in taps] for taps in _HUNDRED_TWENTIETHS],
}
"""By degree: between two samples a spline is a polynomial; what its coefficients, lowest first, take of the samples."""

FINE_FRAME = 2048
"""From this frame length on phases are settled and the reading kernel has six taps instead of four."""


def spline_degree(n_fft: int) -> int:
    """Degree of the spline that reads what frames of this length give: from 2,048 samples on six taps, not four."""
    return 5 if n_fft >= FINE_FRAME else 3


def read_spline(wave_nL: Tensor, stride_n: Tensor, num_samples: int, *, degree: int) -> Tensor:
    """``out[b, t] = Σ_k wave[b, SPLINE_REACH + k] · β(t · stride_b − k)`` with the B-spline β of a degree.

    Args:
        wave_nL: shape (n, L); position 0 is its sample ``SPLINE_REACH``.
        stride_n: > 0, float64 (a float32 position past 2^16 is off by 2^-7 samples), shape (n,).
        num_samples: T.
        degree: 3 or 5.

    Returns:
        Shape (n, T).
    """
    place_nT = torch.arange(num_samples, device=stride_n.device, dtype=torch.float64) * stride_n[:, None]
    start_nT = place_nT.long()
    after_nT = place_nT.frac_().to(wave_nL.dtype)
    around_nL = wave_nL[:, SPLINE_REACH + 1 - (degree + 1) // 2 :]
    # Horner: filters at every sample are cheaper than weights at every place.
    lower_dk, highest_k = _PIECES[degree][:-1], _PIECES[degree][-1]
    out_nT = _filtered(around_nL, highest_k).gather(1, start_nT)
    for taps_k in reversed(lower_dk):
        out_nT = out_nT.mul_(after_nT).add_(_filtered(around_nL, taps_k).gather(1, start_nT))
    return out_nT


def _filtered(wave_nL: Tensor, taps_k: list[float]) -> Tensor:
    """``out[:, i] = Σ_k taps[k] · wave[:, i + k]``."""
    count = wave_nL.shape[1] - len(taps_k) + 1
    (first, tap), *rest = [(wave_nL[:, k : k + count], tap) for k, tap in enumerate(taps_k) if tap]
    out_nL = first * tap
    for part_nL, tap in rest:
        out_nL.add_(part_nL, alpha=tap)
    return out_nL
