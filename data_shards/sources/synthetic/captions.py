"""Captions of synthetic tracks, written from their tags, and tags that are wrong on purpose."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from data_shards.format.records import Clip
from data_shards.sources.synthetic.traits import (
    BASS_INSTRUMENTS,
    CHORD_INSTRUMENTS,
    GROOVES,
    LEAD_INSTRUMENTS,
    MOODS,
    PERCUSSION,
    TAGS,
)
from data_shards.text.dictionary import load_dictionary
from data_shards.text.draws import Draws
from data_shards.text.lexicon import Lexicon, partial_tags
from data_shards.text.templates import Templates

TEMPOS = ("slow", "mid-tempo", "fast")
MODES = ("major", "minor")
SLOW_BPM, FAST_BPM = 90.0, 130.0
KINDS: tuple[tuple[str, ...], ...] = (
    CHORD_INSTRUMENTS,
    LEAD_INSTRUMENTS,
    BASS_INSTRUMENTS,
    PERCUSSION,
    tuple(GROOVES),
    MOODS,
    TEMPOS,
    MODES,
)
"""Tags that a wrong one is drawn from: those of the right one's kind."""
LEAST_TAGS = 2
"""Tags of a partial caption at least."""


def tempo_word(bpm: float) -> str:
    """The tempo in a word: slow below 90 beats a minute, fast above 130.

    >>> tempo_word(72.0), tempo_word(120.0), tempo_word(160.0)
    ('slow', 'mid-tempo', 'fast')
    """
    return TEMPOS[0] if bpm < SLOW_BPM else TEMPOS[2] if bpm > FAST_BPM else TEMPOS[1]


def with_words(clip: Clip) -> Clip:
    """A clip with the columns ``tempo`` and ``mode`` beside its tags: its bpm and key as words."""
    mode = str(clip.categorical["key"]).split()[1]
    words = {"tempo": (tempo_word(clip.numeric["bpm"]),), "mode": (mode,)}
    return replace(clip, multilabel={**clip.multilabel, **words})


def with_wrong_tags(clip: Clip, share: float, *, seed: int) -> Clip:
    """A clip in which each tag is replaced with probability `share` by another of its kind that it does not have."""
    draws = Draws("wrong tags", seed, clip.key)
    true = {tag for tags in clip.multilabel.values() for tag in tags}

    def drawn(tag: str) -> str:
        others = [other for kind in KINDS if tag in kind for other in kind if other not in true]
        is_wrong = draws.uniform() < share
        return draws.choice(others) if is_wrong and others else tag

    return replace(
        clip, multilabel={column: tuple(dict.fromkeys(map(drawn, tags))) for column, tags in clip.multilabel.items()}
    )


def with_captions(clips: Iterable[Clip], count: int, *, seed: int) -> list[Clip]:
    """Clips with a caption of all their tags, and `count` captions of balanced parts of them, each with its tags."""
    columns: dict[str, Sequence[str]] = {"tags": TAGS, "tempo": TEMPOS, "mode": MODES}
    lexicon = Lexicon(load_dictionary("music"), columns)
    templates = Templates(lexicon)
    described = []
    for clip in clips:
        codes = lexicon.codes(tag for tags in clip.multilabel.values() for tag in tags)
        parts = [codes]
        for number in range(count):
            draws = Draws("part", seed, clip.key, number)
            parts.append(partial_tags(lexicon, codes, draws, least=LEAST_TAGS, balanced=True))
        texts = [templates.write(part, Draws("caption", seed, clip.key, number)) for number, part in enumerate(parts)]
        shown = tuple(tuple(lexicon.words[code].name for code in part) for part in parts)
        described.append(replace(clip, captions=tuple(texts), caption_tags=shown))
    return described
