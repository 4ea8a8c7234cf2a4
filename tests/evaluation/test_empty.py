"""Every kind of task with nothing left, in every way: refused before anything is embedded, or reported with why."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.records import Clip, Split
from data_shards.read.reader import ShardSet
from evaluation.analyses.robustness import undefined_changes
from evaluation.config import ConfidenceConfig, EquivarianceConfig, EvaluationConfig, EvaluationData, Task
from evaluation.evaluate import evaluate_encoders
from evaluation.metrics.confidence import draw_resamples
from evaluation.metrics.crossmodal import first_right
from evaluation.metrics.weighted import auroc_and_ap, key_scores, macro, pair_mean, r_squared
from evaluation.runnable import notes, read_targets
from evaluation.targets.target import Target, parts_of
from evaluation.tasks.kind import metric_names
from evaluation.tasks.tags import Tags

COUNT = 36
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
KINDS: dict[str, Any] = {"tags": "tags", "class": "genre", "key": "key", "tempo": "bpm", "number": "mood"}
"""Kind → column of its task; a task is called as its kind."""
COLUMNS = tuple(KINDS.values())
FORMS = ("report.json", "report.md", "report.html", "report.csv", "report.tex", "metrics.png")
Place = tuple[int, Split]
"""Number of a clip among those of its split, and the split."""
WAYS: dict[str, Callable[[Place], str]] = {
    "no value": lambda _: "missing",
    "no value in test": lambda place: "missing" if place[1] == "test" else "any",
    "no value in valid": lambda place: "missing" if place[1] == "valid" else "any",
    "no value in train": lambda place: "missing" if place[1] == "train" else "any",
    "one value": lambda _: "same",
    "one value in test": lambda place: "same" if place[1] == "test" else "any",
    "one value in train": lambda place: "same" if place[1] == "train" else "any",
    "one clip in test": lambda place: "missing" if place[1] == "test" and place[0] else "any",
    "one track in test": lambda _: "any",
}
PROBE_REFUSES = {
    "no value": dict.fromkeys(KINDS, "column {column} is not in the shards")
    | {"tags": "no clip has a value in column tags"},
    "no value in test": dict.fromkeys(KINDS, "no clip of split test has a value in column {column}"),
    "no value in valid": dict.fromkeys(KINDS, "no clip of split valid has a value in column {column}"),
    "no value in train": dict.fromkeys(KINDS, "no clip of split train has a value in column {column}"),
    "one value": dict.fromkeys(KINDS, "all 12 train clips have the same value in column {column}")
    | {"tags": "all 12 test clips of column tags have a, and none has another tag, so AUROC and AP are undefined"},
    "one value in test": {
        "tags": "all 12 test clips of column tags have a, and none has another tag, so AUROC and AP are undefined",
        "number": "all 12 test clips have the value 60 in column mood, so R² is undefined",
    },
    "one value in train": dict.fromkeys(
        ("class", "key", "tempo", "number"), "all 12 train clips have the same value in column {column}"
    ),
    "one clip in test": {"tags": "all 1 test clips of column tags have a", "number": "all 1 test clips have the value"},
}
RETRIEVAL_REFUSES = {
    "no value": PROBE_REFUSES["no value"],
    "no value in test": PROBE_REFUSES["no value in test"],
    "one clip in test": dict.fromkeys(KINDS, "all 1 test clips with a value are of one track"),
    "one track in test": dict.fromkeys(KINDS, "all 12 test clips with a value are of one track"),
}
REFUSES = {"probe": PROBE_REFUSES, "retrieval": RETRIEVAL_REFUSES}


@dataclass(frozen=True)
class Silence:
    """Audio that is there already."""

    name: str = "memory"

    def read(self) -> tuple[Any, int]:
        return np.full(2_500, 0.1, np.float32), 22_050


class Refuser:
    """An encoder that must not be asked."""

    width, rate, samples, hash = 4, 22_050, 1_000, "refuser"

    def __call__(self, _: Any, /) -> Any:
        raise AssertionError("something was embedded")


def make_set(folder: Path, way: str) -> Path:
    """A set in which every column is empty in one way; clip i of a split has value i % 2 otherwise."""
    clips = []
    for i in range(COUNT):
        place = i // 3, SPLITS[i % 3]
        what = WAYS[way](place)
        code = 0 if what == "same" else place[0] % 2
        there = what != "missing"
        clips.append(
            Clip(
                key=f"clip{i:02d}",
                audio=Silence(),
                track="one" if way == "one track in test" and place[1] == "test" else f"track{i}",
                artist="one" if way == "one track in test" and place[1] == "test" else f"artist{i}",
                split=place[1],
                multilabel={"tags": ("a", "b")[code : code + 1] if there else ()},
                categorical={"genre": ("rock", "jazz")[code], "key": ("C major", "A minor")[code]} if there else {},
                numeric={"bpm": 60.0 + code, "mood": 60.0 + code} if there else {},
            )
        )
    build(clips, folder, BuildConfig())
    return folder


def request(shards: Path, kinds: list[str], asked: str, **changes: Any) -> EvaluationConfig:
    shared: dict[str, Any] = {"max_epochs": 2, asked: True} | changes
    return EvaluationConfig(
        data=EvaluationData(shards=str(shards)),
        tasks={kind: Task(column=KINDS[kind], kind=kind, **shared) for kind in kinds},
        confidence=ConfidenceConfig(resamples=100),
        seeds=2,
        ks=(1, 50),  # more than there are clips
    )


@pytest.mark.parametrize("asked", ["probe", "retrieval"])
@pytest.mark.parametrize("way", WAYS)
def test_every_kind_with_nothing_left_is_refused_or_reported(
    way: str, asked: str, tmp_path: Path, lookup: Callable[..., Any]
) -> None:
    shards = make_set(tmp_path / "set", way)
    kinds = [kind for kind in KINDS if asked == "probe" or kind != "number"]
    refused = {kind: REFUSES[asked].get(way, {}).get(kind) for kind in kinds}
    messages = {kind: text.format(column=KINDS[kind]) for kind, text in refused.items() if text is not None}
    for kind, text in messages.items():  # where the task is needed
        out = tmp_path / kind
        with pytest.raises(UserError, match=f"^task {kind}: {re.escape(text)}") as error:
            evaluate_encoders({"trained": Refuser()}, request(shards, [kind], asked), out, about={})
        assert f"tasks.{kind}.optional=true" in str(error.value)
        assert not out.exists()
    config = request(shards, kinds, asked, optional=True)
    if len(messages) == len(kinds):
        with pytest.raises(UserError, match="none of the tasks can run") as error:
            evaluate_encoders({"trained": Refuser()}, config, tmp_path / "all", about={})
        assert all(f"{kind}: " in str(error.value) for kind in kinds)
        return
    encoder = lookup(np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32))
    report = evaluate_encoders({"trained": encoder}, config, tmp_path / "out", about={})
    tree = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(tree["left_out"]) == set(messages)
    assert all(text in tree["left_out"][kind] for kind, text in messages.items())
    running = [kind for kind in kinds if kind not in messages]
    expected = [f"{kind}/{metric}" for kind in running for metric in metric_names(config.tasks[kind], config.ks)]
    assert list(tree["metrics"]) == expected
    assert all(row["value"] is not None for row in tree["metrics"].values())
    assert all((tmp_path / "out" / form).stat().st_size for form in FORMS)
    assert set(report.flat()) == set(expected)
    notes = " ".join(tree["notes"])
    if way in ("one track in test", "one clip in test"):
        assert all(row["low"] is None for row in tree["metrics"].values())
        assert all(rows[name]["p"] == 1.0 for rows in tree["differences"].values() for name in rows)
        assert "of one artist, so no interval can be given" in notes
    if way in ("one value", "one value in test"):
        assert "a constant answer is right" in notes


def test_a_tag_or_nothing_is_answered_where_clips_without_a_tag_count(
    tmp_path: Path, lookup: Callable[..., Any]
) -> None:
    """The remedy that the refusal names."""
    shards = make_set(tmp_path / "set", "one clip in test")  # eleven of twelve test clips have no tag
    config = request(shards, ["tags"], "probe", untagged=True)
    encoder = lookup(np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32))
    tree = evaluate_encoders({"trained": encoder}, config, tmp_path / "out", about={}).tree
    assert tree["metrics"]["tags/auroc"]["value"] is not None
    assert tree["tasks"]["tags"]["masked"] == ["b"]


def test_no_test_clip_with_a_tag_is_refused_where_clips_without_one_count(tmp_path: Path) -> None:
    shards = make_set(tmp_path / "set", "no value in test")
    config = request(shards, ["tags"], "probe", untagged=True)
    with pytest.raises(UserError, match="all 12 test clips of column tags have no tag, so AUROC and AP are undefined"):
        evaluate_encoders({"trained": Refuser()}, config, tmp_path / "out", about={})


def one_artist(folder: Path, tracks: int) -> EvaluationConfig:
    """Twelve clips of one artist, evaluated on the valid split."""
    clips = [
        Clip(key=f"c{i}", audio=Silence(), track=f"t{i % 3} {i // 3 % tracks}", artist="one", split=SPLITS[i % 3],
             categorical={"genre": ("rock", "jazz")[i // 3 % 2]})
        for i in range(12)
    ]  # fmt: skip
    build(clips, folder, BuildConfig())
    tasks = {"class": Task(column="genre", kind="class", probe=True)}
    return EvaluationConfig(data=EvaluationData(shards=str(folder)), tasks=tasks, split="valid")


def test_one_train_track_is_named_where_the_valid_split_is_reported(tmp_path: Path) -> None:
    config = one_artist(tmp_path / "set", tracks=1)
    with pytest.raises(UserError, match=r"are of one track, .* build the shards with more tracks in train"):
        evaluate_encoders({"trained": Refuser()}, config, tmp_path / "out", about={})


def test_heads_stop_on_tracks_where_all_train_clips_are_of_one_artist_and_a_note_says_so(tmp_path: Path) -> None:
    config = one_artist(tmp_path / "set", tracks=4)
    with ShardSet.open(str(tmp_path / "set")) as shards:
        target = read_targets(shards.index, config)[0]["class"]
    parts = parts_of(target, "valid")
    assert {len(parts["train"]), len(parts["valid"])} == {3, 1}
    assert not set(parts["train"].track_K) & set(parts["valid"].track_K)
    (note, *_) = notes("class", config.tasks["class"], parts, config)
    assert note == "class: all train clips are of one artist, so heads stop on a fifth of its tracks"


def test_metrics_of_nothing_are_undefined_and_no_error() -> None:
    none_KC, weights = np.empty((0, 2)), np.ones((3, 0))
    assert all(np.isnan(one).all() for one in auroc_and_ap(none_KC, none_KC > 0, weights))
    no_tags = np.empty((4, 0))
    assert [one.shape for one in auroc_and_ap(no_tags, no_tags > 0, np.ones((3, 4)))] == [(3, 0)] * 2
    for truth in (True, False):
        auroc, _ = auroc_and_ap(np.arange(4.0)[:, None], np.full((4, 1), truth), np.ones((3, 4)))
        assert np.isnan(auroc).all()
    assert np.isnan(macro(np.empty((3, 0)))).all()
    assert np.isnan(r_squared(np.empty(0), np.empty(0), weights)).all()
    assert np.isnan(pair_mean(np.empty(0), np.empty(0), weights)).all()
    assert key_scores([], ["C major"]).shape == (0, 1)


@pytest.mark.parametrize("value", [0.1, 1e6 / 3, 60.0])
def test_r_squared_of_equal_values_is_undefined_however_they_round(value: float) -> None:
    truth = np.array([value] * 7 + [value + 1.0])
    weights = np.array([[1.0] * 7 + [0.0], [1.0] * 8])
    assert np.isfinite(r_squared(np.zeros(8), truth, weights)).tolist() == [False, True]


def test_a_task_whose_tags_are_all_masked_has_empty_rows_as_a_library_call() -> None:
    names = np.array([f"t{i}" for i in range(6)])
    test = Target(np.arange(6), np.full(6, "test"), names, names, np.ones((6, 2), bool), ("a", "b"))
    drawn = draw_resamples(names.tolist(), resamples=100, seeds=2, rng=np.random.default_rng(0))
    for samples in Tags().score_probe(np.zeros((2, 6, 2)), test, drawn).values():
        row = samples.row(0.95)
        assert (row["value"], row["low"], row["high"]) == (None, None, None)
        assert samples.by_tag == {}


def test_recall_beyond_the_table_is_that_of_the_table() -> None:
    score, right = np.array([[0.1, 0.9]]), np.array([[True, False]])
    assert first_right(score, right, np.zeros_like(right)).hits(50).tolist() == [1.0]


def test_a_change_from_a_clean_value_of_zero_has_its_reason() -> None:
    row = {"value": 0.1, "change": {"value": None, "low": None, "high": None}}
    (note,) = undefined_changes({"tags/ap": {"trained": {"reverb": row}}})
    assert note == "tags/ap: the change under corruption is undefined for trained, whose value on clean audio is 0"


def test_a_probe_of_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="probe needs two different semitones"):
        EquivarianceConfig(semitones=(2.0, 2.0), probe=True)
