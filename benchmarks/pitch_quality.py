"""How well pitch and tempo are moved: struck harmonic notes, moved, against the same notes synthesised where they should be.

    python -m benchmarks.pitch_quality

Log-mel L1 in dB (mean over bands and frames, 80 dB below the loudest is the floor), error of a moved sine in cents, and the sine's
signal over everything that is not it. Peers are the optional extra ``bench``.
"""

import math
from collections.abc import Callable


import numpy as np
import torch
from torch import Tensor

from trainers.augment.phase_vocoder import pitch_time

RATE = 22_050
SAMPLES = 59_049
FLOOR_DB = 80.0
SEMITONES = (-4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0)
RATES = (0.8, 0.9, 1.1, 1.25)
Mover = Callable[[Tensor, float, float], Tensor]


def struck_notes(ratio: float, tempo: float, *, num_clips: int = 8, seed: int = 0, samples: int = SAMPLES) -> Tensor:
    """Chords of three plucked notes with up to twelve partials, struck again and again: their pitch times ``ratio``, at ``tempo``.

    The phases of a strike are those of its beginning, so nothing but pitch and tempo differs between two calls.
    """
    generator = torch.Generator().manual_seed(seed)
    second_T = torch.arange(samples, dtype=torch.float64) / RATE
    clips = []
    for _ in range(num_clips):
        wave_T = torch.zeros(samples, dtype=torch.float64)
        for _ in range(3):
            draw = torch.rand(3, generator=generator, dtype=torch.float64)
            f0_hz = 110 * 2 ** (math.floor(float(draw[0]) * 36) / 12) * ratio
            period_s = 0.4 + 0.4 * float(draw[2])
            since_T = torch.remainder(second_T * tempo + 0.5 * float(draw[1]), period_s)
            attack_T = (since_T / 0.003).clamp(max=1)
            phase = torch.rand(12, generator=generator, dtype=torch.float64) * 2 * math.pi
            for h in range(1, 13):
                if f0_hz * h / ratio < 0.4 * RATE:
                    angle_T = 2 * math.pi * f0_hz * h * since_T / tempo + phase[h - 1]
                    wave_T += attack_T * torch.exp(-4 * since_T) * torch.sin(angle_T) / h**1.2
        clips.append(0.5 * wave_T / wave_T.abs().max())
    return torch.stack(clips).float()


def log_mel_distance(wave_NT: Tensor, target_NT: Tensor) -> float:
    """Mean absolute difference of log-mel spectrograms (96 bands), dB."""
    from trainers.frontend import FrontendConfig, mel_filters

    filters = mel_filters(FrontendConfig(n_fft=2048, num_mels=96), RATE, RATE / 2)

    def mel_db(wave: Tensor) -> Tensor:
        spectrum = torch.stft(wave, 2048, 512, window=torch.hann_window(2048), return_complex=True, pad_mode="constant")
        return 10 * torch.log10((filters @ spectrum.abs().square()).clamp(min=1e-12))

    ours, theirs = mel_db(wave_NT), mel_db(target_NT)
    floor = theirs.amax((1, 2), keepdim=True) - FLOOR_DB
    return float((torch.maximum(ours, floor) - torch.maximum(theirs, floor)).abs().mean())


def sine_error(mover: Mover, semitones: float) -> tuple[float, float]:
    """Cents between a moved sine and its target, and dB of the sine over the rest; the outer quarter of a second is left out."""
    f0_hz, ratio = 440.0, 2 ** (semitones / 12)
    second_T = torch.arange(SAMPLES, dtype=torch.float64) / RATE
    moved_T = mover(torch.sin(2 * math.pi * f0_hz * second_T).float()[None], ratio, 1.0)[0].double()
    inner = slice(RATE // 4, min(len(moved_T), SAMPLES) - RATE // 4)
    wave_T, second_T = moved_T[inner], second_T[inner]
    hz = _frequency(wave_T, f0_hz * ratio)
    basis = torch.stack([torch.sin(2 * math.pi * hz * second_T), torch.cos(2 * math.pi * hz * second_T)], dim=1)
    weight = torch.linalg.lstsq(basis, wave_T[:, None]).solution
    rest = wave_T - (basis @ weight)[:, 0]
    snr_db = 10 * math.log10(float(wave_T.square().sum() / rest.square().sum().clamp(min=1e-30)))
    return 1200 * math.log2(hz / (f0_hz * ratio)), snr_db


def _frequency(wave_T: Tensor, near_hz: float) -> float:
    """Frequency of the sine, by the phase that its two halves differ by against ``near_hz``."""
    half = len(wave_T) // 2
    second = torch.arange(2 * half, dtype=torch.float64) / RATE
    turned = wave_T[: 2 * half] * torch.exp(-2j * math.pi * near_hz * second)
    window = torch.hann_window(half, dtype=torch.float64)
    first, last = (turned[:half] * window).sum(), (turned[half:] * window).sum()
    return near_hz + float(torch.angle(last * first.conj())) / (2 * math.pi * half / RATE)
