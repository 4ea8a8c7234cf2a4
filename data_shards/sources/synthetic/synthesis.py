"""One track's sound from its notes: two buses, room, spectral slope, saturation, level. NumPy alone.

Shape suffixes: T samples, F frequency bins.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_shards.format.records import SAMPLE_RATE
from data_shards.sources.synthetic.composition import Note
from data_shards.sources.synthetic.timbres import VOICES, Wave, noise, note_table, time_axis
from data_shards.sources.synthetic.traits import PERCUSSION, TAGS, Traits

ROOMS_S = (0.4, 0.9)
HALL_S = 2.4
"""Length of the tail of a small room, a studio, and the hall of dreamy tracks."""
FADE = SAMPLE_RATE // 100


class Mix(NamedTuple):
    """The desk's settings of one track."""

    level_db: dict[str, float]
    """By part."""
    brightness: dict[str, int]
    """Which of an instrument's three colours, by part."""
    room_s: float
    wet: float
    """Amplitude of the reverberation, linear."""
    tilt_db: float
    """Slope of the pitched parts' spectrum around 1 kHz, dB an octave."""
    drive: float
    """Gain into the saturation."""
    hiss_db: float
    """Background relative to the music's RMS."""
    peak: float


def draw_mix(traits: Traits, rng: np.random.Generator) -> Mix:
    """Set levels, colours, room and slope by chance within what the moods ask for.

    Neighbouring moods overlap in every range, so that no single number of a mix gives a tag away. As many numbers are
    drawn for every track, whichever parts play.
    """
    moods = set(traits.moods)
    energy = ("energetic" in moods) - ("calm" in moods)
    shade = ("bright" in moods) - ("dark" in moods)
    level_db = rng.uniform(-3.0, 3.0, len(TAGS)) + [2.0 * energy * (tag in PERCUSSION) for tag in TAGS]
    colour = np.clip(rng.integers(0, 3, len(TAGS)) + [shade if tag in PERCUSSION else energy for tag in TAGS], 0, 2)
    room, wet, tilt_db, drive, hiss_db, peak = rng.random(6).tolist()
    dreamy = "dreamy" in moods
    return Mix(
        level_db=dict(zip(TAGS, level_db.tolist(), strict=True)),
        brightness=dict(zip(TAGS, colour.tolist(), strict=True)),
        room_s=HALL_S if dreamy else ROOMS_S[room < 0.5],
        wet=0.35 + 0.4 * wet if dreamy else 0.05 + 0.3 * wet,
        tilt_db=-2.0 + 3.0 * tilt_db + 1.0 * shade,
        drive=0.1 + 0.4 * drive + 0.3 * max(0, energy),
        hiss_db=-60.0 + 25.0 * hiss_db,
        peak=0.6 + 0.35 * peak,
    )


def render(notes: Iterable[Note], traits: Traits, mix: Mix, seconds: float) -> Wave:
    """The sound of a track, (T,) float32 at ``SAMPLE_RATE``: T = round(seconds · rate), peak at ``mix.peak``."""
    length = round(seconds * SAMPLE_RATE)
    pitched_T, struck_T = np.zeros(length, dtype=np.float32), np.zeros(length, dtype=np.float32)
    for note in notes:
        _add(struck_T if note.part in PERCUSSION else pitched_T, note, mix)
    if "pulsing" in traits.moods:
        pitched_T *= _pulse(traits.bpm, length)
    wave_T = _in_room(pitched_T, mix) + struck_T
    wave_T = np.tanh(wave_T * np.float32(mix.drive / np.sqrt(np.mean(wave_T * wave_T))))
    hiss_rms = np.sqrt(np.mean(wave_T * wave_T)) * 10 ** (mix.hiss_db / 20)
    wave_T += np.resize(_hiss() * np.float32(hiss_rms), length)
    wave_T[:FADE] *= _ramp(FADE)[::-1]
    wave_T[-FADE:] *= _ramp(FADE)
    return np.asarray(wave_T * (mix.peak / np.max(np.abs(wave_T))), dtype=np.float32)


def _add(bus_T: Wave, note: Note, mix: Mix) -> None:
    """Play a note: its table, cut where the note and its release end."""
    voice = VOICES[note.voice]
    table_T = note_table(note.voice, note.pitch, mix.brightness[note.part])
    start, release = int(note.start_s * SAMPLE_RATE), int(voice.release_s * SAMPLE_RATE)
    end = min(len(table_T), int(note.length_s * SAMPLE_RATE) + release, len(bus_T) - start)
    gain = note.velocity * 10 ** ((voice.level_db + mix.level_db[note.part]) / 20)
    sound_T = table_T[:end] * np.float32(gain)
    sound_T[-release:] *= _ramp(release)[-end:]
    bus_T[start : start + end] += sound_T


def _pulse(bpm: float, length: int) -> Wave:
    """Two swells a beat, 20 dB deep."""
    half_beat = round(30.0 / bpm * SAMPLE_RATE)
    swell_T = 0.55 - 0.45 * np.cos(2 * np.pi * np.arange(half_beat, dtype=np.float32) / np.float32(half_beat))
    return np.asarray(np.resize(swell_T, length), dtype=np.float32)


def _in_room(wave_T: Wave, mix: Mix) -> Wave:
    """Room and spectral slope in one product of spectra, padded so that the tail does not wrap."""
    size = _fast_size(len(wave_T) + int((mix.room_s + 0.1) * SAMPLE_RATE))
    slope_F = np.exp(_octaves(size) * np.float32(mix.tilt_db * np.log(10) / 20))
    spectrum_F = np.fft.rfft(wave_T, size)
    spectrum_F *= slope_F * (1.0 + np.float32(mix.wet) * _room(mix.room_s, size))
    return np.asarray(np.fft.irfft(spectrum_F, size)[: len(wave_T)], dtype=np.float32)


@lru_cache(maxsize=6)
def _room(tail_s: float, size: int) -> NDArray[np.complex64]:
    """Spectrum of a reverberation of unit energy: noise that decays by 52 dB, after 12 ms."""
    t_T = time_axis(tail_s)
    tail_T = noise(len(t_T), 200.0, 5000.0) * np.exp(t_T * np.float32(-6.0 / tail_s))
    delayed_T = np.concatenate([np.zeros(int(0.012 * SAMPLE_RATE), dtype=np.float32), tail_T])
    return np.asarray(np.fft.rfft(delayed_T / np.sqrt(np.sum(delayed_T**2)), size), dtype=np.complex64)


@lru_cache(maxsize=6)
def _octaves(size: int) -> Wave:
    """Distance of each frequency bin from 1 kHz, held below 60 Hz."""
    hz_F = np.fft.rfftfreq(size, 1 / SAMPLE_RATE).astype(np.float32)
    return np.asarray(np.log2(np.maximum(hz_F, 60.0) / 1000.0), dtype=np.float32)


@lru_cache(maxsize=1)
def _hiss() -> Wave:
    """Three seconds of white noise at unit RMS."""
    return np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE, dtype=np.float32)


@lru_cache(maxsize=32)
def _ramp(length: int) -> Wave:
    """A fade from 1 to 0."""
    return np.linspace(1.0, 0.0, length, dtype=np.float32)


def _fast_size(length: int) -> int:
    """The next length of small factors, where the transform is several times faster.

    >>> _fast_size(1000)
    1024
    """
    return min(odd << max(0, int(np.ceil(np.log2(length / odd)))) for odd in (1, 3, 5, 9, 15))
