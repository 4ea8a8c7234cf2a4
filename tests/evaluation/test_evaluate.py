import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.settings import ROOT, UserError, load_config
from data_shards.read.reader import ShardSet
from evaluation.config import EvaluationConfig
from evaluation.evaluate import evaluate_encoders
from evaluation.report.write import Report

MakeShards = Callable[..., Path]
PRESETS = sorted((ROOT / "conf" / "evaluation").glob("*.yaml"))
QUICK: dict[str, Any] = {"confidence.resamples": 100, "seeds": 2, "tasks.tags.max_epochs": 30, "ks": [1, 10]}


def config_for(shards: Path, **changes: Any) -> EvaluationConfig:
    preset = ROOT / "conf" / "evaluation" / "quickstart.yaml"
    return load_config(EvaluationConfig, preset, {"data.shards": str(shards)} | QUICK | changes)


@pytest.fixture
def encoders(make_shards: MakeShards, lookup: Callable[..., Any]) -> tuple[Path, dict[str, Any]]:
    """Shards, an encoder of the tags, and one of noise."""
    shards = make_shards(180)
    with ShardSet.open(shards) as opened:
        tags = opened.index.labels("tags").astype(np.float32)
    noise = np.random.default_rng(0).normal(size=tags.shape).astype(np.float32)
    return shards, {"trained": lookup(tags + 0.1 * noise, "tags"), "untrained": lookup(noise, "noise")}


@pytest.fixture
def report(encoders: tuple[Path, dict[str, Any]], tmp_path: Path) -> Report:
    shards, models = encoders
    return evaluate_encoders(models, config_for(shards), tmp_path / "out", about={"step": 7})


def test_the_quickstart_report_has_the_promised_keys(report: Report) -> None:
    tree = json.loads((report.folder / "report.json").read_text())
    for name in ("tags/auroc", "tags/ap", "tags/p@10", "key/weighted@10", "tempo/acc1@10"):
        assert set(tree["metrics"][name]) >= {"value", "low", "high", "n", "convention"}
        for baseline in ("untrained", "constant", "random"):
            assert set(tree["baselines"][baseline][name]) >= {"value", "low", "high", "n", "convention"}
            assert set(tree["differences"][baseline][name]) >= {"value", "low", "high"}
    assert tree["provenance"]["step"] == 7
    assert tree["provenance"]["manifest_hash"]
    assert (report.folder / "report.md").is_file()
    assert (report.folder / "report.html").is_file()
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in report.figures.values())
    assert len(report.figures) == 2


def test_an_encoder_of_the_tags_beats_one_that_does_not(report: Report) -> None:
    tree = report.tree
    assert tree["metrics"]["tags/ap"]["value"] > 0.9
    assert tree["differences"]["untrained"]["tags/ap"]["low"] > 0
    gap = tree["metrics"]["tags/ap"]["value"] - tree["baselines"]["untrained"]["tags/ap"]["value"]
    assert tree["differences"]["untrained"]["tags/ap"]["value"] == pytest.approx(gap)


def test_a_second_evaluation_embeds_nothing_and_says_the_same(
    encoders: tuple[Path, dict[str, Any]], report: Report, lookup: Callable[..., Any]
) -> None:
    shards, _ = encoders
    silent = np.zeros((1, 6), np.float32)  # would fail on any clip but the first
    again = {"trained": lookup(silent, "tags"), "untrained": lookup(silent, "noise")}
    second = evaluate_encoders(again, config_for(shards), report.folder, about={"step": 7})
    assert second.tree["metrics"] == report.tree["metrics"]
    assert second.tree["differences"] == report.tree["differences"]


def test_a_missing_column_is_refused_before_anything_is_embedded(
    encoders: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shards, models = encoders
    with pytest.raises(UserError, match="task tags: column mood is not in the shards"):
        evaluate_encoders(models, config_for(shards, **{"tasks.tags.column": "mood"}), tmp_path / "out", about={})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claims": ["tags/aurok"]}, r"claims: no tags/aurok; did you mean tags/auroc\?"),
        ({"claims": ["nonsense"]}, "claims: no nonsense; known: tags/auroc, tags/ap, tags/p@1,"),
        ({"tasks.tags.published": "mtat_50"}, r"tasks\.tags\.published: no mtat_50; did you mean mtat_top50\?"),
        ({"equivariance.rates": [50.0]}, "equivariance needs two test tracks of 2.6 s; lower equivariance.rates"),
        ({"projection.task": "key", "projection.midi": True}, r"projection\.midi needs MIDI notes.* has 'A major'"),
        (
            {"robustness.corruptions": ["reverb"], "tasks.tags.probe": False},
            r"robustness is of probes, and none of tags, key, tempo has one; set tasks\.NAME\.probe=true",
        ),
        ({"device": "cuda:97"}, "device cuda:97 is not on this machine; it has cpu"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anything_is_embedded(
    make_shards: MakeShards, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    class Deaf:
        width, rate, samples, hash = 4, 22_050, 1_000, "deaf"

        def __call__(self, _: Any, /) -> Any:
            raise AssertionError("something was embedded")

    config = config_for(make_shards(60), **changes)
    with pytest.raises(UserError, match=message):
        evaluate_encoders({"trained": Deaf()}, config, tmp_path / "out", about={})
    assert not (tmp_path / "out").exists()


def test_a_report_tells_how_long_every_head_learned(report: Report) -> None:
    epochs = report.tree["tasks"]["tags"]["epochs"]
    assert list(epochs) == ["trained", "untrained"]
    for found in epochs.values():
        assert len(found["best"]) == len(found["last"]) == 2
        assert all(1 <= best <= last <= 30 for best, last in zip(found["best"], found["last"], strict=True))
    assert report.tree["tasks"]["key"]["epochs"] == {}
    assert "tags: 2 of 2 heads of trained still had patience when max_epochs=30" in " ".join(report.tree["notes"])


def test_a_clip_shorter_than_a_chunk_is_counted_at_the_encoders_rate(
    make_shards: MakeShards, lookup: Callable[..., Any], tmp_path: Path
) -> None:
    """2,500 samples at 22,050 Hz are 1,250 at 11,025: enough for 1,000, too few for 1,500."""
    shards = make_shards(60)
    vectors = np.random.default_rng(0).normal(size=(1_100, 4)).astype(np.float32)
    for samples, short in ((1_000, 0), (1_500, 60)):
        config = config_for(shards, **{"chunking.resample": True, "tasks.tags.probe": False})
        half = lookup(vectors, f"half {samples}", rate=11_025, samples=samples)
        found = evaluate_encoders({"trained": half}, config, tmp_path / str(samples), about={})
        assert found.tree["provenance"]["clips_shorter_than_a_chunk"] == short


def test_an_optional_column_that_is_missing_is_left_out_and_reported(
    encoders: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shards, models = encoders
    changes = {"tasks.mood": {"column": "mood", "kind": "tags", "probe": True, "optional": True}}
    found = evaluate_encoders(models, config_for(shards, **changes), tmp_path / "out", about={})
    assert found.tree["left_out"] == {"mood": "the set has no column mood"}
    assert "mood: left out" in (tmp_path / "out" / "report.md").read_text()


def test_a_leaking_track_is_refused(make_shards: MakeShards, lookup: Callable[..., Any], tmp_path: Path) -> None:
    shards = make_shards(24, split={0: "train", 1: "test"})
    with pytest.raises(UserError, match="more than one split: track0"):
        evaluate_encoders({"trained": lookup(np.eye(24, dtype=np.float32))}, config_for(shards), tmp_path, about={})


@pytest.mark.parametrize("key", ["data.shards", "tasks"])
def test_what_is_needed_is_asked_for(encoders: tuple[Path, dict[str, Any]], tmp_path: Path, key: str) -> None:
    shards, models = encoders
    config = config_for(shards, **{key: None if key == "data.shards" else {}})
    with pytest.raises(UserError, match="data.shards is not set" if key == "data.shards" else "no tasks"):
        evaluate_encoders(models, config, tmp_path, about={})


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_valid(preset: Path) -> None:
    assert load_config(EvaluationConfig, preset).tasks


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks.tags.kind=tag", "tasks.tags: kind must be .* did you mean tags"),
        ("tasks.tags.dropout=1.0", r"dropout must be in \[0, 1\), got 1.0"),
        ("tasks.tags.retrieval=false", None),
        ("tasks.key.retrieval=false", "probe: true, retrieval: true or both"),
        ("ks=[0]", "ks must be different numbers > 0"),
        ("confidence.resamples=10", "resamples must be >= 100, got 10"),
        ("sedes=3", "unknown key sedes; did you mean seeds"),
    ],
)
def test_wrong_settings_are_named(override: str, message: str | None) -> None:
    preset = ROOT / "conf" / "evaluation" / "quickstart.yaml"
    if message is None:
        load_config(EvaluationConfig, preset, [override])
        return
    with pytest.raises(UserError, match=message):
        load_config(EvaluationConfig, preset, [override])
