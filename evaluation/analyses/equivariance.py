"""How far an embedding moves when pitch or tempo does: cosine distance against semitones and against stretch rate.

A flat curve is an invariance, a steep one means that the embedding holds the property. The distance between different
clips is given beside it, since a collapsed encoder moves little under anything; the ratio of the two is kept on every
resample, so that a study can compare encoders and spaces. A linear probe asks more: whether the transformation can be
read from the two embeddings. Every space that is evaluated has its own curves, from the same embeddings.

Shape suffixes: K clips, T samples of a chunk, L samples read, X steps of the curve, E encoder width.
Source: 2412.18955, Fig. 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.settings import UserError
from data_shards.read.reader import ShardSet
from evaluation.config import EvaluationConfig
from evaluation.embeddings.embed import PCM_SCALE, run_encoder
from evaluation.encoders.encoder import Encoder, alike, models_of
from evaluation.inputs import EvaluationInputs
from evaluation.metrics.confidence import Resamples, as_row, draw_resamples
from evaluation.metrics.neighbours import unit_rows
from evaluation.metrics.samples import MetricSamples
from evaluation.metrics.weighted import pair_mean, r_squared
from evaluation.scores.score import generator
from trainers.augment.dsp.phase_vocoder import pitch_time

N_FFT = 2048
Relative = dict[str, dict[str, MetricSamples]]
"""Metric → model → values on every resample."""
MARGIN = 4 * N_FFT
"""Samples read beyond the stretched chunk, so that it never ends in silence."""


@dataclass(frozen=True)
class Moved:
    """Clips of one split as they are, and the embeddings of their moved forms."""

    tracks: list[str]
    still_KE: NDArray[np.float32]
    by_step: dict[float, NDArray[np.float32]]
    """Semitones or tempo ratio → embeddings (K, E)."""

    def within(self, place: slice) -> "Moved":
        """The same in some columns of the embedding."""
        by_step = {x: h_KE[:, place] for x, h_KE in self.by_step.items()}
        return Moved(self.tracks, self.still_KE[:, place], by_step)


def measure_equivariance(inputs: EvaluationInputs) -> tuple[dict[str, Any], Relative]:
    """Curves of every model over test clips, with intervals over tracks; the probe if it is wanted.

    Returns:
        ``semitones`` and ``rate`` → model → list of x, value, low, high; ``between_clips`` → model → mean distance;
        ``probe`` → axis → model → value (R²), low, high, error, unit.
        And `relative_distances` of every model.
    """
    shards, encoders, config = inputs.shards, inputs.encoders, inputs.config
    wanted = config.equivariance
    found: dict[str, Any] = {"semitones": {}, "rate": {}, "between_clips": {}}
    relative: Relative = {}
    axes = {axis: steps for axis, steps in (("semitones", wanted.semitones), ("rate", wanted.rates)) if steps}
    splits = _splits(config)
    with inputs.progress.stage("equivariance", len(splits) * sum(map(len, axes.values())) * len(encoders)) as bar:
        done = 0
        for names in alike(encoders):
            first = encoders[names[0]]
            waves = {split: _read(shards, config, split, first.rate, first.samples) for split in splits}
            for axis, steps in axes.items():
                for name in names:
                    whole = {split: _moved(encoders[name], *waves[split], axis, steps, config) for split in splits}
                    for model, place in models_of(name, encoders[name], config.spaces).items():
                        moved = {split: of_split.within(place) for split, of_split in whole.items()}
                        found[axis][model] = _curve(moved["test"], config)
                        found["between_clips"][model] = _between(moved["test"].still_KE)
                        for metric, samples in relative_distances(moved["test"], axis, config).items():
                            relative.setdefault(metric, {})[model] = samples
                        if wanted.probe:
                            row = read_transformation(moved["train"], moved["test"], axis, config)
                            found.setdefault("probe", {}).setdefault(axis, {})[model] = row
                    found["clips"] = len(whole["test"].tracks)
                    done += len(splits) * len(steps)
                    bar(done, f"{axis}, {name}")
    return found, relative


def relative_distances(moved: Moved, axis: str, config: EvaluationConfig) -> dict[str, MetricSamples]:
    """Distance of the moved music over the distance between different clips, on every resample of the tracks.

    Returns:
        ``distance/semitones@4`` → values, by axis and step; where both a step and its negative are there, their mean
        as ``distance/semitones@±4`` too.
    """
    still = unit_rows(moved.still_KE).astype(np.float64)
    apart_KK = 1 - still @ still.T
    resamples = _resamples(moved, config)
    between_R = resamples.measure(partial(_mean_between, apart_KK))
    found = {}
    for x, h_KE in moved.by_step.items():
        distance_K = 1 - (still * unit_rows(h_KE)).sum(1)
        distance_R = resamples.measure(partial(pair_mean, distance_K, np.ones(len(still))))
        with np.errstate(invalid="ignore", divide="ignore"):  # a collapsed encoder has all clips in one place
            found[f"{x:g}"] = distance_R / between_R
    both = {f"±{x}": (found[x] + found[f"-{x}"]) / 2 for x in found if f"-{x}" in found}
    return {f"distance/{axis}@{x}": MetricSamples(values_R, {}) for x, values_R in (found | both).items()}


def _mean_between(apart_KK: NDArray[np.float64], w_BK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean distance of two different clips, shape (B,), each pair as often as both were drawn."""
    sums_B = ((w_BK @ apart_KK) * w_BK).sum(1) - w_BK**2 @ np.diag(apart_KK)
    with np.errstate(invalid="ignore", divide="ignore"):  # one clip drawn alone
        mean_B: NDArray[np.float64] = sums_B / (w_BK.sum(1) ** 2 - (w_BK**2).sum(1))
    return mean_B


def read_transformation(train: Moved, test: Moved, axis: str, config: EvaluationConfig) -> dict[str, Any]:
    """How well a linear map predicts the transformation from the difference of two embeddings of unit norm.

    Ridge regression of semitones (of log2 of the rate) on train tracks; its penalty by cross-validation over tracks.

    Returns:
        R² over test pairs with its interval over tracks, mean absolute error and its unit.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x_train, y_train), (x_test, y_test) = _pairs(train, axis), _pairs(test, axis)
    groups = np.tile(np.arange(len(train.tracks)), len(train.by_step))
    folds = GroupKFold(min(5, len(train.tracks))).split(x_train, y_train, groups)
    probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 15), cv=list(folds)))
    predicted = probe.fit(x_train, y_train).predict(x_test)
    steps = len(test.by_step)
    r2_R = _resamples(test, config).measure(lambda w_BK: r_squared(predicted, y_test, np.tile(w_BK, steps)))
    row: dict[str, Any] = dict(as_row(r2_R, config.confidence.level))
    error = np.abs(predicted - y_test)
    if axis == "rate":
        return row | {"error": float(100 * (2**error - 1).mean()), "unit": "% of the rate"}
    return row | {"error": float(error.mean()), "unit": "semitones"}


def _pairs(moved: Moved, axis: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    still = unit_rows(moved.still_KE).astype(np.float64)
    x = np.concatenate([unit_rows(h_KE) - still for h_KE in moved.by_step.values()])
    steps = [step if axis == "semitones" else math.log2(step) for step in moved.by_step]
    return x, np.repeat(np.array(steps), len(still))


def _curve(moved: Moved, config: EvaluationConfig) -> list[dict[str, float | None]]:
    still = unit_rows(moved.still_KE).astype(np.float64)
    resamples, points = _resamples(moved, config), []
    for x, h_KE in moved.by_step.items():
        distance_K = 1 - (still * unit_rows(h_KE)).sum(1)
        mean_R = resamples.measure(partial(pair_mean, distance_K, np.ones(len(still))))
        points.append({"x": x, **as_row(mean_R, config.confidence.level)})
    return points


def _between(h_KE: NDArray[np.float32]) -> float:
    unit_KE = unit_rows(h_KE).astype(np.float64)
    others = 1 - unit_KE @ unit_KE.T
    return float(others[~np.eye(len(others), dtype=np.bool_)].mean())


def _resamples(moved: Moved, config: EvaluationConfig) -> Resamples:
    rng = generator(config, "equivariance", "resamples")
    return draw_resamples(moved.tracks, resamples=config.confidence.resamples, seeds=1, rng=rng)


def _moved(
    encoder: Encoder, wave_KL: Tensor, tracks: list[str], axis: str, steps: Sequence[float], config: EvaluationConfig
) -> Moved:
    by_step = {float(x): _embed(encoder, _move(wave_KL, axis, float(x), encoder.samples), config) for x in steps}
    return Moved(tracks, _embed(encoder, wave_KL[:, : encoder.samples], config), by_step)


def check_tracks(inputs: EvaluationInputs) -> None:
    """Refuse a set without two tracks of every split that are long enough for the fastest rate."""
    shards, config = inputs.shards, inputs.config
    for encoder in inputs.encoders.values():
        for split in _splits(config):
            _, length = _lengths(shards, config, encoder.rate, encoder.samples)
            if len(_long_tracks(shards, split, length)) < 2:
                seconds = length / shards.rate
                raise UserError(f"equivariance needs two {split} tracks of {seconds:.1f} s; lower equivariance.rates")


def _splits(config: EvaluationConfig) -> tuple[str, ...]:
    return ("train", "test") if config.equivariance.probe else ("test",)


def _lengths(shards: ShardSet, config: EvaluationConfig, rate: int, samples: int) -> tuple[int, int]:
    """Samples that the fastest rate reads, at an encoder's rate and at the shards'."""
    wanted = math.ceil(samples * max((1.0, *config.equivariance.rates))) + MARGIN
    return wanted, math.ceil(wanted * shards.rate / rate)


def _long_tracks(shards: ShardSet, split: str, length: int) -> dict[str, int]:
    """Tracks of a split with a clip of so many samples, and its row: one clip a track."""
    index = shards.index
    first: dict[str, int] = {}
    for row in index.rows(split):
        if index.frames[row] >= length:
            first.setdefault(str(index.track[row]), int(row))
    return first


def _read(shards: ShardSet, config: EvaluationConfig, split: str, rate: int, samples: int) -> tuple[Tensor, list[str]]:
    """The start of a split's clips that are long enough for the fastest rate, one a track, at an encoder's rate."""
    wanted, length = _lengths(shards, config, rate, samples)
    chosen = list(_long_tracks(shards, split, length).items())[: config.equivariance.clips]
    waves = [shards.read_window(row, 0, length).astype(np.float32) * np.float32(PCM_SCALE) for _, row in chosen]
    if rate != shards.rate:
        waves = [np.resize(soxr.resample(wave, shards.rate, rate, quality="HQ"), wanted) for wave in waves]
    return torch.from_numpy(np.stack(waves)), [track for track, _ in chosen]


def _move(wave_KL: Tensor, axis: str, x: float, samples: int) -> Tensor:
    """The same stretch of music, moved: not one sample of it changes at 0 semitones or rate 1."""
    ones_K = torch.ones(len(wave_KL), dtype=torch.float64)
    ratio_K = ones_K * 2 ** (x / 12) if axis == "semitones" else ones_K
    tempo_K = ones_K * x if axis == "rate" else ones_K
    if float(ratio_K[0]) == float(tempo_K[0]) == 1:
        return wave_KL[:, :samples]
    return pitch_time(wave_KL, ratio_K, tempo_K, n_fft=N_FFT, num_samples=samples)


def _embed(encoder: Encoder, wave_KT: Tensor, config: EvaluationConfig) -> NDArray[np.float32]:
    parts = [run_encoder(encoder, part_NT) for part_NT in torch.split(wave_KT, config.batch)]
    return np.asarray(torch.cat(parts).cpu().numpy())
