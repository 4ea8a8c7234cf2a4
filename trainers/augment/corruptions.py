"""Corruptions outside the training chain, for evaluating robustness (arXiv:2407.13840, §9.4).

Each takes a batch and parameters of shape (n,), on the wave's device. Definitions are those of pedalboard (JUCE)
and torch-audiomentations, whose settings the paper's released code names; `CORRUPTIONS` holds those settings.

Shape suffixes: n rows, T samples, K bins, J splices.
"""

from collections.abc import Callable
from math import pi

import numpy as np
import torch
from torch import Tensor

from trainers.augment.dsp.phase_vocoder import pitch_time
from trainers.augment.philox import uniforms

_FREEVERB_COMBS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)
_FREEVERB_ALLPASSES = (556, 441, 341, 225)
_FREEVERB_RATE = 44_100
_FREEVERB_DAMPING = 0.2
_ATTACK_MS, _RELEASE_MS = 1.0, 100.0


def distort(wave_nT: Tensor, drive_db_n: Tensor) -> Tensor:
    """Saturate: tanh of the amplified wave."""
    return torch.tanh(wave_nT * torch.pow(10.0, drive_db_n / 20)[:, None])


def crush_bits(wave_nT: Tensor, bit_depth_n: Tensor) -> Tensor:
    """The wave rounded to multiples of 2^-bits; its gradient is 0."""
    levels_n1 = torch.pow(2.0, bit_depth_n)[:, None]
    return torch.round(wave_nT * levels_n1) / levels_n1


def chorus(wave_nT: Tensor, rate_hz_n: Tensor, depth_n: Tensor, mix_n: Tensor, *, sample_rate: int) -> Tensor:
    """The wave through a delay of 7 ms that a sine sways by 10 ms · depth, never under 1 ms."""
    second_T = torch.arange(wave_nT.shape[1], device=wave_nT.device, dtype=torch.float64) / sample_rate
    sway_nT = -torch.sin(2 * pi * rate_hz_n.double()[:, None] * second_T)
    delay_nT = (7 + 10 * depth_n.double()[:, None] * sway_nT).clamp(min=1) * (sample_rate / 1000)
    place_nT = (torch.arange(wave_nT.shape[1], device=wave_nT.device) - delay_nT).clamp(min=-1)
    before_nT = place_nT.floor().long()
    padded_nT = torch.nn.functional.pad(wave_nT, (1, 1))
    fraction_nT = (place_nT - before_nT).to(wave_nT.dtype)
    wet_nT = torch.lerp(padded_nT.gather(1, before_nT + 1), padded_nT.gather(1, before_nT + 2), fraction_nT)
    return torch.lerp(wave_nT, wet_nT, mix_n.to(wave_nT.dtype)[:, None])


def splice_out(wave_nT: Tensor, start_nJ: Tensor, length_nJ: Tensor) -> Tensor:
    """One cut after the other: half of ``length`` samples from ``start`` on go in a crossfade, zeros follow the end.

    Args:
        wave_nT: shape (n, T).
        start_nJ: first sample of each splice in what the splices before it left, int64.
        length_nJ: samples that the crossfade spans, int64; odd ones count one more.
    """
    n, T = wave_nT.shape
    sample_T = torch.arange(T, device=wave_nT.device)
    left_n1 = torch.full((n, 1), T, device=wave_nT.device)
    for start_n, length_n in zip(start_nJ.T, length_nJ.T, strict=True):
        half_n1 = ((length_n + 1) // 2)[:, None]
        through_nT = ((sample_T - start_n[:, None]) / half_n1.clamp(min=1)).clamp(0, 1)
        share_nT = (0.5 - 0.5 * torch.cos(pi * through_nT)) * (half_n1 > 0)
        left_n1 = left_n1 - half_n1
        later_nT = wave_nT.gather(1, (sample_T + half_n1).clamp(max=T - 1))
        wave_nT = torch.lerp(wave_nT, later_nT, share_nT.to(wave_nT.dtype)) * (sample_T < left_n1)
    return wave_nT


def reverberate(wave_nT: Tensor, room_n: Tensor, wet_n: Tensor, dry_n: Tensor, *, sample_rate: int) -> Tensor:
    """Freeverb, mono, as JUCE sets it up: eight damped combs in parallel, then four all-passes."""
    from scipy.fft import next_fast_len  # .3 s that an encoder alone need not wait for

    T = wave_nT.shape[1]
    response_nT = freeverb_response(room_n, T, sample_rate).to(wave_nT.dtype)
    size = int(next_fast_len(2 * T, real=True))
    wet_nT: Tensor = torch.fft.irfft(torch.fft.rfft(wave_nT, size) * torch.fft.rfft(response_nT, size), size)
    # JUCE scales dry by 2 and wet by 3.
    return 2 * dry_n[:, None] * wave_nT + 3 * wet_n[:, None] * wet_nT[:, :T]


def freeverb_response(room_n: Tensor, num_samples: int, sample_rate: int) -> Tensor:
    """First samples of Freeverb's impulse response, float64 (n, T).

    The transfer function is sampled on a circle outside the unit circle: the response is then damped by the same power
    before it wraps, so the minutes of its tail alias at 1e-9.
    """
    size = 2 * num_samples
    log_radius = 9 * np.log(10) / size
    k = torch.arange(size // 2 + 1, device=room_n.device, dtype=torch.float64)
    log_z_K = torch.complex(torch.full_like(k, log_radius), 2 * pi * k / size)
    feedback_n1 = (0.7 + 0.28 * room_n.double())[:, None]

    def delayed(tuning: int) -> Tensor:
        return torch.exp(-log_z_K * (tuning * sample_rate // _FREEVERB_RATE))

    pole_K = _FREEVERB_DAMPING * torch.exp(-log_z_K)
    total_nK = torch.zeros(len(room_n), len(k), dtype=torch.complex128, device=room_n.device)
    for tuning in _FREEVERB_COMBS:
        through_K = delayed(tuning)
        back_nK = feedback_n1 * (1 - _FREEVERB_DAMPING) * through_K
        total_nK = total_nK + through_K * (1 - pole_K) / (1 - pole_K - back_nK)
    for tuning in _FREEVERB_ALLPASSES:
        through_K = delayed(tuning)
        total_nK = total_nK * (1.5 * through_K - 1) / (1 - 0.5 * through_K)
    damped: Tensor = torch.fft.irfft(0.015 * total_nK, size)[:, :num_samples]
    return damped * torch.exp(log_radius * torch.arange(num_samples, device=room_n.device))


def compress(wave_nT: Tensor, threshold_db_n: Tensor, ratio_n: Tensor, *, sample_rate: int) -> Tensor:
    """Hard-knee compressor over JUCE's peak follower: one loop over time for all rows; the gain has no gradient."""
    attack, release = (float(np.exp(-2000 * pi / (sample_rate * ms))) for ms in (_ATTACK_MS, _RELEASE_MS))
    level_Tn = np.ascontiguousarray(wave_nT.detach().abs().double().cpu().numpy().T)
    follower_n = np.zeros(level_Tn.shape[1])
    for level_n in level_Tn:
        follower_n = level_n + np.where(level_n > follower_n, attack, release) * (follower_n - level_n)
        level_n[:] = follower_n
    envelope_nT = torch.from_numpy(level_Tn.T).to(wave_nT.device)
    over_nT = (envelope_nT / torch.pow(10.0, threshold_db_n.double() / 20)[:, None]).clamp(min=1)
    return wave_nT * (over_nT ** (1 / ratio_n.double() - 1)[:, None]).to(wave_nT.dtype)


def corrupt(name: str, wave_nT: Tensor, slots: Tensor, *, sample_rate: int, seed: int) -> Tensor:
    """A corruption at its released setting.

    Args:
        name: a key of ``CORRUPTIONS``.
        wave_nT: shape (n, T).
        slots: what a row's draws are keyed by, int64 ≥ 0, shape (n,): a clip's number in its set.
        sample_rate: Hz.
        seed: of the evaluation.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name!r}; known are {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name](wave_nT, slots, sample_rate, seed)


def _draw(slots: Tensor, seed: int, count: int) -> Tensor:
    drawn = uniforms(slots.cpu().numpy().astype(np.int64), seed=seed, step=0, view=0, count=count, purpose="corruption")
    return torch.from_numpy(drawn)


def _all(wave_nT: Tensor, value: float) -> Tensor:
    return wave_nT.new_full((len(wave_nT),), value)


def _released_splices(wave_nT: Tensor, slots: Tensor, sample_rate: int, seed: int, *, splices: int = 8) -> Tensor:
    """Eight splices of up to 100 ms."""
    u_nJ, v_nJ = _draw(slots, seed, 2 * splices).chunk(2, dim=1)
    length_nJ = (u_nJ * int(sample_rate * 0.1)).long()
    even_nJ = length_nJ + length_nJ % 2
    left_nJ = wave_nT.shape[1] - (even_nJ // 2).cumsum(1) + even_nJ // 2
    start_nJ = (v_nJ * (left_nJ - even_nJ).clamp(min=1)).long()
    return splice_out(wave_nT, start_nJ.to(wave_nT.device), length_nJ.to(wave_nT.device))


def _released_stretch(wave_nT: Tensor, slots: Tensor, _: int, seed: int) -> Tensor:
    """Tempo times 0.7 to 1.3; faster ones end in silence."""
    tempo_n = 0.7 + 0.6 * _draw(slots, seed, 1)[:, 0]
    return pitch_time(wave_nT, torch.ones_like(tempo_n), tempo_n, n_fft=2048, hop=256)


Corruption = Callable[[Tensor, Tensor, int, int], Tensor]
CORRUPTIONS: dict[str, Corruption] = {
    "chorus": lambda w, _, rate, __: chorus(w, _all(w, 5), _all(w, 1), _all(w, 1), sample_rate=rate),
    "distortion": lambda w, *_: distort(w, _all(w, 9)),
    "splice_out": _released_splices,
    "reverb": lambda w, _, rate, __: reverberate(w, _all(w, 1), _all(w, 1), _all(w, 1), sample_rate=rate),
    "time_stretch": _released_stretch,
    "compression": lambda w, _, rate, __: compress(w, _all(w, -30), _all(w, 5), sample_rate=rate),
    "bitcrush": lambda w, *_: crush_bits(w, _all(w, 4)),
}
