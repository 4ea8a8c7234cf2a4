from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from data_shards.read.reader import ShardSet
from evaluation.config import Task
from evaluation.runnable import read_target
from evaluation.targets.splits import check_leaks
from evaluation.targets.target import artist_overlap

MakeShards = Callable[..., Path]


@pytest.fixture
def index(make_shards: MakeShards) -> ShardIndex:
    with ShardSet.open(make_shards(24, numeric={"pitch": 60.0, "level": 0.5})) as shards:
        return shards.index


def test_every_kind_of_column_becomes_a_target(index: ShardIndex) -> None:
    tags = read_target(index, "t", Task(column="tags", kind="tags", probe=True))
    np.testing.assert_array_equal(tags.values, index.labels("tags"))
    bpm = read_target(index, "t", Task(column="bpm", kind="tempo", retrieval=True))
    np.testing.assert_array_equal(bpm.values, index.target("bpm"))
    key = read_target(index, "t", Task(column="key", kind="key", retrieval=True))
    assert [key.classes[code] for code in key.values] == [index.classes["key"][c] for c in index.target("key")]
    pitch = read_target(index, "t", Task(column="pitch", kind="class", probe=True))
    assert pitch.classes == ("60",)
    assert (pitch.values == 0).all()
    artist = read_target(index, "t", Task(column="artist", kind="class", retrieval=True))
    assert [artist.classes[code] for code in artist.values] == list(index.artist)


def test_a_vocabulary_in_another_order_reorders_the_vectors(index: ShardIndex) -> None:
    found = index.vocabularies["tags"]
    wanted = tuple(reversed(found))
    target = read_target(index, "t", Task(column="tags", kind="tags", probe=True, vocabulary=wanted))
    assert target.classes == wanted
    np.testing.assert_array_equal(target.values[:, ::-1], index.labels("tags"))


@pytest.mark.parametrize("kind", ["tags", "key"])
def test_another_vocabulary_is_refused(index: ShardIndex, kind: Any) -> None:
    task = Task(column={"tags": "tags", "key": "key"}[kind], kind=kind, probe=True, vocabulary=("metal", "C major"))
    with pytest.raises(UserError, match=r"another vocabulary than the task: missing \['.*metal'.*\], unknown"):
        read_target(index, "t", task)


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        ("mood", "tags", "column mood is not in the shards, kind tags needs a multilabel one; the set has bpm"),
        ("bpm", "tags", "column bpm is numeric, kind tags needs a multilabel one"),
        ("tags", "key", "column tags is multilabel, kind key needs a categorical one"),
        ("level", "class", "column level holds fractions"),
    ],
)
def test_a_column_that_does_not_fit_is_named(index: ShardIndex, column: str, kind: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_target(index, "t", Task(column=column, kind=kind, probe=True))


def test_a_key_that_mir_eval_cannot_read_is_named(make_shards: MakeShards) -> None:
    with (
        ShardSet.open(make_shards(4, categorical={"key": "H dur"})) as shards,
        pytest.raises(UserError, match=r"task k: column key: .*H"),
    ):
        read_target(shards.index, "k", Task(column="key", kind="key", retrieval=True))


def test_a_tempo_of_zero_is_named(make_shards: MakeShards) -> None:
    with (
        ShardSet.open(make_shards(4, numeric={"bpm": 0.0})) as shards,
        pytest.raises(UserError, match=r"clip clip0000 has a tempo of 0\.0"),
    ):
        read_target(shards.index, "t", Task(column="bpm", kind="tempo", retrieval=True))


def test_unknown_values_are_no_targets(make_shards: MakeShards) -> None:
    labels: dict[str, Any] = {"multilabel": {"tags": ()}, "categorical": {"key": None}, "numeric": {"bpm": np.nan}}
    with ShardSet.open(make_shards(4, **labels)) as shards:
        index = shards.index
    known = {"tags", "key", "bpm"} & {*index.vocabularies, *index.classes, *index.numeric}
    for column, kind in (("tags", "tags"), ("key", "key"), ("bpm", "tempo")):
        message = "no clip has a value" if column in known else "is not in the shards"
        with pytest.raises(UserError, match=message):
            read_target(index, "t", Task(column=column, kind=kind, probe=True))


def test_a_track_in_two_splits_is_refused_by_name(make_shards: MakeShards) -> None:
    with (
        ShardSet.open(make_shards(12, split={0: "train", 1: "test"})) as shards,
        pytest.raises(UserError, match=r"1 tracks are in more than one split: track0 \(test and train\)"),
    ):
        check_leaks("set", list(shards.index.track), list(shards.index.split))


def test_the_share_of_test_clips_whose_artist_is_in_train_is_reported(index: ShardIndex) -> None:
    train = {a for a, s in zip(index.artist, index.split, strict=True) if s == "train"}
    test = [a in train for a, s in zip(index.artist, index.split, strict=True) if s == "test"]
    assert artist_overlap(index) == np.mean(test)
