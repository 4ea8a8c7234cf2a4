from collections.abc import Callable
from math import pi

import pytest
import torch
from torch import Tensor

RATE = 22_050


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tone() -> Callable[..., Tensor]:
    def make(hz: float, samples: int = 22_050) -> Tensor:
        return (0.5 * torch.sin(2 * pi * hz * torch.arange(samples, dtype=torch.float64) / RATE)).float()

    return make


@pytest.fixture
def frequency() -> Callable[[Tensor, float], float]:
    """Frequency of the tone in the middle of a wave, from how far two halves have turned against ``near_hz``."""

    def measure(wave_T: Tensor, near_hz: float) -> float:
        inner = wave_T[len(wave_T) // 8 : -len(wave_T) // 8].double()
        half = len(inner) // 2
        turned = inner[: 2 * half] * torch.exp(-2j * pi * near_hz * torch.arange(2 * half).double() / RATE)
        window = torch.hann_window(half, dtype=torch.float64)
        first, last = (turned[:half] * window).sum(), (turned[half:] * window).sum()
        return near_hz + float(torch.angle(last * first.conj())) / (2 * pi * half / RATE)

    return measure


@pytest.fixture
def snr_db() -> Callable[[Tensor, Tensor], float]:
    """Signal over difference, dB."""
    return lambda signal, other: float(10 * torch.log10(signal.square().sum() / (other - signal).square().sum()))


@pytest.fixture
def music() -> Callable[..., Tensor]:
    """Decaying harmonic notes struck every half second, and a little noise."""

    def make(rows: int, samples: int = 22_050, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        second_T = torch.arange(samples) / RATE
        f0_n1 = 110 * 2 ** (torch.randint(0, 36, (rows, 1), generator=generator) / 12)
        partials = sum(torch.sin(2 * pi * f0_n1 * h * second_T) / h for h in range(1, 6))
        wave = 0.2 * partials * torch.exp(-4 * (second_T % 0.5))
        return wave + 1e-3 * torch.randn(rows, samples, generator=generator)

    return make
