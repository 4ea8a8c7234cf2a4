"""Front-ends: from a waveform to the waveform itself or to a log-mel spectrogram.

Shape suffixes: N rows, T samples, F bands, S frames, K bins of the transform.
"""

from collections.abc import Callable
from dataclasses import replace
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from trainers.frontends.config import MULE, MULE_RATE, FrontendConfig, MelScale
from trainers.frontends.own import build_own

CACHED_ROWS = 2
"""Waves of 2.7 s whose spectra the second-level cache of a core holds."""
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_HZ_A_MEL = 200 / 3
_SLANEY_LOG_STEP = log(6.4) / 27


def build_frontend(config: FrontendConfig, rate: int) -> nn.Module:
    """The transform of views before the encoder: from waves (N, T) at ``rate`` Hz to (N, T) or (N, F, S).

    The identity where the front-end is ``trainable``: it is then part of the encoder.
    """
    return nn.Identity() if config.trainable else build_transform(config, rate)


def build_transform(config: FrontendConfig, rate: int) -> nn.Module:
    """The configured transform itself, from waves (N, T) at ``rate`` Hz to (N, T) or (N, F, S)."""
    return build_own(config, rate) if config.is_own else FRONTENDS[config.kind](config, rate)


class LogMel(nn.Module):
    """log(1 + C · mel power), frames centred on multiples of the hop, zeros around the wave.
    Raises ValueError if ``max_hz`` lies above half the rate.
    """

    def __init__(self, config: FrontendConfig, rate: int) -> None:
        super().__init__()
        self.config = config
        top_hz = rate / 2 if config.max_hz is None else config.max_hz
        if top_hz > rate / 2:
            raise ValueError(f"max_hz must be <= {rate / 2:g}, half the rate, got {top_hz:g}")
        self.window: Tensor
        self.filters_FK: Tensor
        # Both follow from the configuration: a snapshot need not hold them.
        self.register_buffer("window", torch.hann_window(config.window or config.n_fft), persistent=False)
        self.num_bins = int(top_hz * config.n_fft / rate) + 1  # bins up to the last band's upper edge
        filters_FK = mel_filters(config, rate, top_hz)[:, : self.num_bins].contiguous()
        self.register_buffer("filters_FK", filters_FK, persistent=False)

    def forward(self, wave_NT: Tensor) -> Tensor:
        """Log-mel spectrogram (N, F, S), S = 1 + T // hop."""
        if wave_NT.device.type != "cpu" or torch.compiler.is_compiling():
            return self._log_mel(wave_NT)
        # The same bits, row by row, from a cache that holds the spectra of a few.
        parts = [self._log_mel(part_nT) for part_nT in torch.split(wave_NT, CACHED_ROWS * torch.get_num_threads())]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _log_mel(self, wave_NT: Tensor) -> Tensor:
        return torch.log1p(self.config.compression * (self.filters_FK @ self.power(wave_NT)))

    def power(self, wave_NT: Tensor) -> Tensor:
        """Power of the bins that the bands read, (N, K, S)."""
        config = self.config
        spectrum_NKS = torch.stft(
            wave_NT,
            config.n_fft,
            config.hop,
            win_length=len(self.window),
            window=self.window,
            pad_mode="constant",
            return_complex=True,
        )
        square_NKS2 = torch.view_as_real(spectrum_NKS[:, : self.num_bins]).square()
        # The same bits as .sum(-1), which copies the spectrum on a CPU: 3 times as long at 64 waves, 7 times at 4.
        return square_NKS2[..., 0] + square_NKS2[..., 1]


def mel_filters(config: FrontendConfig, rate: int, top_hz: float) -> Tensor:
    """Triangular bands equally spaced in mel, float32 of shape (F, K)."""
    bottom, top = (_hz_to_mel(torch.tensor(hz, dtype=torch.float64), config.scale) for hz in (config.min_hz, top_hz))
    edge_hz = _mel_to_hz(
        torch.linspace(float(bottom), float(top), config.num_mels + 2, dtype=torch.float64), config.scale
    )
    bin_K = torch.linspace(0, rate / 2, config.n_fft // 2 + 1, dtype=torch.float64)
    low_F1, centre_F1, high_F1 = edge_hz[:-2, None], edge_hz[1:-1, None], edge_hz[2:, None]
    rising_FK, falling_FK = (bin_K - low_F1) / (centre_F1 - low_F1), (high_F1 - bin_K) / (high_F1 - centre_F1)
    filters_FK = torch.minimum(rising_FK, falling_FK).clamp(min=0)
    return (filters_FK * 2 / (high_F1 - low_F1) if config.scale == "slaney" else filters_FK).float()


def _hz_to_mel(hz: Tensor, scale: MelScale) -> Tensor:
    if scale == "htk":
        return 2595 * torch.log10(1 + hz / 700)
    logarithmic = (hz.clamp(min=_SLANEY_BREAK_HZ) / _SLANEY_BREAK_HZ).log() / _SLANEY_LOG_STEP
    return hz.clamp(max=_SLANEY_BREAK_HZ) / _SLANEY_HZ_A_MEL + logarithmic


def _mel_to_hz(mel: Tensor, scale: MelScale) -> Tensor:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    break_mel = _SLANEY_BREAK_HZ / _SLANEY_HZ_A_MEL
    return mel.clamp(max=break_mel) * _SLANEY_HZ_A_MEL * ((mel - break_mel).clamp(min=0) * _SLANEY_LOG_STEP).exp()


class MuleMel(nn.Module):
    """MULE's input: 16 kHz, 96 HTK mels up to 8 kHz, window 400, hop 160 (arXiv:2401.08889); resampled once, here."""

    def __init__(self, config: FrontendConfig, rate: int) -> None:
        super().__init__()
        self.rate = rate
        self.mel = LogMel(replace(config, kind="mel", **MULE), MULE_RATE)

    def forward(self, wave_NT: Tensor) -> Tensor:
        """Log-mel spectrogram (N, 96, S), a frame every 10 ms."""
        from torchaudio.functional import resample

        out: Tensor = self.mel(resample(wave_NT, self.rate, MULE_RATE))
        return out


class NnAudio(nn.Module):
    """nnAudio's transform, then log(1 + C · power). Raises ImportError where nnAudio is not installed."""

    def __init__(self, config: FrontendConfig, rate: int) -> None:
        super().__init__()
        self.compression = config.compression
        self.is_power = config.kind == "nnaudio_mel"
        self.transform = _nnaudio(config, rate)

    def forward(self, wave_NT: Tensor) -> Tensor:
        """Log spectrogram (N, F, S)."""
        value: Tensor = self.transform(wave_NT)
        # Trainable bands may have negative weights, and log1p needs a value above -1.
        return torch.log1p(self.compression * (value.clamp(min=0) if self.is_power else value.square()))


def _nnaudio(config: FrontendConfig, rate: int) -> nn.Module:
    from nnAudio import features

    common: dict[str, Any] = {"sr": rate, "hop_length": config.hop, "verbose": False}
    learned = config.trainable
    transform: nn.Module
    if config.kind == "nnaudio_cqt":
        lowest_hz = config.min_hz or _LOWEST_CQT_HZ
        transform = features.CQT1992v2(
            fmin=lowest_hz, n_bins=config.num_mels, pad_mode="constant", trainable=learned, **common
        )
        return transform
    common |= {"n_fft": config.n_fft, "win_length": config.window or config.n_fft, "pad_mode": "constant"}
    if config.kind == "nnaudio_stft":
        transform = features.STFT(freq_scale="no", output_format="Magnitude", trainable=learned, **common)
        return transform
    bands = {"n_mels": config.num_mels, "fmin": config.min_hz, "fmax": config.max_hz}
    norm = 1 if config.scale == "slaney" else None
    transform = features.MelSpectrogram(
        htk=config.scale == "htk", norm=norm, trainable_mel=learned, trainable_STFT=learned, **bands, **common
    )
    return transform


_LOWEST_CQT_HZ = 32.70
"""C1."""

FRONTENDS: dict[str, Callable[[FrontendConfig, int], nn.Module]] = {
    "wave": nn.Identity,  # takes and ignores any arguments
    "mel": LogMel,
    "mule": MuleMel,
    "nnaudio_mel": NnAudio,
    "nnaudio_stft": NnAudio,
    "nnaudio_cqt": NnAudio,
}
