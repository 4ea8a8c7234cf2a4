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
    weights = _cubic(after_nT) if degree == 3 else _quintic(after_nT)
    first = SPLINE_REACH + 1 - len(weights) // 2
    out_nT = weights[0] * wave_nL[:, first:].gather(1, start_nT)
    for k, weight_nT in enumerate(weights[1:], first + 1):
        out_nT = out_nT.addcmul(weight_nT, wave_nL[:, k:].gather(1, start_nT))
    return out_nT


def _cubic(t: Tensor) -> list[Tensor]:
    """β³ at t + 1, t, t − 1, t − 2 for t in [0, 1)."""
    u = 1 - t
    t_square, u_square = t * t, u * u
    first, last = (u_square * u).div_(6), (t_square * t).div_(6)
    return [first, (2 / 3 - t_square).add_(last, alpha=3), (2 / 3 - u_square).add_(first, alpha=3), last]


def _quintic(t: Tensor) -> list[Tensor]:
    """β⁵ at t + 2, …, t − 3 for t in [0, 1)."""
    u = 1 - t
    return [u**5 / 120, _outer_quintic(t + 1), _inner_quintic(t), _inner_quintic(u), _outer_quintic(u + 1), t**5 / 120]


def _inner_quintic(t: Tensor) -> Tensor:
    square = t * t
    return 0.55 + square * (-0.5 + square * (0.25 - t / 12))


def _outer_quintic(t: Tensor) -> Tensor:
    return 0.425 + t * (0.625 + t * (-1.75 + t * (1.25 + t * (-0.375 + t / 24))))
