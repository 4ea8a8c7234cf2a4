"""Drawing the augmentation of each row: on the host, keyed by slot, apart from applying it, so a draw can be logged
and replayed.

Every number of a row has its own column, so changing one effect's probability or range moves no other draw.

Shape suffixes: n rows, K uniform numbers a row.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.augment.effects import BandConfig, CutoffConfig, DelayConfig, FilterConfig, NoiseConfig, PitchConfig
from trainers.augment.parameters import AugmentConfig
from trainers.augment.philox import SHARED_VIEW, uniforms

Floats = NDArray[np.float64]

_COLUMNS = (
    *("gain", "gain_db", "polarity", "noise", "snr", "decay", "seed_high", "seed_low"),
    *("filter", "kind", "cutoff", "bandwidth", "pitch", "semitones", "stretch", "rate"),
    *("delay", "delay_ms", "reflections", "attenuation", "wet"),
)
_SHARED_COLUMNS = ("chain", "kind")
MAX_CUTOFF = 0.45
"""Highest cutoff, in sample rates."""
DB_PER_OCTAVE = 20 * np.log10(2)
_MEL_BREAK_HZ = 700.0


class ViewParameters(NamedTuple):
    """What was drawn for n rows, on the host; a row's identity values are those of an effect it did not get."""

    gain: Tensor
    """Signed amplitude, float32; 1."""
    snr_db: Tensor
    """float32; infinite."""
    noise_slope: Tensor
    """Exponent of the noise's amplitude over frequency, float32; 0."""
    noise_seed: Tensor
    """int64."""
    filter_kind: Tensor
    """Index into ``spectral.KINDS``, int64; 0."""
    low_hz: Tensor
    """Cutoff, or lower edge of a band, float32."""
    high_hz: Tensor
    """Upper edge of a band, float32."""
    pitch_ratio: Tensor
    """2^(semitones/12), float64; 1."""
    tempo: Tensor
    """Tempo ratio, float64; 1."""
    delay: Tensor
    """Samples between reflections, int64."""
    reflections: Tensor
    """int64; 0."""
    attenuation: Tensor
    """Amplitude that a reflection keeps, float32."""
    wet: Tensor
    """Amplitude of the echoes, float32."""

    @property
    def received(self) -> dict[str, Tensor]:
        """Which rows got which effect, bool (n,): polarity and gain are one number and count as one."""
        return {
            "gain": self.gain != 1,
            "noise": self.snr_db < torch.inf,
            "filter": self.filter_kind > 0,
            "pitch": self.pitch_ratio != 1,
            "stretch": self.tempo != 1,
            "delay": self.reflections > 0,
        }

    def rows(self, index: Tensor | slice) -> "ViewParameters":
        """The draws of some rows."""
        return ViewParameters(*(values[index] for values in self))


def vocoded(config: AugmentConfig, drawn: ViewParameters) -> Tensor:
    """Which rows go through the phase vocoder, bool (n,): those whose pitch or tempo moves, or all."""
    moved_n = (drawn.pitch_ratio != 1) | (drawn.tempo != 1)
    return torch.ones_like(moved_n) if config.identity_through_vocoder else moved_n


def join(parts: list[ViewParameters]) -> ViewParameters:
    """Rows of several draws, one after the other."""
    return ViewParameters(*(torch.cat(values) for values in zip(*parts, strict=True)))


def draw_parameters(
    config: AugmentConfig, slots: Tensor, *, sample_rate: int, step: int, seed: int, view: int
) -> ViewParameters:
    """Draw one view of each slot's clip.

    Args:
        config: the chain.
        slots: places in the global batch, int64, shape (n,).
        sample_rate: Hz.
        step: of the training.
        seed: of the run.
        view: of the clip, ≥ 0.

    Returns:
        Tensors of shape (n,) on the host, a function of (config, sample_rate, seed, step, slot, view) alone.
    """
    if not isinstance(slots, Tensor) or slots.ndim != 1 or slots.dtype.is_floating_point or slots.is_meta:
        got = f"{slots.dtype} of shape {tuple(slots.shape)}" if isinstance(slots, Tensor) else type(slots).__name__
        raise ValueError(f"slots must be a torch tensor of whole numbers of shape (rows,), got {got}")
    place = slots.cpu().numpy().astype(np.int64)

    def columns(names: tuple[str, ...], view: int) -> dict[str, Floats]:
        drawn_nK = uniforms(place, seed=seed, step=step, view=view, count=len(names), purpose="augmentation")
        return dict(zip(names, drawn_nK.T, strict=True))

    own, shared = columns(_COLUMNS, view), columns(_SHARED_COLUMNS, SHARED_VIEW)
    chain_n = shared["chain"] < config.p

    def on(name: str, p: float) -> NDArray[np.bool_]:
        return chain_n & (own[name] < p)

    gain_db_n = _between(config.gain.min_gain_in_db, config.gain.max_gain_in_db, own["gain_db"])
    gain_n = np.where(on("gain", config.gain.p), 10 ** (gain_db_n / 20), 1.0)
    snr_n = _between(config.noise.min_snr_in_db, config.noise.max_snr_in_db, own["snr"])
    kind_u_n = (shared if config.filter.shared_kind else own)["kind"]
    kind_n, low_n, high_n = _filter(config.filter, kind_u_n, own["cutoff"], own["bandwidth"], sample_rate)
    pitch_n = _pitch_ratio(config.pitch, own["semitones"], sample_rate)
    rate_n = _between(config.stretch.min_rate, config.stretch.max_rate, own["rate"])
    delay_n, reflections_n, attenuation_n, wet_n = _delay(config.delay, own, sample_rate)
    seed_n = np.floor(own["seed_high"] * 2**31).astype(np.int64) << 32 | np.floor(own["seed_low"] * 2**32).astype(
        np.int64
    )
    single = torch.float32
    return ViewParameters(
        gain=torch.as_tensor(np.where(on("polarity", config.polarity.p), -gain_n, gain_n), dtype=single),
        snr_db=torch.as_tensor(np.where(on("noise", config.noise.p), snr_n, np.inf), dtype=single),
        noise_slope=torch.as_tensor(_noise_slope(config.noise, own["decay"]), dtype=single),
        noise_seed=torch.as_tensor(seed_n),
        filter_kind=torch.as_tensor(np.where(on("filter", config.filter.p), kind_n, 0)),
        low_hz=torch.as_tensor(low_n, dtype=single),
        high_hz=torch.as_tensor(high_n, dtype=single),
        pitch_ratio=torch.as_tensor(np.where(on("pitch", config.pitch.p), pitch_n, 1.0)),
        tempo=torch.as_tensor(np.where(on("stretch", config.stretch.p), rate_n, 1.0)),
        delay=torch.as_tensor(delay_n),
        reflections=torch.as_tensor(np.where(on("delay", config.delay.p), reflections_n, 0)),
        attenuation=torch.as_tensor(attenuation_n, dtype=single),
        wet=torch.as_tensor(wet_n, dtype=single),
    )


def noise_knee_hz(config: NoiseConfig, sample_rate: int) -> float:
    """Where the noise's spectrum begins to slope: torch-audiomentations ramps linspace(1, √(rate/2))."""
    if config.f_decay_unit == "db_per_octave":
        return 0.0
    nyquist = sample_rate / 2
    return float(nyquist / (nyquist**0.5 - 1))


def rational_ratios(sample_rate: int, low: float, high: float) -> list[Fraction]:
    """Quotients of divisors of the sample rate in [low, high] but 1, as torch-pitch-shift lists them, ascending.

    >>> len(rational_ratios(22_050, 2 ** (-4 / 12), 2 ** (4 / 12)))
    14
    """
    divisors = [d for d in range(2, sample_rate + 1) if sample_rate % d == 0]
    return sorted({Fraction(a, b) for a in divisors for b in divisors if low <= a / b <= high and a != b})


def _between(low: float, high: float, u_n: Floats) -> Floats:
    return low + (high - low) * u_n


def _mel_between(low_hz: float, high_hz: float, u_n: Floats) -> Floats:
    """Uniform in HTK mel."""
    low, high = (np.log1p(hz / _MEL_BREAK_HZ) for hz in (low_hz, high_hz))
    return np.asarray(_MEL_BREAK_HZ * np.expm1(_between(low, high, u_n)))


def _noise_slope(config: NoiseConfig, u_n: Floats) -> Floats:
    decay_n = _between(config.min_f_decay, config.max_f_decay, u_n)
    return decay_n / DB_PER_OCTAVE if config.f_decay_unit == "db_per_octave" else -decay_n


def _filter(
    config: FilterConfig, kind_u_n: Floats, cutoff_u_n: Floats, width_u_n: Floats, sample_rate: int
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Kind 1…4 and the two edges in Hz."""
    top_hz = MAX_CUTOFF * sample_rate
    kind_n = 1 + np.floor(kind_u_n * 4).astype(np.int64)

    def cutoff(band: CutoffConfig) -> tuple[Floats, Floats]:
        hz_n = _mel_between(min(band.min_cutoff_freq, top_hz), min(band.max_cutoff_freq, top_hz), cutoff_u_n)
        return hz_n, hz_n

    def edges(band: BandConfig) -> tuple[Floats, Floats]:
        centre_n = _mel_between(
            min(band.min_center_frequency, top_hz), min(band.max_center_frequency, top_hz), cutoff_u_n
        )
        half_n = _between(band.min_bandwidth_fraction, band.max_bandwidth_fraction, width_u_n) / 2
        return centre_n * (1 - half_n), centre_n * (1 + half_n)

    parts = [cutoff(config.low_pass), cutoff(config.high_pass), edges(config.band_pass), edges(config.band_cut)]
    low_4n, high_4n = (np.stack(side) for side in zip(*parts, strict=True))
    row_n = np.arange(len(kind_n))
    return kind_n, low_4n[kind_n - 1, row_n], high_4n[kind_n - 1, row_n]


def _pitch_ratio(config: PitchConfig, u_n: Floats, sample_rate: int) -> Floats:
    low, high = config.min_transpose_semitones, config.max_transpose_semitones
    if config.ratios == "continuous":
        return np.asarray(2 ** (_between(low, high, u_n) / 12))
    ratios = rational_ratios(sample_rate, 2 ** (low / 12), 2 ** (high / 12))
    if not ratios:
        raise ValueError(f"no rational pitch ratio of {sample_rate} Hz lies in {low} to {high} semitones")
    return np.array([float(ratio) for ratio in ratios])[np.floor(u_n * len(ratios)).astype(np.int64)]


def _delay(
    config: DelayConfig, own: dict[str, Floats], sample_rate: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """Samples, reflections, amplitude a reflection, wet amplitude."""
    place: Callable[[Floats], Floats] = (lambda u_n: np.round(u_n)) if config.ends_only else (lambda u_n: u_n)
    ms_n = _between(config.min_delay_ms, config.max_delay_ms, place(own["delay_ms"]))
    low, high = config.min_reflections, config.max_reflections
    u_n = own["reflections"]
    many_n = np.where(u_n < 0.5, low, high) if config.ends_only else low + np.floor(u_n * (high - low + 1))
    db_n = _between(config.min_attenuation_in_db, config.max_attenuation_in_db, place(own["attenuation"]))
    wet_n = _between(config.min_wet, config.max_wet, place(own["wet"]))
    samples_n = np.maximum(1, np.round(ms_n * (sample_rate / 1000))).astype(np.int64)
    return samples_n, many_n.astype(np.int64), np.asarray(10 ** (db_n / 20)), wet_n
