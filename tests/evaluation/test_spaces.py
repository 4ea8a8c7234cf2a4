"""Spaces of an encoder: columns of one embedding that are evaluated as models of their own."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.settings import ROOT, UserError, load_config
from data_shards.build.build import BuildConfig, build
from data_shards.format.records import Clip, Split
from data_shards.read.reader import ShardSet
from evaluation.analyses.equivariance import measure_equivariance
from evaluation.config import EquivarianceConfig, EvaluationConfig
from evaluation.encoders.encoder import models_of, spaces_of, with_heads
from evaluation.encoders.pool import Pool
from evaluation.evaluate import evaluate_encoders
from evaluation.inputs import EvaluationInputs
from evaluation.metrics.samples import RESAMPLES, load_resamples

MakeShards = Callable[..., Path]
QUICK: dict[str, Any] = {"confidence.resamples": 100, "seeds": 2, "tasks.tags.max_epochs": 30, "ks": [1, 10]}


@dataclass
class Columns:
    """Any encoder of one chunk length as columns of a wider one; counts the chunks it read."""

    inner: Any
    spaces: Mapping[str, slice]
    hash: str = "columns"
    chunks: int = 0
    width: int = field(init=False)
    rate: int = field(init=False)
    samples: int = field(init=False)

    def __post_init__(self) -> None:
        self.width, self.rate, self.samples = self.inner.width, self.inner.rate, self.inner.samples

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        self.chunks += len(wave_NT)
        h_NE: Tensor = self.inner(wave_NT)
        return h_NE


def config_for(shards: Path, **changes: Any) -> EvaluationConfig:
    preset = ROOT / "conf" / "evaluation" / "quickstart.yaml"
    return load_config(EvaluationConfig, preset, {"data.shards": str(shards)} | QUICK | changes)


@dataclass
class Halves:
    """Shards, tags and noise side by side, and each of them alone."""

    shards: Path
    both: Columns
    tags: Any
    noise: Any


@pytest.fixture
def halves(make_shards: MakeShards, lookup: Callable[..., Any]) -> Halves:
    shards = make_shards(180)
    with ShardSet.open(shards) as opened:
        tags = opened.index.labels("tags").astype(np.float32)
    noise = np.random.default_rng(0).normal(size=tags.shape).astype(np.float32)
    width = tags.shape[1]
    spaces = {"tags": slice(0, width), "noise": slice(width, 2 * width)}
    both = Columns(lookup(np.concatenate([tags, noise], 1), "both"), spaces)
    return Halves(shards, both, lookup(tags, "tags"), lookup(noise, "noise"))


def test_a_space_is_scored_as_the_encoder_of_its_columns_alone_from_one_pass(halves: Halves, tmp_path: Path) -> None:
    models = {"trained": halves.both, "alone": halves.tags, "untrained": halves.noise}
    report = evaluate_encoders(models, config_for(halves.shards, spaces=["tags", "noise"]), tmp_path, about={})
    rows = {"trained": report.tree["metrics"], **report.tree["baselines"]}
    assert list(rows) == ["trained", "trained/tags", "trained/noise", "alone", "untrained", "random", "constant"]
    assert rows["trained/tags"] == rows["alone"]
    assert rows["trained/noise"] == rows["untrained"]
    assert rows["trained"] != rows["alone"]
    with ShardSet.open(halves.shards) as opened:
        clips = len(opened.index)
    assert halves.both.chunks == 3 * clips  # two chunks and a tail of a clip, once
    kept = load_resamples(tmp_path / RESAMPLES)
    np.testing.assert_array_equal(kept["tags/ap"]["trained/tags"].values_R, kept["tags/ap"]["alone"].values_R)


def test_without_spaces_a_report_is_what_it_was(halves: Halves, tmp_path: Path) -> None:
    config = config_for(halves.shards)
    plain = evaluate_encoders({"trained": halves.both.inner}, config, tmp_path / "plain", about={})
    named = evaluate_encoders({"trained": halves.both}, config, tmp_path / "named", about={})
    for part in ("metrics", "baselines", "differences"):
        assert plain.tree[part] == named.tree[part]


def test_a_report_with_spaces_has_them_in_every_form(halves: Halves, tmp_path: Path) -> None:
    config = config_for(
        halves.shards, spaces=["tags", "noise"], **{"projection.task": "key", "robustness.severities": [0]}
    )
    report = evaluate_encoders({"trained": halves.both, "untrained": halves.noise}, config, tmp_path, about={})
    tree = json.loads((tmp_path / "report.json").read_text())
    assert set(tree["projection"]["points"]) == {"trained", "trained/tags", "trained/noise", "untrained"}
    assert set(tree["robustness"]["tags/ap"]) == {"trained", "trained/tags", "trained/noise", "untrained"}
    for name in ("report.md", "report.html", "report.csv", "report.tex"):
        assert "trained/noise" in (tmp_path / name).read_text()
    assert [table.columns[2].header for table in report.comparisons()] == ["trained/tags", "trained/noise"]
    gap = tree["differences"]["trained/noise"]["tags/ap"]  # the reported encoder less the space, on the same resamples
    assert gap["low"] > 0
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in report.figures.values())


def test_outputs_of_heads_are_no_part_of_the_embedding(halves: Halves, tmp_path: Path) -> None:
    """LOEV: `embedding` and heads behind it; ``trained`` stays the embedding, and its table is another one."""
    tags, width = halves.tags, halves.tags.width

    class WithHeads(Columns):
        def with_heads(self) -> Columns:
            spaces = {"embedding": slice(0, width), "head": slice(width, 2 * width)}
            return Columns(halves.both.inner, spaces, tags.hash)

    loev = WithHeads(tags, {"embedding": slice(0, width)}, tags.hash)
    config = config_for(halves.shards, cache=str(tmp_path / "cache"))
    plain = evaluate_encoders({"trained": loev}, config, tmp_path / "plain", about={})
    spaced = evaluate_encoders({"trained": loev}, replace(config, spaces=("head",)), tmp_path / "spaced", about={})
    assert plain.tree["metrics"] == spaced.tree["metrics"]
    assert plain.tree["provenance"]["encoder"] == spaced.tree["provenance"]["encoder"]
    alone = evaluate_encoders({"trained": halves.noise}, config, tmp_path / "alone", about={})
    assert spaced.tree["baselines"]["trained/head"] == alone.tree["metrics"]
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert (
        evaluate_encoders({"trained": loev}, config, tmp_path / "again", about={}).tree["metrics"]
        == (plain.tree["metrics"])
    )


def test_a_space_that_the_encoder_lacks_is_refused_before_anything_is_embedded(halves: Halves, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"spaces: the encoder has no space tempo; it has tags, noise$"):
        evaluate_encoders({"trained": halves.both}, config_for(halves.shards, spaces=["tempo"]), tmp_path, about={})
    with pytest.raises(UserError, match=r"no space pitch; it has embedding; pretraining with head\.variant"):
        evaluate_encoders({"trained": halves.tags}, config_for(halves.shards, spaces=["pitch"]), tmp_path, about={})
    assert halves.both.chunks == 0
    with pytest.raises(UserError, match="spaces names one twice: tags, tags"):
        config_for(halves.shards, spaces=["tags", "tags"])


def test_only_the_reported_encoder_is_split() -> None:
    inner: Any = type("Wide", (), {"width": 5, "rate": 1, "samples": 1})
    one = Columns(inner, {"a": slice(0, 2), "b": slice(2, 5)})
    assert models_of("trained", one, ["b"]) == {"trained": slice(0, 5), "trained/b": slice(2, 5)}
    assert models_of("untrained", one, ["b"]) == {"untrained": slice(0, 5)}
    assert with_heads(one) is one
    assert spaces_of(inner) == {"embedding": slice(0, 5)}


RATE, SAMPLES = 22_050, 8_192


@dataclass(frozen=True)
class Tone:
    hz: float
    name: str = "tone"

    def read(self) -> tuple[Any, int]:
        time_s = np.arange(4 * SAMPLES) / RATE
        return (0.3 * np.sin(2 * np.pi * self.hz * time_s)).astype(np.float32), RATE


class PitchAndLevel:
    """Four columns of a tone's frequency on a circle, and four that are the same for all but a little."""

    width, rate, samples, hash = 4, RATE, SAMPLES, "pitch and level"
    spaces: Mapping[str, slice] = {"pitch": slice(0, 2), "level": slice(2, 4)}

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        power = torch.fft.rfft(wave_NT * torch.hann_window(SAMPLES)).abs()
        angle = torch.log2(power.argmax(1).float() * RATE / SAMPLES / 220)
        level = wave_NT.square().mean(1).sqrt()
        return torch.stack([angle.cos(), angle.sin(), torch.ones_like(level), level], 1)


def test_every_space_has_its_own_equivariance_curve_and_its_distances_on_every_resample(tmp_path: Path) -> None:
    splits: tuple[Split, ...] = ("train", "test")
    clips = [
        Clip(key=f"note{i}", audio=Tone(220 * 2 ** (i / 8)), track=f"track{i}", split=splits[i % 2], numeric={"n": i})
        for i in range(16)
    ]
    build(clips, tmp_path / "tones", BuildConfig())
    config = EvaluationConfig(spaces=("pitch", "level"), equivariance=EquivarianceConfig(semitones=(-4, 0, 4)))
    with ShardSet.open(tmp_path / "tones") as shards:
        inputs = EvaluationInputs(shards, Pool({"trained": PitchAndLevel()}), {}, config)
        curves, relative = measure_equivariance(inputs)
    value = {model: {point["x"]: point["value"] for point in of} for model, of in curves["semitones"].items()}
    assert list(value) == ["trained", "trained/pitch", "trained/level"]
    assert value["trained/pitch"][4] == pytest.approx(1 - np.cos(4 / 12), abs=0.01)
    assert abs(value["trained/level"][4]) < 1e-4
    assert set(relative) == {f"distance/semitones@{x}" for x in ("-4", "0", "4", "±4")}
    ratio = relative["distance/semitones@4"]["trained/pitch"].values_R
    assert ratio[0] == pytest.approx(value["trained/pitch"][4] / curves["between_clips"]["trained/pitch"])
    assert len(ratio) == 1 + config.confidence.resamples
    both = relative["distance/semitones@±4"]["trained/pitch"].values_R
    np.testing.assert_allclose(both, (ratio + relative["distance/semitones@-4"]["trained/pitch"].values_R) / 2)


def test_the_distance_between_clips_of_a_resample_is_that_of_the_pairs_it_drew() -> None:
    from evaluation.analyses.equivariance import _mean_between

    rng = np.random.default_rng(0)
    apart = rng.random((5, 5))
    apart = apart + apart.T + np.diag(rng.random(5))
    drawn = [[0, 1, 2, 3, 4], [0, 0, 1, 4, 4], [2, 2, 2, 3, 3]]
    weights = np.stack([np.bincount(one, minlength=5) for one in drawn]).astype(np.float64)
    expected = [np.mean([apart[i, j] for i in one for j in one if i != j]) for one in drawn]
    np.testing.assert_allclose(_mean_between(apart, weights), expected, rtol=1e-12)
