"""Texts that a set cannot give are refused before a run starts, each with its remedy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.records import Clip
from data_shards.read.loader import BatchLoader
from data_shards.sampling.config import DataConfig
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from data_shards.text.config import PartialConfig, SwapConfig, TextViewsConfig

NONE = SwapConfig(each=0)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return corpus(SyntheticConfig(tracks=12, seconds=3.0, valid_share=0.0, test_share=0.0, captions=4))


def load(folder: Path, clips: list[Clip], *, b_s: float = 1.0, **how: Any) -> set[str]:
    """The texts of two batches, none of them empty."""
    shards = folder / "shards"
    build(clips, shards, BuildConfig(workers=1, rate=4_000))
    data = DataConfig(labelled=str(shards) if b_s else None, unlabelled=None if b_s else str(shards), b_s=b_s, batch=4)
    found: set[str] = set()
    with BatchLoader(data, frames=2_000, seed=0, text=TextViewsConfig(**how)) as loader:
        for batch in loader.batches(0, 2):
            assert batch.texts is not None
            assert all(batch.texts.text)
            found |= set(batch.texts.text)
    return found


def test_captions_are_asked_for_and_there_are_none(tmp_path: Path, clips: list[Clip]) -> None:
    bare = [replace(clip, captions=(), caption_tags=()) for clip in clips]
    with pytest.raises(UserError, match=r"text\.p_cap=0\.5 draws captions.*text\.captions=templates.*text\.p_cap=0"):
        load(tmp_path, bare)
    load(tmp_path / "a", bare, p_cap=0.0)
    load(tmp_path / "b", bare, captions="templates")


def test_fewer_partial_captions_than_views_are_refused_with_their_number(tmp_path: Path, clips: list[Clip]) -> None:
    with pytest.raises(UserError, match=r"partial\.each=10 captions.*has 4; set text\.partial\.each=4"):
        load(tmp_path, clips)
    load(tmp_path, clips, partial=PartialConfig(each=4))


def test_captions_whose_tags_are_not_known_are_no_partial_ones(tmp_path: Path, clips: list[Clip]) -> None:
    whole = [replace(clip, caption_tags=()) for clip in clips]
    with pytest.raises(UserError, match=r"has 0; set text\.captions=templates, or text\.views=full"):
        load(tmp_path, whole)
    load(tmp_path, whole, views="full")


def test_clips_without_any_text_are_refused_by_name(tmp_path: Path, clips: list[Clip]) -> None:
    mute = [replace(clip, captions=(), caption_tags=(), multilabel={}) for clip in clips[:2]] + clips[2:]
    with pytest.raises(UserError, match=r"2 of 12 training clips have no tags and no captions.*synthetic-0-000000"):
        load(tmp_path, mute, b_s=0.0, views="full")


def test_nothing_to_swap_is_refused_with_examples(tmp_path: Path, clips: list[Clip]) -> None:
    odd = [replace(clip, multilabel={"tags": ("zyx", "qwo", "vut")}, captions=(), caption_tags=()) for clip in clips]
    with pytest.raises(UserError, match=r"swaps attributes, and of 12 texts 0 have one.*'(zyx|qwo|vut)"):
        load(tmp_path, odd, p_cap=0.0)
    load(tmp_path, odd, p_cap=0.0, swap=NONE)


def test_a_dictionary_that_does_not_exist_is_refused(tmp_path: Path, clips: list[Clip]) -> None:
    with pytest.raises(UserError, match=r"swap\.dictionary=nosuch"):
        load(tmp_path, clips, swap=SwapConfig(dictionary="nosuch"))


@pytest.mark.parametrize("text", ["Спокойная пьеса для флейты", "静かな音楽です", "🎸🔥", "é" * 5000, "la " * 9000])
def test_texts_of_any_alphabet_and_length_are_read(tmp_path: Path, clips: list[Clip], text: str) -> None:
    odd = [replace(clip, captions=(text,), caption_tags=()) for clip in clips]
    assert load(tmp_path, odd, views="full", p_cap=1.0, swap=NONE) == {text.strip()}


def test_a_set_without_a_column_tags_is_read_by_whatever_tags_and_captions_it_has(tmp_path: Path) -> None:
    """`data.vocabulary` is of labels; a run that reads texts needs none."""
    made = corpus(SyntheticConfig(tracks=6, seconds=3.0, valid_share=0.0, test_share=0.0, captions=4))
    moods = [replace(clip, multilabel={"moods": clip.multilabel["tags"]}) for clip in made[:3]]
    captioned = [replace(clip, multilabel={}, categorical={}) for clip in made[3:5]]
    mute = [replace(clip, multilabel={}, categorical={}, captions=(), caption_tags=()) for clip in made[5:]]
    shards = tmp_path / "shards"
    build([*moods, *captioned, *mute], shards, BuildConfig(workers=1, rate=4_000))
    data = DataConfig(labelled=str(shards), b_s=1.0, batch=4)
    text = TextViewsConfig(captions="both", views="mixed", swap=NONE)
    with BatchLoader(data, frames=2_000, seed=0, text=text) as loader:
        assert loader.sampler.sizes == (5, 0)
        assert loader.vocabulary == ()
        assert loader.drawn_labels().shape == (0, 0)
        for batch in loader.batches(0, 3):
            assert batch.texts is not None
            assert all(batch.texts.text)
            assert batch.labels_BC.shape == (4, 0)
    with pytest.raises(UserError, match=r"data\.vocabulary = mood: .*did you mean moods\?"):
        BatchLoader(replace(data, vocabulary="mood"), frames=2_000, seed=0, text=text)
    with pytest.raises(UserError, match=r"data\.vocabulary = tags: the labelled set has no such column; it has moods"):
        BatchLoader(data, frames=2_000, seed=0)
