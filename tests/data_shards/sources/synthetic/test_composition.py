"""Laws of the written music: parts play iff tagged, chords are led, pitches belong to the key, grooves keep time."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from data_shards.sources.synthetic.composition import SCALES, Note, compose, lead_voices
from data_shards.sources.synthetic.traits import (
    BASS_INSTRUMENTS,
    CHORD_INSTRUMENTS,
    GROOVES,
    LEAD_INSTRUMENTS,
    PERCUSSION,
    Traits,
    draw_traits,
)

INSTRUMENTS = {*CHORD_INSTRUMENTS, *LEAD_INSTRUMENTS, *BASS_INSTRUMENTS, *PERCUSSION}
PLAIN = Traits(
    tonic=0, minor=False, bpm=120.0, groove="rock", chords=("organ",), lead="flute", bass="synth bass",
    percussion=("drums",), moods=(),
)  # fmt: skip


def pieces(count: int, seconds: float) -> list[tuple[Traits, list[Note]]]:
    return [
        (traits := draw_traits(rng), compose(traits, seconds, rng))
        for rng in (np.random.default_rng([21, index]) for index in range(count))
    ]


def test_a_part_plays_if_and_only_if_it_is_tagged() -> None:
    for traits, notes in pieces(100, 5.0):
        assert {note.part for note in notes} == INSTRUMENTS & set(traits.tags)


def test_no_part_falls_silent_for_more_than_two_bars() -> None:
    for traits, notes in pieces(40, 30.0):
        bar_s = len(GROOVES[traits.groove].kick) * 15.0 / traits.bpm
        starts = defaultdict(list)
        for note in notes:
            starts[note.part].append(note.start_s)
        for part, onsets in starts.items():
            assert np.max(np.diff([0.0, *sorted(onsets), 30.0])) <= 2 * bar_s, part


def test_every_pitch_belongs_to_the_key() -> None:
    for traits, notes in pieces(60, 20.0):
        allowed = {(traits.tonic + degree) % 12 for degree in (*SCALES[traits.minor], 11)}
        assert {note.pitch % 12 for note in notes if note.part not in PERCUSSION} <= allowed


def test_the_tonic_is_the_commonest_bass_note_of_the_corpus() -> None:
    degrees = Counter(
        (note.pitch - traits.tonic) % 12
        for traits, notes in pieces(100, 20.0)
        for note in notes
        if note.part == traits.bass
    )
    assert degrees.most_common(1)[0][0] == 0


def test_voices_move_less_than_chords_in_root_position() -> None:
    progression = [(0, 4, 7), (7, 11, 2), (9, 0, 4), (5, 9, 0), (2, 5, 9), (7, 11, 2), (0, 4, 7)]
    voices = [lead_voices(progression[0], None, 60)]
    for classes in progression[1:]:
        voices.append(lead_voices(classes, voices[-1], 60))
    for chord, classes in zip(voices, progression, strict=True):
        assert sorted(pitch % 12 for pitch in chord) == sorted(classes)
        assert chord[-1] - chord[0] < 12
    assert np.abs(np.diff(voices, axis=0)).max() <= 4
    assert abs(np.mean(voices) - 60) < 6


def test_the_bass_lies_below_the_chords() -> None:
    for traits, notes in pieces(60, 15.0):
        bass = [note.pitch for note in notes if note.part == traits.bass]
        chords = [note.pitch for note in notes if note.part in traits.chords]
        if bass:
            assert np.mean(bass) < np.mean(chords) - 5


@pytest.mark.parametrize("groove", GROOVES)
def test_the_kick_falls_where_the_groove_says(groove: str) -> None:
    notes = compose(replace(PLAIN, groove=groove), 16.0, np.random.default_rng(1))
    pattern = GROOVES[groove].kick
    steps = [note.start_s * PLAIN.bpm / 15.0 for note in notes if note.voice == "kick"]
    assert np.abs(steps - np.round(steps)).max() < 0.2
    assert {round(step) % len(pattern) for step in steps} == {i for i, mark in enumerate(pattern) if mark == "x"}


@pytest.mark.parametrize("groove", GROOVES.values(), ids=list(GROOVES))
def test_all_parts_of_a_groove_fill_the_same_bar(groove: tuple[str, ...]) -> None:
    assert len({len(pattern) for pattern in groove}) == 1


def test_moods_change_what_is_written() -> None:
    def piece(*moods: str) -> list[Note]:
        return compose(replace(PLAIN, moods=moods), 30.0, np.random.default_rng(2))

    def lead(notes: list[Note]) -> list[Note]:
        return [note for note in notes if note.part == "flute"]

    def size(notes: list[Note]) -> int:
        return max(Counter(round(note.start_s, 1) for note in notes if note.part == "organ").values())

    assert len(lead(piece("calm"))) < 0.8 * len(lead(piece())) < 0.8 * len(lead(piece("energetic")))
    assert (
        np.mean([note.pitch for note in lead(piece("dark"))])
        < np.mean([note.pitch for note in lead(piece("bright"))]) - 8
    )
    assert (size(piece()), size(piece("jazzy"))) == (3, 4)
