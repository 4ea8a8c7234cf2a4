"""The truth of a synthetic track: key, tempo, instruments, groove and moods, drawn before a note is written.

Every trait is drawn independently of the others, so none of them predicts another.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
CHORD_INSTRUMENTS = ("organ", "strings", "electric piano", "guitar")
LEAD_INSTRUMENTS = ("bell", "flute", "synth lead")
BASS_INSTRUMENTS = ("upright bass", "synth bass")
PERCUSSION = ("drums", "shaker")
MOOD_AXES = (("calm", "energetic"), ("dark", "bright"), ("dreamy",), ("jazzy",), ("pulsing",))
"""Moods of one axis exclude each other; a track may also lie between them, with neither tag."""

SECOND_CHORD_INSTRUMENT = 0.35
BASSLESS = 0.2
PERCUSSION_SHARES = (0.65, 0.35)
MOOD_SHARE = 0.28
"""Probabilities of the traits."""


class Groove(NamedTuple):
    """One bar of each part, a character a step; ``.`` is a rest, the length of ``kick`` is the length of the bar."""

    kick: str
    snare: str
    hat: str
    bass: str
    """Chord tones: 1 root, 3 third, 5 fifth, 8 octave."""
    chords: str
    """``x`` the whole chord, a digit its n-th voice from below."""


GROOVES = {
    "house": Groove("x...x...x...x...", "....x.......x...", "..x...x...x...x.", "..1...1...1...8.", "x..x..x...x..x.."),
    "rock": Groove("x.....x.x.......", "....x.......x...", "x.x.x.x.x.x.x.x.", "1.1.1.1.1.1.1.5.", "x...x.x...x.x.x."),
    "waltz": Groove("x...........", "....x...x...", "....x...x...", "1.......5...", "....x...x..."),
    "bossa": Groove("x.....x.x.....x.", "x..x..x...x..x..", "x.x.x.x.x.x.x.x.", "1.....5.5.....1.", "x..x....x...x..."),
    "funk": Groove("x..x..x...x..x..", "....x..x.x..x...", "xxxxxxxxxxxxxxxx", "1..1..8...5.3..1", "..x...x..x....x."),
    "ballad": Groove(
        "x.........x.....", "........x.......", "x...x...x...x...", "1...........5...", "1.2.3.2.1.2.3.2."
    ),
}
MOODS = tuple(mood for axis in MOOD_AXES for mood in axis)
TAGS = (*CHORD_INSTRUMENTS, *LEAD_INSTRUMENTS, *BASS_INSTRUMENTS, *PERCUSSION, *GROOVES, *MOODS)
"""The vocabulary, in order: instruments, genre-like grooves, moods."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """The labels of a track; its sound follows from them and from chance."""

    tonic: int
    """Pitch class, 0 = C … 11 = B."""
    minor: bool
    bpm: float
    groove: str
    chords: tuple[str, ...]
    """The instrument that plays the chords in the groove, and perhaps a second that holds them."""
    lead: str
    bass: str | None
    percussion: tuple[str, ...]
    moods: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key as mir_eval writes it, e.g. ``Eb minor``."""
        return f"{TONICS[self.tonic]} {'minor' if self.minor else 'major'}"

    @property
    def tags(self) -> tuple[str, ...]:
        """Instruments, groove and moods, in the order of the vocabulary."""
        present = {*self.chords, self.lead, self.bass, *self.percussion, self.groove, *self.moods}
        return tuple(tag for tag in TAGS if tag in present)


def draw_traits(rng: np.random.Generator) -> Traits:
    """Draw the labels of one track: 24 keys and 60–180 bpm uniformly, each group of tags on its own."""
    players = rng.permutation(CHORD_INSTRUMENTS)[: 2 if rng.random() < SECOND_CHORD_INSTRUMENT else 1]
    moods: list[str] = []
    for axis in MOOD_AXES:
        place = int(rng.random() / MOOD_SHARE)
        moods += axis[place : place + 1]
    return Traits(
        tonic=int(rng.integers(12)),
        minor=bool(rng.integers(2)),
        bpm=round(float(rng.uniform(60.0, 180.0)), 2),
        groove=str(rng.choice(list(GROOVES))),
        chords=tuple(str(name) for name in players),
        lead=str(rng.choice(LEAD_INSTRUMENTS)),
        bass=str(rng.choice(BASS_INSTRUMENTS)) if rng.random() >= BASSLESS else None,
        percussion=tuple(
            name for name, share in zip(PERCUSSION, PERCUSSION_SHARES, strict=True) if rng.random() < share
        ),
        moods=tuple(moods),
    )
