"""Laws of the synthetic corpus: the same piece for the same number, exact splits, truth without hidden ties."""

import pickle
import re
from collections import Counter
from itertools import combinations

import mir_eval
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from data_shards.format.records import SAMPLE_RATE
from data_shards.sources.synthetic import timbres
from data_shards.sources.synthetic.corpus import SyntheticAudio, SyntheticConfig, corpus
from data_shards.sources.synthetic.traits import (
    BASS_INSTRUMENTS,
    CHORD_INSTRUMENTS,
    GROOVES,
    LEAD_INSTRUMENTS,
    MOOD_AXES,
    TAGS,
    TONICS,
    Traits,
)

DRAWN = 4000
EXCLUSIVE = (CHORD_INSTRUMENTS, LEAD_INSTRUMENTS, BASS_INSTRUMENTS, tuple(GROOVES), *MOOD_AXES)
"""Within such a group one tag makes another less likely; across groups nothing does."""


@pytest.fixture(scope="module")
def drawn() -> list[Traits]:
    return [SyntheticAudio(seed=11, index=index, seconds=4.0).traits for index in range(DRAWN)]


def key_codes(drawn: list[Traits]) -> NDArray[np.int64]:
    return np.array([traits.tonic + 12 * traits.minor for traits in drawn])


def tag_table(drawn: list[Traits]) -> NDArray[np.bool_]:
    return np.array([[tag in traits.tags for tag in TAGS] for traits in drawn])


def tempo_bins(drawn: list[Traits]) -> NDArray[np.int64]:
    return np.digitize([traits.bpm for traits in drawn], np.linspace(60, 180, 7)[1:-1])


def dependence_p(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    return float(stats.chi2_contingency(table).pvalue)


def test_a_track_is_the_same_whatever_was_rendered_before() -> None:
    tracks = [SyntheticAudio(seed=3, index=index, seconds=4.0) for index in range(6)]
    forwards = [track.read()[0] for track in tracks]
    timbres.note_table.cache_clear()
    backwards = [track.read()[0] for track in reversed(tracks)][::-1]
    for first, second in zip(forwards, backwards, strict=True):
        assert np.array_equal(first, second)


def test_a_pickled_track_renders_the_same() -> None:
    clip = corpus(SyntheticConfig(tracks=5, seconds=3.0))[1]
    assert np.array_equal(pickle.loads(pickle.dumps(clip.audio)).read()[0], clip.audio.read()[0])  # noqa: S301


def test_another_seed_or_index_is_another_piece() -> None:
    waves = [SyntheticAudio(seed=s, index=i, seconds=3.0).read()[0] for s, i in ((0, 0), (0, 1), (1, 0), (256, 0))]
    for first, second in combinations(waves, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


def test_a_larger_corpus_holds_the_smaller_ones_tracks() -> None:
    few, many = (corpus(SyntheticConfig(tracks=tracks, seed=5)) for tracks in (10, 40))
    for small, large in zip(few, many, strict=False):
        assert (small.key, small.audio, small.multilabel) == (large.key, large.audio, large.multilabel)


def test_the_truth_does_not_depend_on_the_length() -> None:
    short, long = (SyntheticAudio(seed=2, index=7, seconds=seconds) for seconds in (3.0, 30.0))
    assert short.traits == long.traits


@pytest.mark.parametrize(
    ("tracks", "valid", "test"), [(400, 0.2, 0.2), (7, 0.3, 0.3), (50, 0.0, 0.0), (50, 0.0, 1.0), (3, 0.3, 0.4)]
)
def test_splits_have_exact_counts(tracks: int, valid: float, test: float) -> None:
    clips = corpus(SyntheticConfig(tracks=tracks, valid_share=valid, test_share=test))
    counts = Counter(clip.split for clip in clips)
    assert (counts["valid"], counts["test"]) == (round(valid * tracks), round(test * tracks))
    assert counts.total() == tracks


def test_clips_carry_valid_names_and_targets() -> None:
    clips = corpus(SyntheticConfig(tracks=200, seed=4))
    assert len({clip.key for clip in clips}) == len({clip.audio.name for clip in clips}) == 200
    for clip in clips:
        assert re.fullmatch(r"[A-Za-z0-9_-]+", clip.key)
        assert clip.track == clip.key
        assert clip.licence == "CC0-1.0"
        assert set(clip.multilabel["tags"]) <= set(TAGS)
        assert 60.0 <= clip.numeric["bpm"] <= 180.0
        key = clip.categorical["key"]
        assert key is not None
        mir_eval.key.validate_key(key)
    assert {clip.audio.name for clip in clips} >= {"synthetic:4/0", "synthetic:4/199"}


@pytest.mark.parametrize("seconds", [3.0, 7.77])
def test_a_track_has_the_length_that_was_asked_for(seconds: float) -> None:
    wave_T, rate = SyntheticAudio(seed=0, index=0, seconds=seconds).read()
    assert wave_T.shape == (round(seconds * SAMPLE_RATE),)
    assert wave_T.dtype == np.float32
    assert rate == SAMPLE_RATE


def test_keys_and_tempos_are_uniform(drawn: list[Traits]) -> None:
    assert stats.chisquare(np.bincount(key_codes(drawn), minlength=24)).pvalue > 1e-3
    assert stats.kstest([traits.bpm for traits in drawn], stats.uniform(60, 120).cdf).pvalue > 1e-3
    assert {traits.key for traits in drawn} == {f"{tonic} {mode}" for tonic in TONICS for mode in ("major", "minor")}


def test_every_tag_is_neither_rare_nor_everywhere(drawn: list[Traits]) -> None:
    shares = tag_table(drawn).mean(axis=0)
    assert np.all((shares > 0.1) & (shares < 0.7)), dict(zip(TAGS, shares, strict=True))


def test_key_and_tempo_tell_nothing_of_each_other_nor_of_any_tag(drawn: list[Traits]) -> None:
    keys, tempos = key_codes(drawn), tempo_bins(drawn)
    tags = tag_table(drawn).astype(np.int64)
    p_values = {"key with tempo": dependence_p(keys, tempos)}
    for column, tag in enumerate(TAGS):
        p_values[f"key with {tag}"] = dependence_p(keys, tags[:, column])
        p_values[f"tempo with {tag}"] = dependence_p(tempos, tags[:, column])
    assert min(p_values.values()) > 0.01 / len(p_values), min(p_values.items(), key=lambda item: item[1])


def test_tags_of_different_groups_are_uncorrelated(drawn: list[Traits]) -> None:
    correlation = np.corrcoef(tag_table(drawn).T.astype(float))
    for a, b in combinations(range(len(TAGS)), 2):
        if not any(TAGS[a] in group and TAGS[b] in group for group in EXCLUSIVE):
            assert abs(correlation[a, b]) < 4 / np.sqrt(DRAWN), (TAGS[a], TAGS[b])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tracks": 0}, "tracks must be > 0, got 0"),
        ({"seconds": 1.0}, "seconds must be in"),
        ({"test_share": -0.1}, "test_share must be in"),
        ({"valid_share": 0.6, "test_share": 0.6}, "must be ≤ 1"),
        ({"tracks": 2, "test_share": 0.0}, "valid_share=0.2 of 2 tracks is none"),
        ({"seed": -1}, "seed must be >= 0"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**setting)  # type: ignore[arg-type]  # wrong on purpose
