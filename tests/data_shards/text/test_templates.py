"""Sentences from tags: they read back as their tags, with the right articles."""

import random

import pytest

from data_shards.text.dictionary import load_dictionary
from data_shards.text.draws import Draws
from data_shards.text.lexicon import Lexicon
from data_shards.text.templates import Templates, article, listed


def test_every_sentence_shows_exactly_its_tags(lexicon: Lexicon) -> None:
    templates = Templates(lexicon)
    rng = random.Random(0)
    for number in range(1000):
        codes = rng.sample(range(len(lexicon)), rng.randint(1, 9))
        assert set(templates.tags(templates.write(codes, Draws(number)))) == set(codes)
        assert set(templates.tags(templates.join(codes))) == set(codes)


def test_tags_that_hold_or_join_to_other_tags_read_back_too() -> None:
    tags = ("slow", "slow rock", "rock", "piece", "music", "track", "a track", "electric", "electric guitar", "guitar")
    lexicon = Lexicon(load_dictionary("music"), {"tags": tags})
    templates = Templates(lexicon)
    rng = random.Random(1)
    for number in range(500):
        codes = lexicon.codes(rng.sample(tags, rng.randint(1, len(tags))))
        assert set(templates.tags(templates.write(codes, Draws(number)))) == set(codes)


def test_the_same_draws_write_the_same_sentence_and_others_another(lexicon: Lexicon) -> None:
    templates = Templates(lexicon)
    codes = lexicon.codes(["calm", "rock", "flute", "drums", "minor"])
    texts = {templates.write(codes, Draws(number)) for number in range(200)}
    assert templates.write(codes, Draws(7)) == templates.write(codes, Draws(7))
    assert len(texts) > 25


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("organ", "an"),
        ("flute", "a"),
        ("ukulele", "a"),
        ("8-bit", "an"),
        ("MIDI", "a"),
        ("R&B", "an"),
        ("uplifting", "an"),
    ],
)
def test_the_article_follows_the_sound(word: str, expected: str) -> None:
    assert article(word) == expected


def test_plural_and_mass_nouns_have_no_article(lexicon: Lexicon) -> None:
    templates = Templates(lexicon)
    codes = lexicon.codes(["drums", "organ", "percussion", "flute"])
    for number in range(100):
        text = templates.write(codes, Draws(number)).lower()
        assert "a drums" not in text
        assert "a percussion" not in text
        assert "a organ" not in text
        assert "an flute" not in text


def test_no_tags_are_refused(lexicon: Lexicon) -> None:
    with pytest.raises(ValueError, match="at least one tag"):
        Templates(lexicon).write([], Draws(0))
    assert listed(["a", "b"]) == "a and b"
