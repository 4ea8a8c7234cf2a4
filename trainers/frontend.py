"""From a waveform to what an encoder reads: the waveform itself or a log-mel spectrogram.

Shape suffixes: N rows, T samples, F bands, S frames, K bins of the transform.
"""

from dataclasses import dataclass
from math import log
from typing import Literal

import torch
from torch import Tensor, nn

from cluster.settings import Config

MelScale = Literal["slaney", "htk"]
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_HZ_A_MEL = 200 / 3
_SLANEY_LOG_STEP = log(6.4) / 27


@dataclass(frozen=True, kw_only=True)
class FrontendConfig(Config):
    """The default mel is small enough for two CPU cores: 64 bands every 20 ms at 22,050 Hz."""

    kind: Literal["wave", "mel"] = "wave"
    """``wave`` hands on the samples (SampleCNN, TUNe+), ``mel`` is a log-mel spectrogram."""
    n_fft: int = 1024
    """Length of the transform, samples."""
    window: int | None = None
    """Length of the Hann window, samples, at most ``n_fft``; None for ``n_fft``."""
    hop: int = 441
    """Between frames, samples."""
    num_mels: int = 64
    """Bands."""
    min_hz: float = 0.0
    """Lower edge of the lowest band."""
    max_hz: float | None = None
    """Upper edge of the highest band; None for half the sample rate."""
    scale: MelScale = "slaney"
    """``slaney``: linear below 1 kHz, bands of equal area (librosa); ``htk``: logarithmic, bands of height 1."""
    compression: float = 10_000.0
    """C of log(1 + C · power); the larger, the nearer to a logarithm."""

    def __post_init__(self) -> None:
        for name in ("n_fft", "hop", "num_mels", "compression"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.window is not None and not 0 < self.window <= self.n_fft:
            raise ValueError(f"window must be in (0, n_fft = {self.n_fft}], got {self.window}")
        if self.min_hz < 0 or (self.max_hz is not None and self.max_hz <= self.min_hz):
            raise ValueError(f"min_hz and max_hz must be 0 <= min_hz < max_hz, got {self.min_hz} and {self.max_hz}")


def build_frontend(config: FrontendConfig, rate: int) -> nn.Module:
    """The module that turns a wave (N, T) at ``rate`` Hz into (N, T) or (N, F, S)."""
    frontend: nn.Module = FRONTENDS[config.kind](config, rate)
    return frontend


class LogMel(nn.Module):
    """log(1 + C · mel power), frames centred on multiples of the hop, zeros around the wave.

    Args:
        config: bands and transform.
        rate: Hz.

    Raises:
        ValueError: if ``max_hz`` lies above half the rate.
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
        self.register_buffer("filters_FK", mel_filters(config, rate, top_hz), persistent=False)

    def forward(self, wave_NT: Tensor) -> Tensor:
        """Log-mel spectrogram (N, F, S), S = 1 + T // hop."""
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
        power_NKS = torch.view_as_real(spectrum_NKS).square().sum(-1)
        return torch.log1p(config.compression * (self.filters_FK @ power_NKS))


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


FRONTENDS = {"wave": nn.Identity, "mel": LogMel}  # Identity takes and ignores any arguments
