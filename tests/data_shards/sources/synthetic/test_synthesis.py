"""Physics of the rendered sound: levels, pitch, key and tempo as an estimator finds them, every instrument audible."""

from typing import NamedTuple

import mir_eval
import numpy as np
import pytest
from numpy.typing import NDArray

from data_shards.format.records import SAMPLE_RATE
from data_shards.sources.synthetic.composition import Note, compose
from data_shards.sources.synthetic.synthesis import Mix, draw_mix, render
from data_shards.sources.synthetic.timbres import VOICES, Wave, note_table
from data_shards.sources.synthetic.traits import (
    BASS_INSTRUMENTS,
    CHORD_INSTRUMENTS,
    LEAD_INSTRUMENTS,
    PERCUSSION,
    TONICS,
    Traits,
    draw_traits,
)

PITCHED = (*CHORD_INSTRUMENTS, *LEAD_INSTRUMENTS, *BASS_INSTRUMENTS)
SECONDS = 12.0
# Weights of the degrees of a key, tonic first: the scale, with the triad and above all the tonic stressed.
MAJOR = np.array([1.5, 0, 1, 0, 1.2, 1, 0, 1.2, 0, 1, 0, 0.8])
MINOR = np.array([1.5, 0, 1, 1.2, 0, 1, 0, 1.2, 1, 0, 0.6, 0.6])


class Track(NamedTuple):
    traits: Traits
    notes: list[Note]
    mix: Mix
    wave_T: Wave


@pytest.fixture(scope="module")
def tracks() -> list[Track]:
    made = []
    for index in range(60):
        rng = np.random.default_rng([31, index])
        traits = draw_traits(rng)
        notes, mix = compose(traits, SECONDS, rng), draw_mix(traits, rng)
        made.append(Track(traits, notes, mix, render(notes, traits, mix, SECONDS)))
    return made


def magnitudes(wave_T: Wave, size: int, hop: int) -> NDArray[np.float64]:
    frames = np.lib.stride_tricks.sliding_window_view(wave_T, size)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(size)))


def estimate_key(wave_T: Wave) -> str:
    """The key whose template correlates best with the chroma of 60–1,500 Hz."""
    hz = np.fft.rfftfreq(8192, 1 / SAMPLE_RATE)
    inside = (hz > 60) & (hz < 1500)
    pitch_class = np.round(12 * np.log2(hz[inside] / 440) + 9).astype(int) % 12
    chroma = np.bincount(pitch_class, magnitudes(wave_T, 8192, 4096)[:, inside].sum(axis=0), minlength=12)
    scores = {
        f"{tonic} {mode}": np.corrcoef(chroma, np.roll(template, place))[0, 1]
        for place, tonic in enumerate(TONICS)
        for mode, template in (("major", MAJOR), ("minor", MINOR))
    }
    return max(scores, key=lambda key: scores[key])


def estimate_bpm(wave_T: Wave) -> float:
    """The beat whose multiples, and whose bars of three or four, carry most of the onsets' autocorrelation."""
    hop = 256
    rise = np.maximum(np.diff(np.log1p(100 * magnitudes(wave_T, 1024, hop)), axis=0), 0)
    total = np.zeros(len(rise))
    for low, high in ((0, 8), (8, 40), (40, 160), (160, 513)):
        onsets = rise[:, low:high].sum(axis=1)
        power = np.abs(np.fft.rfft(onsets - onsets.mean(), 2 * len(onsets))) ** 2
        correlation = np.fft.irfft(power)[: len(onsets)] / np.arange(len(onsets), 0, -1)
        total += correlation / correlation[0]
    bpm = np.geomspace(55, 200, 1300)
    lags = 60 * SAMPLE_RATE / hop / bpm
    combs = [(1, 1, 2, 4, 8, 12, 16), (1, 1, 2, 3, 6, 9, 12)]
    scores = [np.mean([np.interp(k * lags, np.arange(len(total)), total) for k in comb], axis=0) for comb in combs]
    return float(bpm[np.argmax(np.max(scores, axis=0))])


def test_levels_leave_headroom_and_no_silence(tracks: list[Track]) -> None:
    for track in tracks:
        assert np.isfinite(track.wave_T).all()
        assert 0.59 < np.abs(track.wave_T).max() < 0.96
        assert 0.05 < np.sqrt(np.mean(track.wave_T**2)) < 0.6
        half_seconds = track.wave_T[: 24 * (SAMPLE_RATE // 2)].reshape(24, -1)
        quietest = np.sqrt(np.mean(half_seconds**2, axis=1)).min()
        assert quietest > 0.01 * np.sqrt(np.mean(track.wave_T**2)), track.traits
        assert abs(track.wave_T.mean()) < 0.01


@pytest.mark.parametrize("voice", PITCHED)
@pytest.mark.parametrize("pitch", [40, 52, 69, 81])
def test_an_instrument_sounds_at_the_written_pitch(voice: str, pitch: int) -> None:
    """The strongest partial of a note lies within 10 cents of a harmonic of it (of the octave below for the organ)."""
    table_T = note_table(voice, pitch, 1)[:SAMPLE_RATE]
    hz = 440.0 * 2 ** ((pitch - 69) / 12)
    spectrum = np.abs(np.fft.rfft(table_T * np.hanning(len(table_T)), 8 * SAMPLE_RATE))
    strongest = np.argmax(spectrum) / 8
    harmonic = round(strongest / (hz / 2)) * hz / 2
    assert abs(1200 * np.log2(strongest / harmonic)) < 10
    assert strongest < 6.5 * hz


@pytest.mark.parametrize("voice", PITCHED)
def test_a_brighter_colour_has_more_treble(voice: str) -> None:
    def centroid(brightness: int) -> float:
        power = np.abs(np.fft.rfft(note_table(voice, 57, brightness)[: SAMPLE_RATE // 2])) ** 2
        return float(np.average(np.arange(len(power)), weights=power))

    assert centroid(0) < centroid(1) < centroid(2)


def test_note_tables_are_shared_and_cannot_be_written() -> None:
    for voice in VOICES:
        table_T = note_table(voice, 60, 0)
        assert table_T is note_table(voice, 60, 0)
        assert np.isfinite(table_T).all()
        with pytest.raises(ValueError, match="read-only"):
            table_T[0] = 1.0


def test_the_rendered_audio_has_the_key(tracks: list[Track]) -> None:
    """At least nine of ten estimates are the key, its fifth, relative or parallel; chance is five of 24."""
    scores = [mir_eval.key.weighted_score(track.traits.key, estimate_key(track.wave_T)) for track in tracks]
    assert np.mean(np.array(scores) > 0) >= 0.9
    assert np.mean(np.array(scores) == 1) >= 0.7


def test_the_rendered_audio_has_the_tempo(tracks: list[Track]) -> None:
    """At least nine of ten estimates are within 4 % of the tempo, its double or its half."""
    ratios = np.array([estimate_bpm(track.wave_T) / track.traits.bpm for track in tracks])
    hits = np.any(np.abs(ratios[:, None] / [1.0, 2.0, 0.5] - 1) < 0.04, axis=1)
    assert hits.mean() >= 0.9, [(track.traits.groove, ratio) for track, ratio in zip(tracks, ratios, strict=True)]


@pytest.mark.parametrize("part", [*PITCHED, *PERCUSSION])
def test_every_instrument_of_a_tag_is_audible(tracks: list[Track], part: str) -> None:
    """Without its notes, at the same mix, at least 2 % of the cells (third of an octave, 50 ms) lose over 3 dB."""
    chosen = [track for track in tracks if part in track.traits.tags]
    assert len(chosen) >= 10
    for track in chosen[:6]:
        rest = render([note for note in track.notes if note.part != part], track.traits, track.mix, SECONDS)
        lost_dB = third_octaves_dB(track.wave_T) - third_octaves_dB(rest)
        assert np.mean(lost_dB - np.median(lost_dB) > 3.0) > 0.02, track.traits


def third_octaves_dB(wave_T: Wave) -> NDArray[np.float64]:
    power = magnitudes(wave_T, 2048, 1024) ** 2
    hz = np.maximum(np.fft.rfftfreq(2048, 1 / SAMPLE_RATE), 1.0)
    bands = np.clip(3 * np.log2(hz / 100), 0, 19).astype(int)
    return np.asarray(10 * np.log10(power @ (bands[:, None] == np.arange(20)) + 1e-9))


def test_pulsing_swells_twice_a_beat() -> None:
    traits = Traits(
        tonic=0, minor=False, bpm=120.0, groove="ballad", chords=("strings",), lead="flute", bass=None,
        percussion=(), moods=("pulsing",),
    )  # fmt: skip
    notes = [Note("strings", "strings", float(start), 1.2, 60, 1.0) for start in range(8)]
    wave_T = render(notes, traits, draw_mix(traits, np.random.default_rng(0)), 8.0)
    envelope = np.abs(wave_T[: 8 * 22_000].reshape(-1, 100)).mean(axis=1)
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
    hz = np.fft.rfftfreq(len(envelope), 100 / SAMPLE_RATE)
    assert hz[1 + np.argmax(spectrum[1:])] == pytest.approx(4.0, abs=0.15)
