"""Robustness, equivariance, projection and the comparison of encoders, on tones whose pitch is known."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.progress import SILENT
from cluster.settings import UserError
from data_shards.build import BuildConfig, build
from data_shards.reader import ShardSet
from data_shards.records import Clip, Split
from evaluation.embed import EmbeddingTable, embed_shards
from evaluation.equivariance import measure_equivariance
from evaluation.evaluate import evaluate_encoders
from evaluation.projection import project
from evaluation.robustness import measure_robustness, summarise
from evaluation.targets import Target, read_target
from evaluation.tasks import (
    EquivarianceConfig,
    EvaluationConfig,
    EvaluationData,
    ProjectionConfig,
    RobustnessConfig,
    Task,
)

RATE, SAMPLES = 22_050, 8_192
MakeTarget = Callable[..., Target]
TASK = Task(column="pitch", kind="class", probe=True, head="linear", dropout=0.0, learning_rate=0.05, max_epochs=80)


@dataclass(frozen=True)
class Tone:
    hz: float
    name: str = "tone"

    def read(self) -> tuple[NDArray[np.float32], int]:
        time_s = np.arange(4 * SAMPLES) / RATE
        wave = sum(0.2 / h * np.sin(2 * np.pi * h * self.hz * time_s) for h in (1, 2, 3))
        return np.asarray(wave, np.float32), RATE


@dataclass
class Spectrum:
    """Energies of third-octave bands: hears pitch and nothing of tempo. ``deaf`` hears nothing at all."""

    hash: str = "spectrum"
    deaf: bool = False
    width: int = 24
    rate: int = RATE
    samples: int = SAMPLES

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        power = torch.fft.rfft(wave_NT * torch.hann_window(wave_NT.shape[1])).abs()
        edges = torch.logspace(2, 3.7, self.width + 1) * wave_NT.shape[1] / RATE
        bands = [power[:, int(a) : int(b) + 1].mean(1) for a, b in pairwise(edges.tolist())]
        h_NE = torch.log1p(torch.stack(bands, 1))
        return torch.ones_like(h_NE) if self.deaf else h_NE


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Notes of six pitches a third apart, eight of each."""
    splits: tuple[Split, ...] = ("train", "train", "valid", "test")
    clips = [
        Clip(
            key=f"note{i}", audio=Tone(220 * 2 ** (i % 6 / 3) * 1.001 ** (i // 6)), track=f"track{i}",
            split=splits[i // 6 % 4], numeric={"pitch": float(57 + 4 * (i % 6))},
        )
        for i in range(48)
    ]  # fmt: skip
    out = tmp_path_factory.mktemp("tones") / "shards"
    build(clips, out, BuildConfig())
    return out


def config_for(**changes: Any) -> EvaluationConfig:
    return replace(EvaluationConfig(tasks={"pitch": TASK}, seeds=2, ks=(1,)), **changes)


def robustness(shards: ShardSet, encoders: dict[str, Any], config: EvaluationConfig) -> dict[str, Any]:
    targets = {"pitch": read_target(shards.index, "pitch", TASK)}
    tables = embed_shards(shards, encoders, config)
    curves = measure_robustness(shards, encoders, targets, tables, config, progress=SILENT)
    found: dict[str, Any] = summarise(curves, config)
    by_model: dict[str, Any] = found["pitch/accuracy"]
    return by_model


def test_severity_zero_changes_nothing_and_four_costs_what_pitch_shift_must(tones: Path) -> None:
    config = config_for(robustness=RobustnessConfig(severities=(0, 4), corruptions=("bitcrush",)))
    with ShardSet.open(tones) as shards:
        found = robustness(shards, {"trained": Spectrum(), "untrained": Spectrum("deaf", deaf=True)}, config)
    assert list(found["trained"]) == ["clean", "severity 0", "severity 4", "bitcrush"]
    assert found["trained"]["clean"]["value"] == 1.0
    assert found["trained"]["severity 0"] == found["trained"]["clean"]
    assert found["trained"]["severity 4"]["change"]["value"] < -0.2  # ±8 semitones against pitches 4 apart
    assert found["trained"]["severity 4"]["change"]["high"] < 0
    assert found["trained"]["bitcrush"]["value"] > 0.9
    assert found["untrained"]["severity 4"]["change"]["value"] == 0


def test_a_corruption_does_not_depend_on_the_batch(tones: Path) -> None:
    wanted = RobustnessConfig(severities=(2,))
    with ShardSet.open(tones) as shards:
        one, other = (
            robustness(shards, {"trained": Spectrum()}, config_for(robustness=wanted, batch=batch)) for batch in (5, 64)
        )
    assert one["trained"]["severity 2"]["value"] == pytest.approx(other["trained"]["severity 2"]["value"], abs=0.1)


def test_an_encoder_that_hears_pitch_moves_with_it_and_not_with_tempo(tones: Path) -> None:
    wanted = EquivarianceConfig(semitones=(-4, 0, 1, 4), rates=(0.8, 1.0, 1.25))
    encoders = {"trained": Spectrum(), "untrained": Spectrum("deaf", deaf=True)}
    with ShardSet.open(tones) as shards:
        curves = measure_equivariance(shards, encoders, config_for(equivariance=wanted), progress=SILENT)
    by_step = {point["x"]: point["value"] for point in curves["semitones"]["trained"]}
    assert by_step[0] == pytest.approx(0, abs=1e-6)
    assert by_step[4] > by_step[1] > 0.001
    assert max(point["value"] for point in curves["rate"]["trained"]) < 0.3 * by_step[4]
    assert all(point["value"] == pytest.approx(0, abs=1e-6) for point in curves["semitones"]["untrained"])
    assert curves["between_clips"]["untrained"] == pytest.approx(0, abs=1e-6)


def test_a_transformation_can_be_read_from_an_encoder_that_hears_it_and_from_no_deaf_one(tones: Path) -> None:
    wanted = EquivarianceConfig(semitones=(-3, 0, 3), probe=True)
    encoders = {"trained": Spectrum(width=96), "untrained": Spectrum("deaf", deaf=True)}
    with ShardSet.open(tones) as shards:
        found = measure_equivariance(shards, encoders, config_for(equivariance=wanted), progress=SILENT)["probe"]
    pitch, deaf = found["semitones"]["trained"], found["semitones"]["untrained"]
    assert pitch["value"] > 0.5 > 0.2 > deaf["value"]
    assert pitch["low"] <= pitch["value"] <= pitch["high"]
    assert pitch["error"] < 1.5 < deaf["error"]
    assert pitch["unit"] == "semitones"


def test_clips_too_short_for_the_fastest_rate_are_refused(tones: Path) -> None:
    wanted = config_for(equivariance=EquivarianceConfig(rates=(9.0,)))
    with ShardSet.open(tones) as shards, pytest.raises(UserError, match="two test tracks of"):
        measure_equivariance(shards, {"trained": Spectrum()}, wanted, progress=SILENT)


def test_projection_keeps_classes_together_and_reads_midi(make_target: MakeTarget) -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(240) // 4 % 4
    target = make_target(codes.astype(np.int64), ("57", "61", "69", "73"))
    rows = (10 * np.eye(4)[codes] + rng.normal(size=(240, 4))).astype(np.float32)
    table = EmbeddingTable(rows, tuple(map(str, range(240))), rows[:0], np.ones(240, np.int64), "t", "m")
    config = config_for(projection=ProjectionConfig(task="note", midi=True, perplexity=10))
    found = project({"trained": table}, {"note": target}, config)
    xy, colour = np.array(found["points"]["trained"]), np.array(found["colour"])
    assert set(zip(colour.tolist(), found["octave"], strict=True)) == {(9, 3), (1, 4), (9, 4), (1, 5)}
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 1e9 * np.eye(len(xy))
    kind = codes[target.only("test").rows_K]
    assert (kind[distance.argmin(1)] == kind).mean() > 0.95
    with pytest.raises(UserError, match=r"projection\.task=mood is not one of the tasks"):
        project({"trained": table}, {"note": target}, config_for(projection=ProjectionConfig(task="mood")))


def test_everything_on_request_stands_in_one_report(tones: Path, tmp_path: Path) -> None:
    config = config_for(
        data=EvaluationData(shards=str(tones)),
        robustness=RobustnessConfig(severities=(2,), corruptions=("distortion",)),
        equivariance=EquivarianceConfig(semitones=(0, 2), probe=True),
        projection=ProjectionConfig(task="pitch", midi=True),
        claims=("pitch/accuracy",),
    )
    encoders = {"trained": Spectrum(), "untrained": Spectrum("deaf", deaf=True), "other": Spectrum("other")}
    report = evaluate_encoders(encoders, config, tmp_path, about={})
    assert {"robustness", "equivariance", "projection"} <= set(report.figures)
    assert report.tree["differences"]["other"]["pitch/accuracy"] == {
        "value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "p_holm": 1.0,
    }  # fmt: skip
    assert report.tree["differences"]["untrained"]["pitch/accuracy"]["low"] > 0
    titles = ("pitch/accuracy under corruption", "Cosine distance against semitones", "Transformation read from two")
    for form in ("report.md", "report.tex", "report.html"):
        text = (tmp_path / form).read_text()
        assert all(title in text for title in (*titles, "severity 2", "Splits")), form
    tex = (tmp_path / "report.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 5
    assert not set("−–²") & set(tex)


def test_settings_of_what_is_measured_on_request_are_checked() -> None:
    with pytest.raises(ValueError, match=r"corruptions must be of chorus, .*, got echo"):
        RobustnessConfig(corruptions=("echo",))
    with pytest.raises(ValueError, match="rates must be > 0"):
        EquivarianceConfig(rates=(0.0,))
    with pytest.raises(ValueError, match="against cannot be called untrained"):
        EvaluationConfig(against={"untrained": "x"})
