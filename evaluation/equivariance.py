"""How far an embedding moves when pitch or tempo does: cosine distance against semitones and against stretch rate.

A flat curve is an invariance, a steep one says that the property is there to be found. The distance between different
clips stands beside it, since a collapsed encoder moves little under anything.

Shape suffixes: K clips, T samples of a chunk, L samples read, X steps of the curve, E encoder width.
Source: 2412.18955, Fig. 3.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.progress import Progress
from cluster.settings import UserError
from data_shards.reader import ShardSet
from evaluation.confidence import Resamples, as_row, draw_resamples
from evaluation.embed import PCM_SCALE, Encoder, run_encoder
from evaluation.retrieval import unit_rows
from evaluation.score import generator
from evaluation.tasks import EvaluationConfig
from trainers.augment.phase_vocoder import pitch_time

N_FFT = 2048
MARGIN = 4 * N_FFT
"""Samples read beyond the stretched chunk, so that it never ends in silence."""


def measure_equivariance(
    shards: ShardSet, encoders: Mapping[str, Encoder], config: EvaluationConfig, *, progress: Progress
) -> dict[str, Any]:
    """Curves of every model over test clips, with intervals over tracks.

    Returns:
        ``semitones`` and ``rate`` → model → list of x, value, low, high; ``between_clips`` → model → mean distance.
    """
    wanted = config.equivariance
    samples = next(iter(encoders.values())).samples
    wave_KL, tracks = _read(shards, config, samples)
    resamples = draw_resamples(
        tracks, resamples=config.confidence.resamples, seeds=1, rng=generator(config, "equivariance", "resamples")
    )
    curves: dict[str, Any] = {"semitones": {}, "rate": {}, "between_clips": {}, "clips": len(tracks)}
    steps = [("semitones", float(x)) for x in wanted.semitones] + [("rate", float(x)) for x in wanted.rates]
    still = {name: unit_rows(_embed(encoder, wave_KL[:, :samples], config)) for name, encoder in encoders.items()}
    for name, unit_KE in still.items():
        others = 1 - unit_KE.astype(np.float64) @ unit_KE.T
        curves["between_clips"][name] = float(others[~np.eye(len(others), dtype=np.bool_)].mean())
    with progress.stage("equivariance", len(steps)) as bar:
        for done, (axis, x) in enumerate(steps, 1):
            moved_KT = _move(wave_KL, axis, x, samples)
            for name, encoder in encoders.items():
                moved = unit_rows(_embed(encoder, moved_KT, config))
                distance_K = 1 - (still[name].astype(np.float64) * moved).sum(1)
                curves[axis].setdefault(name, []).append(_point(x, distance_K, resamples, config))
            bar(done, f"{axis} {x:g}")
    return curves


def _read(shards: ShardSet, config: EvaluationConfig, samples: int) -> tuple[Tensor, list[str]]:
    """The start of test clips that are long enough for the fastest rate, one a track."""
    fastest = max((1.0, *config.equivariance.rates))
    length = math.ceil(samples * fastest) + MARGIN
    index = shards.index
    rows = [int(row) for row in index.rows("test") if index.frames[row] >= length]
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(str(index.track[row]), row)
    chosen = list(first.items())[: config.equivariance.clips]
    if len(chosen) < 2:
        raise UserError(f"equivariance needs two test tracks of {length / shards.rate:.1f} s; lower equivariance.rates")
    waves = [shards.read_window(row, 0, length).astype(np.float32) * np.float32(PCM_SCALE) for _, row in chosen]
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
    parts = [run_encoder(encoder, part_NT.to(config.device)) for part_NT in torch.split(wave_KT, config.batch)]
    return np.concatenate(parts)


def _point(
    x: float, distance_K: NDArray[np.float64], resamples: Resamples, config: EvaluationConfig
) -> dict[str, float | None]:
    weights_RK = resamples.weights_RK
    return {"x": x, **as_row(weights_RK @ distance_K / weights_RK.sum(1), config.confidence.level)}
