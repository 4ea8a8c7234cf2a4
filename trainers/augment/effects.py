"""One configuration an effect: its probability, its ranges, and how severity moves them.

Defaults are Table 1 of Guinot et al. 2024 (arXiv:2407.13840); names follow torch-audiomentations. ``scaled(m)``
multiplies severity by m > 0: probabilities grow with m and stop at 1, ranges move to the stronger side, and every
range keeps min ≤ max.
"""

from dataclasses import dataclass, field, replace
from math import floor
from typing import Literal

from cluster.settings import Config

MIN_LOW_PASS_HZ = 75.0
MAX_NARROWING = 1.99
"""Severity widens the least bandwidth no further than this."""
MIN_RATE, MAX_RATE = 0.25, 4.0


def check_p(owner: str, p: float) -> None:
    """Refuse what is no probability."""
    if not 0 <= p <= 1:
        raise ValueError(f"{owner}.p must be in [0, 1], got {p}")


def _check_range(owner: Config, name: str, *, above: float = float("-inf"), to: float = float("inf")) -> None:
    """Refuse min_NAME > max_NAME and values outside (above, to]."""
    low, high = getattr(owner, f"min_{name}"), getattr(owner, f"max_{name}")
    if low > high:
        raise ValueError(f"min_{name} must be <= max_{name}, got {low} > {high}")
    if not (low > above and high <= to):
        raise ValueError(f"min_{name} and max_{name} must be in ({above:g}, {to:g}], got {low} and {high}")


@dataclass(frozen=True, kw_only=True)
class GainConfig(Config):
    """A constant factor."""

    p: float = 0.4
    """Probability, in [0, 1]."""
    min_gain_in_db: float = -15.0
    """dB of amplitude."""
    max_gain_in_db: float = 5.0
    """dB of amplitude."""

    def __post_init__(self) -> None:
        check_p("gain", self.p)
        _check_range(self, "gain_in_db")

    def scaled(self, m: float) -> "GainConfig":
        """Both ends times m."""
        low, high = self.min_gain_in_db * m, self.max_gain_in_db * m
        return replace(self, p=min(1.0, self.p * m), min_gain_in_db=low, max_gain_in_db=high)


@dataclass(frozen=True, kw_only=True)
class PolarityConfig(Config):
    """The wave times −1."""

    p: float = 0.6
    """Probability, in [0, 1]."""

    def __post_init__(self) -> None:
        check_p("polarity", self.p)

    def scaled(self, m: float) -> "PolarityConfig":
        """More often."""
        return replace(self, p=min(1.0, self.p * m))


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(Config):
    """Coloured noise, its level relative to the wave's."""

    p: float = 0.6
    """Probability, in [0, 1]."""
    min_snr_in_db: float = 3.0
    """Signal over noise, dB of power."""
    max_snr_in_db: float = 30.0
    """Signal over noise, dB of power."""
    min_f_decay: float = -2.0
    """Slope of the noise's spectrum in ``f_decay_unit``."""
    max_f_decay: float = 2.0
    """Slope of the noise's spectrum in ``f_decay_unit``."""
    f_decay_unit: Literal["db_per_octave", "amplitude_exponent"] = "db_per_octave"
    """dB per octave rise with frequency; an exponent falls: amplitude (1 + f/106 Hz)^-decay (torch-audiomentations)."""

    def __post_init__(self) -> None:
        check_p("noise", self.p)
        _check_range(self, "snr_in_db")
        _check_range(self, "f_decay")

    def scaled(self, m: float) -> "NoiseConfig":
        """Less signal, steeper slopes."""
        return replace(
            self,
            p=min(1.0, self.p * m),
            min_snr_in_db=self.min_snr_in_db / m,
            max_snr_in_db=self.max_snr_in_db / m,
            min_f_decay=self.min_f_decay * m,
            max_f_decay=self.max_f_decay * m,
        )


@dataclass(frozen=True, kw_only=True)
class CutoffConfig(Config):
    """Where a low or high pass cuts."""

    min_cutoff_freq: float
    """Hz; drawn uniformly in mel."""
    max_cutoff_freq: float
    """Hz; capped at 0.45 of the sample rate."""

    def __post_init__(self) -> None:
        _check_range(self, "cutoff_freq", above=0)

    def scaled(self, m: float, *, floor_hz: float) -> "CutoffConfig":
        """Cutoffs times m, not below ``floor_hz``."""
        low = max(floor_hz, self.min_cutoff_freq * m)
        return replace(self, min_cutoff_freq=low, max_cutoff_freq=max(low, self.max_cutoff_freq * m))


@dataclass(frozen=True, kw_only=True)
class BandConfig(Config):
    """Which band is passed or cut."""

    min_center_frequency: float = 200.0
    """Hz; drawn uniformly in mel."""
    max_center_frequency: float = 4000.0
    """Hz; capped at 0.45 of the sample rate."""
    min_bandwidth_fraction: float = 0.5
    """Width of the band over its centre, in (0, 2]."""
    max_bandwidth_fraction: float = 2.0
    """Width of the band over its centre, in (0, 2]."""

    def __post_init__(self) -> None:
        _check_range(self, "center_frequency", above=0)
        _check_range(self, "bandwidth_fraction", above=0, to=2)

    def scaled(self, m: float) -> "BandConfig":
        """Higher centres, wider bands."""
        return replace(
            self,
            max_center_frequency=max(self.min_center_frequency, self.max_center_frequency * m),
            min_bandwidth_fraction=min(MAX_NARROWING, self.max_bandwidth_fraction, self.min_bandwidth_fraction * m),
        )


@dataclass(frozen=True, kw_only=True)
class FilterConfig(Config):
    """One kind of low pass, high pass, band pass and band cut, drawn uniformly."""

    p: float = 0.3
    """Probability that there is a filter at all, in [0, 1]."""
    shared_kind: bool = False
    """All views of a clip get the same kind; each has its own coin and frequencies."""
    low_pass: CutoffConfig = CutoffConfig(min_cutoff_freq=150.0, max_cutoff_freq=7000.0)
    high_pass: CutoffConfig = CutoffConfig(min_cutoff_freq=200.0, max_cutoff_freq=2400.0)
    band_pass: BandConfig = field(default_factory=BandConfig)
    band_cut: BandConfig = field(default_factory=BandConfig)

    def __post_init__(self) -> None:
        check_p("filter", self.p)

    def scaled(self, m: float) -> "FilterConfig":
        """Low passes lower, high passes higher, bands as `BandConfig.scaled`."""
        return replace(
            self,
            p=min(1.0, self.p * m),
            low_pass=self.low_pass.scaled(1 / m, floor_hz=min(MIN_LOW_PASS_HZ, self.low_pass.min_cutoff_freq)),
            high_pass=self.high_pass.scaled(m, floor_hz=0.0),
            band_pass=self.band_pass.scaled(m),
            band_cut=self.band_cut.scaled(m),
        )


@dataclass(frozen=True, kw_only=True)
class PitchConfig(Config):
    """Transposition without a change of tempo."""

    p: float = 0.6
    """Probability, in [0, 1]."""
    min_transpose_semitones: float = -4.0
    """Semitones."""
    max_transpose_semitones: float = 4.0
    """Semitones."""
    ratios: Literal["continuous", "rational"] = "continuous"
    """``rational``: one of torch-pitch-shift's quotients of divisors of the sample rate inside the range, never 1."""

    def __post_init__(self) -> None:
        check_p("pitch", self.p)
        _check_range(self, "transpose_semitones", above=-48, to=48)

    def scaled(self, m: float) -> "PitchConfig":
        """Both ends times m."""
        low, high = self.min_transpose_semitones * m, self.max_transpose_semitones * m
        return replace(self, p=min(1.0, self.p * m), min_transpose_semitones=low, max_transpose_semitones=high)


@dataclass(frozen=True, kw_only=True)
class StretchConfig(Config):
    """Change of tempo without transposition."""

    p: float = 0.0
    """Probability, in [0, 1]."""
    min_rate: float = 0.7
    """Tempo ratio; 1.25 is a quarter faster."""
    max_rate: float = 1.3
    """Tempo ratio; a view reads this much more of its clip."""

    def __post_init__(self) -> None:
        check_p("stretch", self.p)
        _check_range(self, "rate", above=0, to=MAX_RATE)

    def scaled(self, m: float) -> "StretchConfig":
        """Widened around 1."""
        low, high = 1 - (1 - self.min_rate) * m, 1 + (self.max_rate - 1) * m
        return replace(self, p=min(1.0, self.p * m), min_rate=max(MIN_RATE, low), max_rate=min(MAX_RATE, high))


@dataclass(frozen=True, kw_only=True)
class DelayConfig(Config):
    """y = output_gain · (x + wet · Σ_k attenuation^k · x[n − (k − 1 + first_tap)·d]), k = 1 … reflections."""

    p: float = 0.6
    """Probability, in [0, 1]."""
    min_delay_ms: float = 100.0
    """Milliseconds between reflections."""
    max_delay_ms: float = 500.0
    """Milliseconds between reflections."""
    min_reflections: int = 1
    """Echoes, ≥ 1."""
    max_reflections: int = 3
    """Echoes, ≥ 1."""
    min_attenuation_in_db: float = -6.0
    """dB a reflection, ≤ 0."""
    max_attenuation_in_db: float = -3.0
    """dB a reflection, ≤ 0."""
    min_wet: float = 0.25
    """Amplitude of the echoes over the dry signal, in [0, 1]."""
    max_wet: float = 1.0
    """Amplitude of the echoes over the dry signal, in [0, 1]."""
    ends_only: bool = False
    """Each value is one end of its range, never between."""
    first_tap: Literal[0, 1] = 1
    """0: the first reflection comes undelayed."""
    output_gain: float = 1.0
    """Factor of the sum."""

    def __post_init__(self) -> None:
        check_p("delay", self.p)
        _check_range(self, "delay_ms", above=0)
        _check_range(self, "reflections", above=0, to=64)
        _check_range(self, "attenuation_in_db", to=0)
        _check_range(self, "wet", above=-1e-9, to=1)

    def scaled(self, m: float) -> "DelayConfig":
        """Sooner, more and louder echoes, at least so wet."""
        return replace(
            self,
            p=min(1.0, self.p * m),
            min_delay_ms=min(self.max_delay_ms, self.min_delay_ms / m),
            min_reflections=max(1, floor(self.min_reflections * m + 0.5)),
            max_reflections=max(1, floor(self.max_reflections * m + 0.5)),
            min_attenuation_in_db=self.min_attenuation_in_db / m,
            max_attenuation_in_db=self.max_attenuation_in_db / m,
            min_wet=min(self.max_wet, self.min_wet * m),
        )
