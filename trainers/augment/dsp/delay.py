"""Echoes: y = gain · (x + wet · Σ_k attenuation^k · x[n − (k − 1 + first_tap)·d]), k = 1 … reflections.

Shape suffixes: n rows, T samples.
"""

import torch
from torch import Tensor


def echo(
    wave_nT: Tensor,
    delay_n: Tensor,
    reflections_n: Tensor,
    attenuation_n: Tensor,
    wet_n: Tensor,
    *,
    first_tap: int = 1,
    output_gain: float = 1.0,
) -> Tensor:
    """Each row with its own echoes.

    Args:
        wave_nT: any level, shape (n, T).
        delay_n: samples between reflections, int64 ≥ 1, shape (n,), on the host.
        reflections_n: how many, int64 ≥ 0, shape (n,), on the host.
        attenuation_n: amplitude that a reflection keeps, shape (n,), on the host.
        wet_n: amplitude of the echoes over the dry signal, shape (n,), on the host.
        first_tap: delays of the first reflection, 0 or 1.
        output_gain: factor of the sum.

    Returns:
        Shape (n, T).
    """
    most = int(reflections_n.max()) if len(reflections_n) else 0
    gain_nR = wet_n[:, None] * attenuation_n[:, None] ** torch.arange(1, most + 1)
    gain_nR = torch.where(torch.arange(1, most + 1) <= reflections_n[:, None], gain_nR * output_gain, 0.0)
    offset_nR = delay_n[:, None] * torch.arange(first_tap, first_tap + most)
    add_taps = _add_by_slices if wave_nT.device.type == "cpu" else _add_by_gather
    return add_taps(wave_nT * output_gain, wave_nT, offset_nR, gain_nR.to(wave_nT.dtype))


def _add_by_slices(out_nT: Tensor, wave_nT: Tensor, offset_nR: Tensor, gain_nR: Tensor) -> Tensor:
    """A slice a tap, added to ``out`` in place: on the CPU cheaper than index tensors."""
    T = wave_nT.shape[1]
    for n, (offsets, gains) in enumerate(zip(offset_nR.tolist(), gain_nR.tolist(), strict=True)):
        for offset, gain in zip(offsets, gains, strict=True):
            if gain != 0 and offset < T:
                out_nT[n, offset:].add_(wave_nT[n, : T - offset], alpha=gain)
    return out_nT


def _add_by_gather(out_nT: Tensor, wave_nT: Tensor, offset_nR: Tensor, gain_nR: Tensor) -> Tensor:
    """All rows of a tap at once, without a value that the host must wait for."""
    offset_nR, gain_nR = (taps.to(wave_nT.device, non_blocking=True) for taps in (offset_nR, gain_nR))
    sample_T = torch.arange(wave_nT.shape[1], device=wave_nT.device)
    for offset_n, gain_n in zip(offset_nR.T, gain_nR.T, strict=True):
        source_nT = sample_T - offset_n[:, None]
        weight_nT = torch.where(source_nT >= 0, gain_n[:, None], 0.0)
        out_nT = out_nT + weight_nT * wave_nT.gather(1, source_nT.clamp(min=0))
    return out_nT
