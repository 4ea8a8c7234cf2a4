"""Robustness, equivariance, projection and the comparison of encoders, on tones whose pitch is known."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.settings import UserError, load_config, to_tree, validate
from data_shards.build.build import BuildConfig, build
from data_shards.format.records import Clip, Split
from data_shards.read.reader import ShardSet
from evaluation.analyses.equivariance import check_tracks, measure_equivariance
from evaluation.analyses.projection import check_projection, project
from evaluation.analyses.robustness import conditions, measure_robustness, summarise
from evaluation.config import (
    EquivarianceConfig,
    EvaluationConfig,
    EvaluationData,
    ProjectionConfig,
    RobustnessConfig,
    Task,
)
from evaluation.embeddings.embed import EmbeddingTable, embed_shards
from evaluation.encoders.encoder import alike
from evaluation.encoders.pool import Pool
from evaluation.evaluate import evaluate_encoders
from evaluation.inputs import EvaluationInputs
from evaluation.probes import probe as probing
from evaluation.probes.training import TrainedHeads, train_heads
from evaluation.runnable import read_target
from evaluation.scores.score import TaskInputs, score_task
from evaluation.targets.target import Target
from trainers.augment.effects import GainConfig
from trainers.augment.parameters import AugmentConfig

RATE, SAMPLES = 22_050, 8_192
NO_SHARDS: Any = None
"""Of a stage that reads none."""
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
    """Energies of third-octave bands: they hold pitch and nothing of tempo. ``constant`` embeds all alike."""

    hash: str = "spectrum"
    constant: bool = False
    width: int = 24
    rate: int = RATE
    samples: int = SAMPLES

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        power = torch.fft.rfft(wave_NT * torch.hann_window(wave_NT.shape[1])).abs()
        edges = torch.logspace(2, 3.7, self.width + 1) * wave_NT.shape[1] / RATE
        bands = [power[:, int(a) : int(b) + 1].mean(1) for a, b in pairwise(edges.tolist())]
        h_NE = torch.log1p(torch.stack(bands, 1))
        return torch.ones_like(h_NE) if self.constant else h_NE


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
    targets = {name: read_target(shards.index, name, task) for name, task in config.tasks.items()}
    tables = {n: t for names in alike(encoders) for n, t in embedded(shards, {m: encoders[m] for m in names}).items()}
    inputs = [TaskInputs(name, config.tasks[name], target, tables, config) for name, target in targets.items()]
    scored = {one.name: score_task(one) for one in inputs}
    curves = measure_robustness(EvaluationInputs(shards, Pool(encoders), targets, config), scored)
    found: dict[str, Any] = summarise(curves, config)
    by_model: dict[str, Any] = found["pitch/accuracy"]
    return by_model


def embedded(shards: ShardSet, encoders: dict[str, Any]) -> dict[str, EmbeddingTable]:
    return embed_shards(shards, encoders, config_for())


@dataclass
class Recorder(Spectrum):
    """A spectrum that keeps the waves it read."""

    waves: list[Tensor] = field(default_factory=list)

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        self.waves += wave_NT.unbind()
        return super().__call__(wave_NT)


def waves(tones: Path, condition: str, *, rows: list[int] | None = None, **changes: Any) -> list[Tensor]:
    """What an encoder reads of some clips under a condition, chunk by chunk."""
    ear = Recorder(samples=changes.pop("samples", SAMPLES))
    wanted = RobustnessConfig(severities=(2,), corruptions=("splice_out", "time_stretch"))
    config = config_for(robustness=wanted, **changes)
    with ShardSet.open(tones) as shards:
        alter = conditions(config, RATE)[condition]
        place = np.arange(len(shards.index)) if rows is None else np.array(rows)
        embed_shards(shards, {"ear": ear}, config, rows=place, alter=alter)
    return ear.waves


def snr_db(wave_T: Tensor, other_T: Tensor) -> float:
    return float(10 * torch.log10(wave_T.square().sum() / (wave_T - other_T).square().sum().clamp(min=1e-20)))


def test_severity_zero_changes_nothing_and_four_costs_what_pitch_shift_must(tones: Path) -> None:
    config = config_for(robustness=RobustnessConfig(severities=(0, 4), corruptions=("bitcrush",)))
    with ShardSet.open(tones) as shards:
        found = robustness(shards, {"trained": Spectrum(), "untrained": Spectrum("constant", constant=True)}, config)
    assert list(found["trained"]) == ["clean", "severity 0", "severity 4", "bitcrush"]
    assert found["trained"]["clean"]["value"] == 1.0
    assert found["trained"]["severity 0"] == found["trained"]["clean"]
    assert found["trained"]["severity 4"]["change"]["value"] < -0.2  # ±8 semitones against pitches 4 apart
    assert found["trained"]["severity 4"]["change"]["high"] < 0
    assert found["trained"]["bitcrush"]["value"] > 0.9
    assert found["untrained"]["severity 4"]["change"]["value"] == 0


@pytest.mark.parametrize("condition", ["severity 2", "splice_out", "time_stretch"])
def test_what_a_clip_sounds_like_depends_on_nothing_beside_it(tones: Path, condition: str) -> None:
    """Not on the batch, and not on which other clips are embedded: a task beside it changes nothing."""
    whole, small = waves(tones, condition), waves(tones, condition, batch=5)
    alone = waves(tones, condition, rows=[3, 20, 41])
    assert len(whole) == len(small) == 4 * 48
    # The vocoder follows peaks, and a peak may fall into the next bin by a rounding that depends on the batch.
    assert min(map(snr_db, whole, small)) > 30
    assert min(map(snr_db, [whole[4 * row + place] for row in (3, 20, 41) for place in range(4)], alone)) > 30


def test_every_chunk_has_its_own_draw_whatever_its_length(tones: Path) -> None:
    """Gains of two clips' chunks: eight numbers, and the same for the first chunks of another encoder's length."""
    louder = replace(AugmentConfig().scaled(0), gain=GainConfig(p=1.0))
    config = config_for(robustness=RobustnessConfig(severities=(2,), augment=louder))
    gains = {}
    with ShardSet.open(tones) as shards:
        for samples in (SAMPLES, SAMPLES // 2):
            ear = Recorder(samples=samples)
            for alter in (None, conditions(config, RATE)["severity 2"]):
                embed_shards(shards, {"ear": ear}, config, rows=np.array([0, 7]), alter=alter)
            half = len(ear.waves) // 2
            pairs = zip(ear.waves[:half], ear.waves[half:], strict=True)
            gains[samples] = [float((loud / clean).nanmedian()) for clean, loud in pairs]
    assert len({round(gain, 4) for gain in gains[SAMPLES]}) == 8
    assert gains[SAMPLES] == pytest.approx(gains[SAMPLES // 2][:4] + gains[SAMPLES // 2][8:12], rel=1e-3)


def test_neither_a_task_nor_an_encoder_changes_anothers_robustness(tones: Path) -> None:
    wanted = RobustnessConfig(severities=(4,), corruptions=("time_stretch",))
    others = replace(TASK, vocabulary=(), kind="number", standardise=True)
    with ShardSet.open(tones) as shards:
        alone = robustness(shards, {"trained": Spectrum()}, config_for(robustness=wanted))
        tasks = {"height": others, "pitch": TASK}
        beside = {"trained": Spectrum(), "short": Spectrum("short", samples=SAMPLES // 2)}
        among = robustness(shards, beside, config_for(robustness=wanted, tasks=tasks))
    assert among["trained"] == alone["trained"]
    assert list(among) == ["trained", "short"]


def test_a_probe_is_trained_once_for_all_conditions(tones: Path, tmp_path: Path, monkeypatch: Any) -> None:
    trained: list[Task] = []

    def counted(task: Task, *rest: Any) -> TrainedHeads:
        trained.append(task)
        return train_heads(task, *rest)

    monkeypatch.setattr(probing, "train_heads", counted)
    wanted = RobustnessConfig(severities=(2,), corruptions=("bitcrush",))
    config = config_for(data=EvaluationData(shards=str(tones)), robustness=wanted)
    report = evaluate_encoders({"trained": Spectrum()}, config, tmp_path, about={})
    assert trained == [TASK]
    clean = report.tree["robustness"]["pitch/accuracy"]["trained"]["clean"]
    assert clean["value"] == report.tree["metrics"]["pitch/accuracy"]["value"]


@pytest.mark.parametrize(
    ("changes", "quality"),
    [
        ({}, "evaluation"),
        ({"robustness.severities": [2]}, "evaluation"),
        ({"robustness.augment.pitch.p": 0.5}, "evaluation"),
        ({"robustness.augment.preset": "as_released"}, "evaluation"),
        ({"robustness.augment": {"quality": "training"}}, "training"),
    ],
)
def test_robustness_is_measured_at_evaluation_quality(changes: dict[str, Any], quality: str) -> None:
    config = load_config(EvaluationConfig, None, changes)
    assert config.robustness.augment.quality == quality
    assert validate(EvaluationConfig, to_tree(config), "again") == config


def test_an_encoder_of_pitch_moves_with_it_and_not_with_tempo(tones: Path) -> None:
    wanted = EquivarianceConfig(semitones=(-4, 0, 1, 4), rates=(0.8, 1.0, 1.25))
    encoders = {"trained": Spectrum(), "untrained": Spectrum("constant", constant=True)}
    with ShardSet.open(tones) as shards:
        curves, _ = measure_equivariance(EvaluationInputs(shards, Pool(encoders), {}, config_for(equivariance=wanted)))
    by_step = {point["x"]: point["value"] for point in curves["semitones"]["trained"]}
    assert by_step[0] == pytest.approx(0, abs=1e-6)
    assert by_step[4] > by_step[1] > 0.001
    assert max(point["value"] for point in curves["rate"]["trained"]) < 0.3 * by_step[4]
    assert all(point["value"] == pytest.approx(0, abs=1e-6) for point in curves["semitones"]["untrained"])
    assert curves["between_clips"]["untrained"] == pytest.approx(0, abs=1e-6)


def test_a_transformation_can_be_read_from_an_encoder_of_it_and_from_no_constant_one(tones: Path) -> None:
    wanted = EquivarianceConfig(semitones=(-3, 0, 3), probe=True)
    encoders = {"trained": Spectrum(width=96), "untrained": Spectrum("constant", constant=True)}
    with ShardSet.open(tones) as shards:
        found, _ = measure_equivariance(EvaluationInputs(shards, Pool(encoders), {}, config_for(equivariance=wanted)))
    probes = found["probe"]["semitones"]
    pitch, constant = probes["trained"], probes["untrained"]
    assert pitch["value"] > 0.5 > 0.2 > constant["value"]
    assert pitch["low"] <= pitch["value"] <= pitch["high"]
    assert pitch["error"] < 1.5 < constant["error"]
    assert pitch["unit"] == "semitones"


def test_clips_too_short_for_the_fastest_rate_are_refused(tones: Path) -> None:
    wanted = config_for(equivariance=EquivarianceConfig(rates=(9.0,)))
    with ShardSet.open(tones) as shards, pytest.raises(UserError, match="two test tracks of"):
        check_tracks(EvaluationInputs(shards, Pool({"trained": Spectrum()}), {}, wanted))


def test_projection_keeps_classes_together_and_reads_midi(make_target: MakeTarget) -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(240) // 4 % 4
    target = make_target(codes.astype(np.int64), ("57", "61", "69", "73"))
    rows = (10 * np.eye(4)[codes] + rng.normal(size=(240, 4))).astype(np.float32)
    table = EmbeddingTable(rows, tuple(map(str, range(240))), rows[:0], np.ones(240, np.int64), "t", "m")
    notes = {"note": TASK, "mood": TASK}
    config = config_for(tasks=notes, projection=ProjectionConfig(task="note", midi=True, perplexity=10))
    inputs = EvaluationInputs(NO_SHARDS, Pool({}), {"note": target}, config)
    check_projection(inputs)
    found = project(inputs, {"trained": table})
    xy, colour = np.array(found["points"]["trained"]), np.array(found["colour"])
    assert set(zip(colour.tolist(), found["octave"], strict=True)) == {(9, 3), (1, 4), (9, 4), (1, 5)}
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 1e9 * np.eye(len(xy))
    kind = codes[target.only("test").rows_K]
    assert (kind[distance.argmin(1)] == kind).mean() > 0.95
    absent = config_for(tasks=notes, projection=ProjectionConfig(task="mood"))
    with pytest.raises(UserError, match=r"projection\.task=mood does not run: the set has no column for it.*; note do"):
        check_projection(replace(inputs, config=absent))
    named = replace(target, classes=("57", "Db", "69", "73"))
    with pytest.raises(UserError, match=r"projection\.midi needs MIDI notes, whole numbers, and task note has 'Db'"):
        check_projection(replace(inputs, targets={"note": named}))
    with pytest.raises(UserError, match=r"projection\.task=note has 3 test clips; t-SNE needs at least 5"):
        check_projection(replace(inputs, targets={"note": target.where(np.arange(240) < 15)}))


def test_everything_on_request_stands_in_one_report(tones: Path, tmp_path: Path) -> None:
    config = config_for(
        data=EvaluationData(shards=str(tones)),
        robustness=RobustnessConfig(severities=(2,), corruptions=("distortion",)),
        equivariance=EquivarianceConfig(semitones=(0, 2), probe=True),
        projection=ProjectionConfig(task="pitch", midi=True),
        claims=("pitch/accuracy",),
    )
    encoders = {"trained": Spectrum(), "untrained": Spectrum("constant", constant=True), "other": Spectrum("other")}
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
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 6
    assert not set("−–²") & set(tex)


def test_settings_of_what_is_measured_on_request_are_checked() -> None:
    with pytest.raises(ValueError, match=r"corruptions must be of chorus, .*, got echo"):
        RobustnessConfig(corruptions=("echo",))
    with pytest.raises(ValueError, match="rates must be > 0"):
        EquivarianceConfig(rates=(0.0,))
    with pytest.raises(ValueError, match="probe needs semitones, rates or both"):
        EquivarianceConfig(probe=True)
    with pytest.raises(ValueError, match="midi needs a task"):
        ProjectionConfig(midi=True)
    with pytest.raises(ValueError, match="against cannot be called untrained"):
        EvaluationConfig(against={"untrained": "x"})
    with pytest.raises(ValueError, match="device must be cpu, cuda or cuda:N, got gpu"):
        EvaluationConfig(device="gpu")
    with pytest.raises(ValueError, match=r"projection\.task=pich is not one of the tasks; try pitch"):
        config_for(projection=ProjectionConfig(task="pich"))
