"""Swaps: exactly one word, of its group, that the clip does not have; the text alone does not betray it."""

import re

import numpy as np
import pytest

from data_shards.format.index import ShardIndex
from data_shards.text.config import SwapConfig, TextViewsConfig
from data_shards.text.draws import Draws
from data_shards.text.lexicon import Lexicon, Span
from data_shards.text.swap_check import find_betrayal, swap_pairs, wilson
from data_shards.text.swaps import Swapper, replace_word
from data_shards.text.templates import Templates
from data_shards.text.text_views import TextViews


@pytest.fixture(scope="module")
def swapper(lexicon: Lexicon) -> Swapper:
    """Every word as likely as another."""
    return Swapper(lexicon, np.ones(len(lexicon)))


def test_a_swap_changes_one_span_to_a_word_of_its_group_that_the_clip_has_not(
    lexicon: Lexicon, swapper: Swapper
) -> None:
    templates = Templates(lexicon)
    swapped = 0
    for number in range(500):
        draws = Draws("clip", number)
        codes = draws.shuffled(range(len(lexicon)))[: 3 + draws.below(5)]
        text = templates.write(codes, draws)
        made = swapper.swap(text, codes, draws)
        if made is None:
            continue
        swapped += 1
        old, new = lexicon.words[made.old], lexicon.words[made.new]
        assert old.group == new.group
        assert made.new not in lexicon.may_hold(codes)
        assert made.old in codes
        assert set(lexicon.says(made.text)) == {*codes, made.new} - {made.old}
        span = next(span for span in lexicon.find(text) if span.code == made.old)
        before, after = text[: span.start], text[span.end :]
        assert made.text.endswith(after)
        start = made.text.removesuffix(after).lower().removesuffix(new.name.lower())
        assert re.sub(r"\ban? $", "", start) == re.sub(r"\ban? $", "", before.lower())
    assert swapped > 300


@pytest.mark.parametrize(
    ("text", "word", "name", "expected"),
    [
        ("An organ plays", "organ", "flute", "A flute plays"),
        ("with a flute.", "flute", "organ", "with an organ."),
        ("Calm and slow", "Calm", "energetic", "Energetic and slow"),
        ("ROCK SONG", "ROCK", "house", "HOUSE SONG"),
        ("A Flute", "Flute", "electric piano", "An Electric Piano"),
        ("the flute", "flute", "organ", "the organ"),
        ("banana calm", "calm", "dark", "banana dark"),
    ],
)
def test_case_and_article_follow(text: str, word: str, name: str, expected: str) -> None:
    start = text.index(word)
    assert replace_word(text, Span(start, start + len(word), 0, False, False), name) == expected


def test_a_plural_stays_a_plural() -> None:
    assert replace_word("two flutes", Span(4, 10, 0, True, False), "bell") == "two bells"


@pytest.mark.parametrize(
    "text", ["", "Nothing to be found here.", "no drums, without a flute", "calm and calm again", "A dreamy piece."]
)
def test_nothing_to_swap_gives_no_text(swapper: Swapper, text: str) -> None:
    assert all(swapper.swap(text, (), Draws(number)) is None for number in range(20))
    assert not swapper.can_swap(text, ()) or text.startswith("calm and calm")


def test_an_electric_guitar_is_swapped_whole(lexicon: Lexicon, swapper: Swapper) -> None:
    texts = {made.text for n in range(200) if (made := swapper.swap("an electric guitar", (), Draws(n)))}
    others = {lexicon.words[code].name for code in lexicon.group_of(lexicon.codes(["electric guitar"])[0])}
    assert len(texts) > 5
    assert {text.split(" ", 1)[1] for text in texts} <= others - {"electric guitar", "guitar"}


def test_a_word_that_no_clip_has_is_never_drawn(lexicon: Lexicon) -> None:
    weights = np.zeros(len(lexicon))
    weights[list(lexicon.codes(["flute", "bell"]))] = 1
    swapper = Swapper(lexicon, weights)
    texts = {made.text for n in range(200) if (made := swapper.swap("a flute", (), Draws(n)))}
    assert texts == {"a bell"}
    assert swapper.swap("a flute", lexicon.codes(["bell"]), Draws(0)) is None


def test_a_word_that_is_never_swapped_in_is_never_swapped_out(lexicon: Lexicon, swapper: Swapper) -> None:
    """A synonym, or a word that no clip is tagged with, would mark a text as not swapped."""
    assert all(swapper.swap("soothing bossa nova", (), Draws(number)) is None for number in range(20))
    weights = np.ones(len(lexicon))
    weights[list(lexicon.codes(["flute"]))] = 0
    assert all(Swapper(lexicon, weights).swap("a flute", (), Draws(number)) is None for number in range(20))
    assert not Swapper(lexicon, weights).can_swap("a flute", ())


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    "how",
    [
        {"views": "full", "p_cap": 1.0},
        {"views": "full", "captions": "templates", "p_cap": 1.0},
        {"captions": "templates", "p_cap": 1.0},
        {"p_cap": 0.0},
    ],
)
def test_a_text_alone_does_not_betray_its_swap(index: ShardIndex, how: dict[str, object]) -> None:
    config = TextViewsConfig(**how, swap=SwapConfig(ramp=0.0))  # type: ignore[arg-type]
    views = TextViews(config, (index, None), (index.rows("train"), None), seed=3, steps=1)
    pairs = swap_pairs(views)
    found = find_betrayal(pairs)
    assert len(pairs) > 0.8 * len(index)
    assert not found.is_betrayed, found


def test_a_naive_swap_is_found_by_the_check(index: ShardIndex, lexicon: Lexicon) -> None:
    """Every word as likely, always another one: rare words then stand for a swap."""
    views = TextViews(
        TextViewsConfig(views="full", p_cap=1.0), (index, None), (index.rows("train"), None), seed=3, steps=1
    )
    naive = Swapper(views.lexicon, np.ones(len(views.lexicon)))
    pairs = []
    for slot, row in enumerate(index.rows("train").tolist()):
        reading = views.read(0, slot, 0, row)
        made = naive.swap(reading.text.text, reading.holds, Draws(slot))
        pairs += [(reading.text.text, made.text)] if made else []
    found = find_betrayal(pairs)
    assert found.is_betrayed
    assert found.accuracy > 0.7


def test_the_check_needs_pairs_and_has_an_interval() -> None:
    with pytest.raises(ValueError, match="too few"):
        find_betrayal([("a", "b")] * 9)
    low, high = wilson(500, 1000)
    assert low < 0.5 < high
