"""Words in sentences: the longest match, plural, negation, synonyms, categories."""

from pathlib import Path

import pytest

from cluster.settings import UserError
from data_shards.text.dictionary import load_dictionary
from data_shards.text.draws import Draws
from data_shards.text.lexicon import Lexicon
from data_shards.text.templates import Templates


def names(lexicon: Lexicon, text: str) -> list[str]:
    return [lexicon.words[code].name for code in lexicon.says(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("an electric guitar", ["electric guitar"]),
        ("Electric-Guitar solo, and a guitar", ["electric guitar", "guitar"]),
        ("electric, guitar", ["guitar"]),
        ("three FLUTES and a synth bass", ["flute", "synth bass"]),
        ("hip-hop with 808 drums", ["hip hop", "drums"]),
        ("guitarist of a rocky song", []),
        ("bossa nova on the double bass", ["bossa", "upright bass"]),
        ("slow 🎸 音楽 drums", ["slow", "drums"]),
        ("", []),
    ],
)
def test_the_longest_word_at_each_place_is_found(lexicon: Lexicon, text: str, found: list[str]) -> None:
    assert names(lexicon, text) == found


def test_what_a_text_denies_it_does_not_say(lexicon: Lexicon) -> None:
    assert names(lexicon, "a calm piece without drums, no electric guitar; not dark, rock") == ["calm", "rock"]


def test_columns_that_the_dictionary_names_are_categories_and_other_tags_are_looked_up(lexicon: Lexicon) -> None:
    category = {word.name: word.category for word in lexicon.words}
    assert category["calm"] == "mood"
    assert category["organ"] == "instrument"
    assert category["slow"] == "tempo"
    assert category["minor"] == "key"
    assert category["80s"] == "era"


def test_tags_of_other_alphabets_and_signs_are_words() -> None:
    lexicon = Lexicon(load_dictionary("music"), {"tags": ("ギター", "спокойная", "🎸", "r&b", "drum & bass")})
    assert names(lexicon, "ギター, спокойная 🎸 R&B; drum and bass? drum-bass") == [
        "ギター",
        "спокойная",
        "🎸",
        "r&b",
        "drum & bass",
    ]


def test_synonyms_and_exclusions_may_hold_together(lexicon: Lexicon) -> None:
    together = {lexicon.words[code].name for code in lexicon.may_hold(lexicon.codes(["guitar"]))}
    assert together == {"guitar", "acoustic guitar", "electric guitar"}
    own = Lexicon(load_dictionary("music"), {"tags": ("drum kit", "drums")})
    assert own.codes(["drum kit"])[0] in own.may_hold(own.codes(["drums"]))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("title: x\ncategories: {mood: {groups: {a: [calm, calm]}}}", "calm"),
        ("title: x\ncategories: {mood: {groups: {a: [calm]}, synonyms: {dark: [black]}}}", "dark"),
        ("title: x\ncategories: {mood: {groups: {a: ['!']}}}", "no letter"),
        ("title: x\ncategories: {mood: {form: verb, groups: {}}}", "form"),
        ("title: x\nwords: {}", "words"),
    ],
)
def test_a_dictionary_that_contradicts_itself_is_refused_by_key(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError, match=what):
        load_dictionary(str(tmp_path / "own.yaml"))


def test_a_dictionary_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UserError, match=r"musik.*music"):
        load_dictionary("musik")


def test_punctuation_inside_a_tag_does_not_keep_it_out_of_texts() -> None:
    lexicon = Lexicon(
        load_dictionary("music"), {"tags": ("clarinet. percussion", "unnerving", "soundtrack", "a; b", "a")}
    )
    templates, codes = Templates(lexicon), tuple(range(5))
    assert templates.tags(templates.join(codes)) == codes
    for number in range(20):
        text = templates.write(codes[:3], Draws("punctuation", number))
        assert sorted(templates.tags(text)) == [0, 1, 2]
    assert lexicon.code("clarinet. percussion") == 0
