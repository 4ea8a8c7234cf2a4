"""The sounds of single notes: additive, FM, plucked-string and noise voices, each rendered once and kept.

A note's table depends on (voice, pitch, brightness) alone, so keeping it changes the speed and never a sample.
Brightness is 0 (soft), 1 or 2 (sharp).

Shape suffixes: T samples, K harmonics, F frequency bins.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_shards.format.records import SAMPLE_RATE

Wave = NDArray[np.float32]

KEPT_NOTES = 768
"""Tables a process keeps: about 160 MB, nine in ten of those that music of 24 keys asks for."""
CYCLE = 2048
"""Samples of one period in an oscillator's table, a power of two."""
HIGHEST_HZ = 9_000.0
"""No harmonic is made above it; Nyquist is at 11,025."""


def time_axis(length_s: float) -> Wave:
    """Seconds at each sample."""
    return np.asarray(np.arange(round(length_s * SAMPLE_RATE)) / SAMPLE_RATE, dtype=np.float32)


def _sounded(tone_T: NDArray[Any], attack_s: float, decay_s: float) -> Wave:
    """A tone that rises in ``attack_s`` and falls to 1/e in ``decay_s``."""
    t_T = time_axis(len(tone_T) / SAMPLE_RATE)
    return np.asarray(tone_T * np.minimum(t_T / attack_s, 1.0) * np.exp(-t_T / decay_s), dtype=np.float32)


def _oscillate(cycles_T: Wave, amplitude_K: NDArray[Any], hz: float) -> Wave:
    """A sum of harmonics below ``HIGHEST_HZ``, read from one computed cycle at the phases ``cycles_T``."""
    spectrum = np.zeros(CYCLE // 2 + 1, dtype=np.complex128)
    count = min(len(amplitude_K), int(HIGHEST_HZ / hz), CYCLE // 4)
    spectrum[1 : count + 1] = amplitude_K[:count] * np.exp(1j * np.arange(count) ** 2)  # spread phases: low crest
    cycle = np.fft.irfft(spectrum).astype(np.float32) * CYCLE
    turns = (cycles_T * CYCLE).astype(np.int32) & (CYCLE - 1)
    return np.asarray(cycle[turns], dtype=np.float32)


def noise(length: int, low_hz: float, high_hz: float) -> Wave:
    """Noise between two frequencies, with soft edges; the same each time, for what is made of it is shared."""
    spectrum = _white(length)
    hz_F = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    band_F = hz_F**4 / (hz_F**4 + low_hz**4) / (1.0 + (hz_F / high_hz) ** 8)
    return np.fft.irfft(spectrum * band_F, length).astype(np.float32)


@lru_cache(maxsize=16)
def _white(length: int) -> NDArray[np.complex128]:
    """The spectrum of white noise; read-only, because it is shared."""
    spectrum = np.fft.rfft(np.random.default_rng(length).standard_normal(length))
    spectrum.flags.writeable = False
    return spectrum


def _harmonics(rolloff: float) -> NDArray[np.float64]:
    return np.arange(1.0, 257.0) ** -rolloff


def _organ(hz: float, brightness: int) -> Wave:
    t_T = time_axis(4.0)
    pipes = np.zeros(16)  # drawbars 16' 8' 5⅓' 4' 2⅔' 2' 1⅓' 1', as harmonics of the octave below
    pipes[[0, 1, 2, 3, 5, 7, 11, 15]] = (0.5, 1.0, 0.6, 0.7, 0.5, 0.4, 0.3, 0.3)
    pipes *= (0.8 + 0.1 * brightness) ** np.arange(16)
    rotor_T = 1.0 + 0.15 * np.sin(2 * np.pi * 6.3 * t_T)
    return _sounded(_oscillate(t_T * (hz / 2), pipes, hz / 2) * rotor_T, 0.012, 30.0)


def _strings(hz: float, brightness: int) -> Wave:
    t_T = time_axis(4.0)
    bow = _harmonics(1.9 - 0.3 * brightness)
    ensemble_T = np.zeros_like(t_T)
    for cents in (-7.0, 0.0, 6.0):
        ensemble_T += _oscillate(t_T * (hz * 2 ** (cents / 1200)), bow, hz)
    return _sounded(ensemble_T, 0.09, 20.0)


def _electric_piano(hz: float, brightness: int) -> Wave:
    t_T = time_axis(2.5)
    turn_T = 2 * np.pi * hz * t_T
    body_T = np.sin(turn_T + (0.5 + 0.6 * brightness) * np.exp(-t_T / 0.5) * np.sin(turn_T))
    tine = 0.12 * (1 + brightness) * (14 * hz < HIGHEST_HZ)
    return _sounded(body_T + tine * np.exp(-t_T / 0.06) * np.sin(14 * turn_T), 0.003, 0.9)


def _bell(hz: float, brightness: int) -> Wave:
    t_T = time_axis(2.0)
    turn_T = 2 * np.pi * hz * t_T
    index = min(0.8 + 0.7 * brightness, max(0.0, HIGHEST_HZ / (3.5 * hz) - 1.0))  # keeps the sidebands below Nyquist
    return _sounded(np.sin(turn_T + index * np.exp(-t_T / 0.4) * np.sin(3.5 * turn_T)), 0.002, 0.6)


def _pluck(hz: float, length_s: float, decay_s: float, excitation_hz: float) -> Wave:
    """Karplus–Strong: a noise burst circulates through a two-point average, one period a pass.

    Each pass needs only the pass before it, so a period is one vector operation. The loop's true period is half a
    sample longer than its line; reading at a stride tunes it.
    """
    period = int(SAMPLE_RATE / hz)
    stride = (period + 0.5) * hz / SAMPLE_RATE
    passes = int(length_s * hz) + 3
    string = np.zeros(1 + passes * period, dtype=np.float32)
    string[1 : 1 + period] = noise(period, 30.0, excitation_hz)
    keep = np.float32(0.5 * np.exp(-1.0 / (decay_s * hz)))
    for start in range(1 + period, len(string), period):
        last = slice(start - period, start), slice(start - period - 1, start - 1)
        string[start : start + period] = keep * (string[last[0]] + string[last[1]])
    read_T = np.arange(int(length_s * SAMPLE_RATE)) * stride
    return np.asarray(np.interp(read_T, np.arange(len(string)), string), dtype=np.float32)


def _guitar(hz: float, brightness: int) -> Wave:
    return _pluck(hz, 1.8, 1.2, (2000.0, 4000.0, 8000.0)[brightness])


def _upright_bass(hz: float, brightness: int) -> Wave:
    return _pluck(hz, 1.6, 0.5, (500.0, 900.0, 1500.0)[brightness])


def _synth_bass(hz: float, brightness: int) -> Wave:
    t_T = time_axis(1.6)
    opened_T = np.exp(-t_T / np.float32(0.12 + 0.08 * brightness))
    dull_T, sharp_T = (_oscillate(t_T * hz, _harmonics(rolloff), hz) for rolloff in (2.2, 0.8))
    return _sounded(dull_T + opened_T * sharp_T, 0.004, 1.5)


def _flute(hz: float, brightness: int) -> Wave:
    t_T = time_axis(2.5)
    vibrato_T = 0.004 * hz / (2 * np.pi * 5.2) * np.minimum(t_T / 0.4, 1.0) * np.sin(2 * np.pi * 5.2 * t_T)
    tone_T = _oscillate(t_T * hz + vibrato_T, (0.15 + 0.1 * brightness) ** np.arange(5), hz)
    breath_T = noise(len(t_T), 0.8 * hz, 4 * hz)
    return _sounded(tone_T + 0.25 * breath_T, 0.05, 6.0)


def _synth_lead(hz: float, brightness: int) -> Wave:
    t_T = time_axis(2.5)
    square = _harmonics(1.3 - 0.2 * brightness) * (np.arange(256) % 2 == 0)
    return _sounded(_oscillate(t_T * hz + 0.02 * np.sin(2 * np.pi * 6.0 * t_T), square, hz), 0.008, 5.0)


def _kick(_: float, brightness: int) -> Wave:
    t_T = time_axis(0.35)
    cycles_T = 48.0 * t_T + (3.0 + brightness) * (1 - np.exp(-t_T / 0.03))  # the pitch falls to 48 Hz
    return _sounded(np.sin(2 * np.pi * cycles_T), 0.001, 0.1)


def _snare(_: float, brightness: int) -> Wave:
    t_T = time_axis(0.25)
    rattle_T = noise(len(t_T), 700.0, 3500.0 + 2000.0 * brightness) * np.exp(-t_T / 0.06)
    drumhead_T = np.sin(2 * np.pi * 190.0 * t_T) * np.exp(-t_T / 0.04)
    return _sounded(rattle_T + 0.8 * drumhead_T, 0.001, 1.0)


def _hat(_: float, brightness: int) -> Wave:
    return _sounded(noise(int(0.09 * SAMPLE_RATE), 5000.0 + 1000.0 * brightness, 11_000.0), 0.001, 0.02)


def _shaker(_: float, brightness: int) -> Wave:
    return _sounded(noise(int(0.12 * SAMPLE_RATE), 2500.0, 4500.0 + 1000.0 * brightness), 0.03, 0.025)


class Voice(NamedTuple):
    """How a note sounds, how long it rings after its end, and its level in the mix before chance moves it."""

    render: Callable[[float, int], Wave]
    release_s: float
    level_db: float


VOICES = {
    "organ": Voice(_organ, 0.05, -9.0),
    "strings": Voice(_strings, 0.2, -9.0),
    "electric piano": Voice(_electric_piano, 0.12, -5.0),
    "guitar": Voice(_guitar, 0.2, -5.0),
    "bell": Voice(_bell, 0.6, -3.0),
    "flute": Voice(_flute, 0.08, -3.0),
    "synth lead": Voice(_synth_lead, 0.05, -5.0),
    "upright bass": Voice(_upright_bass, 0.1, -3.0),
    "synth bass": Voice(_synth_bass, 0.05, -4.0),
    "kick": Voice(_kick, 0.05, 0.0),
    "snare": Voice(_snare, 0.05, -3.0),
    "hat": Voice(_hat, 0.01, -10.0),
    "shaker": Voice(_shaker, 0.01, -9.0),
}
"""Pitched instruments, the drums' three voices, and the shaker."""


@lru_cache(maxsize=KEPT_NOTES)
def note_table(voice: str, pitch: int, brightness: int) -> Wave:
    """One note at full length, its first 150 ms at unit RMS; read-only, because it is shared."""
    table_T = VOICES[voice].render(440.0 * 2 ** ((pitch - 69) / 12), brightness)
    onset = table_T[: int(0.15 * SAMPLE_RATE)]
    table_T /= np.sqrt(np.mean(onset * onset))
    table_T.flags.writeable = False
    return table_T
