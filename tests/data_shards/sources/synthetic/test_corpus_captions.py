"""Captions of composed tracks: every word true, unless tags were made wrong on purpose."""

from dataclasses import replace

import pytest

from cluster.settings import UserError, load_config
from data_shards.sources.synthetic.captions import KINDS, tempo_word
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from data_shards.text.dictionary import load_dictionary
from data_shards.text.lexicon import Lexicon

PLAIN = SyntheticConfig(tracks=200, seconds=3.0, valid_share=0.25, test_share=0.25)


def test_captions_show_true_tags_the_first_all_of_them_and_the_others_some() -> None:
    clips = corpus(replace(PLAIN, captions=10, bands=20))
    columns = {name: sorted({tag for clip in clips for tag in clip.multilabel[name]}) for name in clips[0].multilabel}
    lexicon = Lexicon(load_dictionary("music"), columns)
    for clip in clips:
        mode = str(clip.categorical["key"]).split()[1]
        assert clip.multilabel["tempo"] == (tempo_word(clip.numeric["bpm"]),)
        assert clip.multilabel["mode"] == (mode,)
        tags = {tag for column in clip.multilabel.values() for tag in column}
        assert tags == {*clip.audio.traits.tags, tempo_word(clip.numeric["bpm"]), mode}  # type: ignore[attr-defined]
        assert len(clip.captions) == len(clip.caption_tags) == 11
        assert set(clip.caption_tags[0]) == tags
        for text, shown in zip(clip.captions, clip.caption_tags, strict=True):
            assert {lexicon.words[code].name for code in lexicon.says(text)} == set(shown)
        assert all(2 <= len(shown) < len(tags) and set(shown) < tags for shown in clip.caption_tags[1:])


def test_without_captions_a_corpus_is_what_it_was() -> None:
    plain, captioned = corpus(PLAIN), corpus(replace(PLAIN, captions=2))
    assert all(set(clip.multilabel) == {"tags"} and not clip.captions for clip in plain)
    assert [clip.multilabel["tags"] for clip in plain] == [clip.multilabel["tags"] for clip in captioned]
    assert [clip.audio for clip in plain] == [clip.audio for clip in captioned]


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_wrong_tags_are_of_the_same_kind_in_training_alone_and_as_many_as_asked(share: float) -> None:
    true, wrong = corpus(PLAIN), corpus(replace(PLAIN, wrong_tags=share))
    changed = total = 0
    for one, other in zip(true, wrong, strict=True):
        had, has = set(one.multilabel["tags"]), set(other.multilabel["tags"])
        if one.split != "train":
            assert had == has
            continue
        total += len(had)
        changed += len(had - has)
        for tag in has - had:
            assert any(tag in kind and had & set(kind) for kind in KINDS)
    # A tag stays where its kind has no other that the track lacks.
    assert 0.8 * share < changed / total < 1.1 * share


@pytest.mark.parametrize(("key", "value"), [("captions", -1), ("wrong_tags", 1.5), ("wrong_tags", -0.1)])
def test_a_value_out_of_range_is_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=key):
        load_config(SyntheticConfig, None, {key: value})
