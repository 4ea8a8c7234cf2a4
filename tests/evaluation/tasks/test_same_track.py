"""Same track: recall equals a loop over queries, and what cannot be answered is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.settings import UserError
from data_shards.format.index import read_index
from evaluation.config import ConfidenceConfig, EvaluationConfig, EvaluationData, Task
from evaluation.evaluate import evaluate_encoders
from evaluation.runnable import read_targets

MakeShards = Callable[..., Path]
TASK: dict[str, Any] = {"column": "track", "kind": "same_track", "retrieval": True}
KS = (1, 3)


def config_of(shards: Path, **task: Any) -> EvaluationConfig:
    return EvaluationConfig(
        data=EvaluationData(shards=str(shards)),
        tasks={"same": Task(**(TASK | task))},
        confidence=ConfidenceConfig(resamples=100, cluster="track"),
        seeds=1,
        ks=KS,
    )


def test_recall_is_that_of_a_loop_over_queries(make_shards: MakeShards, lookup: Any, tmp_path: Path) -> None:
    shards = make_shards(41, split={40: "test"})  # the last clip is alone in its track
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((21, 5))[np.arange(41) // 2] + 0.8 * rng.standard_normal((41, 5))
    vectors = vectors.astype(np.float32)
    report = evaluate_encoders({"trained": lookup(vectors)}, config_of(shards), tmp_path / "out", about={}).tree
    index = read_index(shards)
    test = [int(row) for row in index.rows("test")]
    number = {row: int(str(index.key[row])[4:]) for row in test}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for k in KS:
        hits = []
        for row in test:
            others = [other for other in test if other != row]
            if all(str(index.track[other]) != str(index.track[row]) for other in others):
                continue
            near = sorted(others, key=lambda other: -float(unit[number[row]] @ unit[number[other]]))[:k]
            hits.append(any(str(index.track[other]) == str(index.track[row]) for other in near))
        assert 0 < np.mean(hits) < 1
        assert report["metrics"][f"same/r@{k}"]["value"] == pytest.approx(np.mean(hits))
    assert any("1 of 13 clips are alone in their track: answers, no queries" in note for note in report["notes"])
    assert "itself left out" in report["metrics"]["same/r@1"]["convention"]
    assert json.loads((tmp_path / "out/report.json").read_text())["metrics"]["same/r@3"]["value"] is not None


def test_an_encoder_that_tells_tracks_apart_finds_all(make_shards: MakeShards, lookup: Any, tmp_path: Path) -> None:
    shards = make_shards(40)
    by_track = np.eye(20, dtype=np.float32)[np.arange(40) // 2]
    metrics = evaluate_encoders({"trained": lookup(by_track)}, config_of(shards), tmp_path / "out", about={}).tree[
        "metrics"
    ]
    assert metrics["same/r@1"]["value"] == 1.0
    assert "same/accuracy" not in metrics


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ({"column": "artist"}, "kind same_track is about tracks; set tasks.same.column=track"),
        ({"probe": True}, r"kind same_track has no probe; set tasks\.same\.probe=false"),
        ({"probe": True, "retrieval": False}, "kind same_track has no probe"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(make_shards: MakeShards, task: dict[str, Any], why: str) -> None:
    shards = make_shards(40)
    with pytest.raises(UserError, match=why):
        read_targets(read_index(shards), config_of(shards, **task))


def test_tracks_of_one_clip_each_are_refused(make_shards: MakeShards) -> None:
    alone = make_shards(12, split={i: "test" if i % 2 else "train" for i in range(12)})
    with pytest.raises(UserError, match=r"the 6 test clips are of 6 tracks, .* several clips a track in that split"):
        read_targets(read_index(alone), config_of(alone))
    _, left_out = read_targets(
        read_index(alone),
        EvaluationConfig(
            tasks={"same": Task(**TASK, optional=True), "tags": Task(column="tags", kind="tags", retrieval=True)}
        ),
    )
    assert "several clips a track" in left_out["same"]
