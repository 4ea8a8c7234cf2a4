"""A piece of music as a list of notes: chords, bass, melody and percussion for the traits of a track.

Composition counts time in steps of a sixteenth (a quarter of a beat); pitches are MIDI numbers, 60 is middle C.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data_shards.sources.synthetic.traits import GROOVES, Groove, Traits

SCALES = {False: (0, 2, 4, 5, 7, 9, 11), True: (0, 2, 3, 5, 7, 8, 10)}
LEADING_TONE = 11
PROGRESSIONS = {
    False: ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4), (0, 3, 4, 0), (0, 5, 1, 4)),
    True: ((0, 5, 3, 4), (0, 3, 4, 0), (0, 5, 2, 4), (0, 3, 0, 4), (0, 6, 5, 4)),
}
"""Semitones above the tonic, and roots of four bars as scale degrees counted from 0; both by ``minor``."""

METRE = (1.0, 0.85, 0.65, 0.5)
"""Loudness of the bar's first beat, of its other beats, of eighths and of sixteenths between them."""
CHORD_CENTRE, LEAD_CENTRE, LOWEST_BASS = 58, 72, 28


class Note(NamedTuple):
    """One sound: a pitched note, or a stroke of a percussion voice (pitch 0)."""

    part: str
    """The tag it belongs to, e.g. ``drums``."""
    voice: str
    """The sound that the synthesiser makes, e.g. ``snare``; for pitched instruments the same word."""
    start_s: float
    length_s: float
    pitch: int
    velocity: float


class Chord(NamedTuple):
    """A bar's harmony as degrees of the scale in force, root first; degree 7 is the tonic an octave up."""

    degrees: tuple[int, ...]
    scale: tuple[int, ...]

    def semitones(self, degree: int) -> int:
        """Distance of a scale degree, negative ones too, from the tonic."""
        return self.scale[degree % 7] + 12 * (degree // 7)


class Sheet(NamedTuple):
    """What every part reads from: traits, a chord a bar, and chance."""

    traits: Traits
    harmony: list[Chord]
    register: int
    """Semitones by which chords and melody lie above their usual centres."""
    rng: np.random.Generator

    @property
    def groove(self) -> Groove:
        """The rhythm of all parts."""
        return GROOVES[self.traits.groove]

    @property
    def articulation(self) -> float:
        """Sounding share of a note's written length."""
        return 0.55 if "energetic" in self.traits.moods else 1.0 if "calm" in self.traits.moods else 0.85

    def note(
        self, voice: str, step: int, length: float, *, pitch: int = 0, accent: float = 1.0, part: str = ""
    ) -> Note:
        """Place a note on the grid as a hand would: a few milliseconds off, stressed by its place in the bar."""
        step_s = 15.0 / self.traits.bpm
        late_s, touch = self.rng.normal(0.0, 0.004), self.rng.uniform(0.8, 1.0)
        stress = METRE[0 if step % len(self.groove.kick) == 0 else 1 if step % 4 == 0 else 2 if step % 2 == 0 else 3]
        return Note(
            part or voice, voice, max(0.0, step * step_s + late_s), length * step_s, pitch, accent * touch * stress
        )


def compose(traits: Traits, seconds: float, rng: np.random.Generator) -> list[Note]:
    """Write all parts of a track of so many seconds; its last notes may ring beyond its end. ``rng`` decides
    progressions, melody and accents; no trait is drawn from it.
    """
    bar_s = len(GROOVES[traits.groove].kick) * 15.0 / traits.bpm
    shade = ("bright" in traits.moods) - ("dark" in traits.moods)
    register = 7 * shade + int(rng.integers(-4, 5))
    sheet = Sheet(traits, draw_harmony(traits, int(np.ceil(seconds / bar_s)), rng), register, rng)
    notes = [*_melody(sheet), *_percussion(sheet), *_bass(sheet)]
    for place, instrument in enumerate(traits.chords):
        notes += _chords(sheet, instrument, held=place == 1)
    return [note for note in notes if note.start_s < seconds]


def draw_harmony(traits: Traits, bars: int, rng: np.random.Generator) -> list[Chord]:
    """A chord a bar: two progressions of four bars in the form A A B A; sevenths when jazzy.

    The dominant of a minor key takes the leading tone, without which minor resembles its relative major.
    """
    form = [PROGRESSIONS[traits.minor][i] for i in rng.permutation(len(PROGRESSIONS[traits.minor]))[:2]]
    scale = SCALES[traits.minor]
    size = 4 if "jazzy" in traits.moods else 3
    harmony = []
    for bar in range(bars):
        root = form[(bar // 4) % 4 == 2][bar % 4]
        harmony.append(
            Chord(tuple(root + 2 * k for k in range(size)), (*scale[:6], LEADING_TONE) if root == 4 else scale)
        )
    return harmony


def lead_voices(classes: tuple[int, ...], previous: tuple[int, ...] | None, centre: int) -> tuple[int, ...]:
    """The close position of a chord whose voices move least from the previous one, without leaving the register.

    >>> lead_voices((7, 11, 2), (60, 64, 67), 64)  # C to G keeps the common tone
    (59, 62, 67)
    """

    def cost(pitches: tuple[int, ...]) -> float:
        drift = abs(sum(pitches) / len(pitches) - centre)
        return (
            drift if previous is None else sum(abs(p - q) for p, q in zip(pitches, previous, strict=True)) + drift / 3
        )

    return min(
        (p for octave in range(-2, 2) for p in _inversions(classes, centre - centre % 12 + 12 * octave)), key=cost
    )


def _inversions(classes: tuple[int, ...], octave: int) -> Iterator[tuple[int, ...]]:
    for turn in range(len(classes)):
        pitches = [octave + classes[turn]]
        for pitch_class in classes[turn + 1 :] + classes[:turn]:
            pitches.append(pitches[-1] + (pitch_class - pitches[-1]) % 12)
        yield tuple(pitches)


def _chords(sheet: Sheet, instrument: str, *, held: bool) -> Iterator[Note]:
    """Voice-led chords: in the groove's pattern, or held for the bar by the second instrument."""
    steps = len(sheet.groove.kick)
    pattern = "x" if held else sheet.groove.chords
    onsets = [step for step, mark in enumerate(pattern) if mark != "."]
    voices = None
    for bar, chord in enumerate(sheet.harmony):
        classes = tuple((sheet.traits.tonic + chord.semitones(degree)) % 12 for degree in chord.degrees)
        voices = lead_voices(classes, voices, CHORD_CENTRE + sheet.register)
        for step, following in pairwise([*onsets, steps + onsets[0]]):
            chosen = voices if pattern[step] == "x" else (voices[int(pattern[step]) - 1],)
            length = (following - step) * sheet.articulation
            for pitch in chosen:
                yield sheet.note(instrument, bar * steps + step, length, pitch=pitch, accent=0.8 if held else 1.0)


def _bass(sheet: Sheet) -> Iterator[Note]:
    """Chord tones in the groove's rhythm."""
    if sheet.traits.bass is None:
        return
    steps = len(sheet.groove.bass)
    lowest = LOWEST_BASS + (5 if sheet.rng.random() < 0.3 else 0)
    onsets = [step for step, mark in enumerate(sheet.groove.bass) if mark != "."]
    for bar, chord in enumerate(sheet.harmony):
        root, third, fifth = (chord.semitones(degree) for degree in chord.degrees[:3])
        above_root = {"1": 0, "3": third - root, "5": fifth - root, "8": 12}
        bottom = lowest + (sheet.traits.tonic + root - lowest) % 12
        for step, following in pairwise([*onsets, steps + onsets[0]]):
            pitch = bottom + above_root[sheet.groove.bass[step]]
            yield sheet.note(
                sheet.traits.bass, bar * steps + step, (following - step) * sheet.articulation, pitch=pitch
            )


def _melody(sheet: Sheet) -> Iterator[Note]:
    """Two-bar motifs in the form A A B A, walking the scale, on chord tones at the beats, with a breath at the end."""
    steps = 2 * len(sheet.groove.kick)
    motifs = [_motif(sheet, steps) for _ in range(2)]
    centre = LEAD_CENTRE + sheet.register
    tonic = centre + (sheet.traits.tonic - centre + 6) % 12 - 6
    place = 0
    for phrase in range((len(sheet.harmony) + 1) // 2):
        for step, length, move in motifs[phrase % 4 == 2]:
            bar = 2 * phrase + 2 * step // steps
            if bar >= len(sheet.harmony):
                return
            chord = sheet.harmony[bar]
            place = int(np.clip(place + move, -4, 8))
            if step % 4 == 0:
                place = min(
                    range(-5, 10), key=lambda k: abs(k - place) if (k - chord.degrees[0]) % 7 in (0, 2, 4) else 99
                )
            pitch = tonic + chord.semitones(place)
            yield sheet.note(sheet.traits.lead, phrase * steps + step, length * sheet.articulation, pitch=pitch)


def _motif(sheet: Sheet, steps: int) -> list[tuple[int, int, int]]:
    """Onset, length and move in scale degrees of a phrase's notes; dense when energetic, sparse when calm."""
    rng = sheet.rng
    density = 0.75 if "energetic" in sheet.traits.moods else 0.25 if "calm" in sheet.traits.moods else 0.5
    end = steps - 4
    onsets = [step for step in range(2, end, 2) if rng.random() < density * (1.2 if step % 4 == 0 else 0.8)]
    moves = rng.choice((-2, -1, -1, 1, 1, 2, 3), size=len(onsets) + 1)
    return [
        (step, min(following - step, 8), int(move))
        for (step, following), move in zip(pairwise([0, *onsets, end]), moves, strict=True)
    ]


def _percussion(sheet: Sheet) -> Iterator[Note]:
    """The kit's groove with a snare fill every fourth bar, and a shaker in sixteenths."""
    groove, steps = sheet.groove, len(sheet.groove.kick)
    hat = "x" * steps if "energetic" in sheet.traits.moods else groove.hat
    for bar in range(len(sheet.harmony)):
        snare = groove.snare[:-4] + "xxxx" if bar % 4 == 3 else groove.snare
        for step in range(steps):
            at = bar * steps + step
            if "drums" in sheet.traits.percussion:
                for voice, pattern in (("kick", groove.kick), ("snare", snare), ("hat", hat)):
                    if pattern[step] == "x":
                        yield sheet.note(voice, at, 4, part="drums")
            if "shaker" in sheet.traits.percussion:
                yield sheet.note("shaker", at, 2, accent=0.6 if step % 2 else 1.0)
