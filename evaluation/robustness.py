"""How much a probe loses when the music is corrupted: heads trained on clean embeddings, tested on corrupted audio.

Severity s is the training chain with its probabilities and ranges scaled by s/2 (2407.13840 §5.3, Fig. 3); the seven
novel corruptions stand at their released settings (§9.4, Fig. 6). Every chunk's draw is keyed by its number, so all
models hear the same.

Shape suffixes: N chunks of a batch, T samples, K test clips.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cluster.progress import Progress
from data_shards.reader import ShardSet
from evaluation.confidence import as_row
from evaluation.embed import Alter, EmbeddingTable, Encoder, alike, embed_shards
from evaluation.judge import Judged, Values, judge_answers
from evaluation.pool import as_pool
from evaluation.probing import Probe, by_width, fit_probe
from evaluation.score import SPLITS, test_resamples
from evaluation.targets import Target
from evaluation.tasks import EvaluationConfig
from trainers.augment.chain import AugmentChain
from trainers.augment.corruptions import corrupt

CLEAN, SEVERITY = "clean", "severity "
Curves = dict[str, dict[str, dict[str, Judged]]]
"""Metric → model → condition → values on the set and its resamples."""


def conditions(config: EvaluationConfig, rate: int) -> dict[str, Alter]:
    """Every way the audio is altered, by name."""
    wanted = config.robustness
    altered: dict[str, Alter] = {f"{SEVERITY}{s:g}": _chain(config, s, rate) for s in wanted.severities}
    return altered | {name: _corruption(name, config.seed, rate) for name in wanted.corruptions}


def measure_robustness(
    shards: ShardSet,
    encoders: Mapping[str, Encoder],
    targets: Mapping[str, Target],
    tables: Mapping[str, EmbeddingTable],
    config: EvaluationConfig,
    *,
    progress: Progress,
) -> Curves:
    """Metrics of every probe, model and condition.

    Args:
        shards: the set.
        encoders: by name.
        targets: of the tasks.
        tables: clean embeddings of the whole set.
        config: tasks, conditions, bootstrap.
        progress: told of the clips that are done.

    Returns:
        Metric → model → condition → values on the set and its resamples; ``summarise`` makes rows of them.
    """
    probed = {name: target for name, target in targets.items() if config.tasks[name].probe}
    probes = {name: _fit(name, target, tables, config) for name, target in probed.items()}
    rows = np.unique(np.concatenate([target.only("test").rows_K for target in probed.values()]))
    result: Curves = {}
    clean = {name: _select(table, rows) for name, table in tables.items()}
    pool = as_pool(encoders)
    for condition in (CLEAN, *conditions(config, shards.rate)):
        heard = clean
        if condition != CLEAN:
            heard = {}
            for names in alike(pool):
                alter = conditions(config, pool[names[0]].rate)[condition]
                heard |= embed_shards(shards, pool.only(names), config, rows=rows, alter=alter, progress=progress)
        for name, target in probed.items():
            test = target.only("test")
            at_K = np.searchsorted(rows, test.rows_K)
            answers = {m: a for probe in probes[name] for m, a in probe.answer(heard, at_K).items()}
            for metric, model, judged in _judge(name, answers, test, config):
                result.setdefault(metric, {}).setdefault(model, {})[condition] = judged
    return result


def summarise(curves: Curves, config: EvaluationConfig) -> dict[str, Any]:
    """Metric → model → condition → value, low, high, and the same of its paired change, a share of the clean value."""
    return {metric: {model: _summary(found, config) for model, found in row.items()} for metric, row in curves.items()}


def _fit(name: str, target: Target, tables: Mapping[str, EmbeddingTable], config: EvaluationConfig) -> list[Probe]:
    parts = {split: target.only(split) for split in SPLITS}
    return [fit_probe(config.tasks[name], parts, group, config) for group in by_width(tables)]


def _judge(
    name: str, answers: Mapping[str, Values], test: Target, config: EvaluationConfig
) -> Iterator[tuple[str, str, Judged]]:
    resamples = test_resamples(name, test, config)
    for model, answer in answers.items():
        for metric, judged in judge_answers(config.tasks[name].kind, answer, test, resamples).items():
            yield f"{name}/{metric}", model, judged


def _summary(found: Mapping[str, Judged], config: EvaluationConfig) -> dict[str, dict[str, Any]]:
    level, rows = config.confidence.level, {}
    for condition, judged in found.items():
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample on which the clean probe scores nothing
            change_R = judged.values_R / found[CLEAN].values_R - 1
        rows[condition] = {**judged.row(level), "change": as_row(change_R, level)}
    return rows


def _select(table: EmbeddingTable, rows: NDArray[np.int64]) -> EmbeddingTable:
    ends = np.cumsum(table.counts_K)
    chunks = [np.arange(ends[row] - table.counts_K[row], ends[row]) for row in rows]
    chunks_PE = table.chunks_PE[np.concatenate(chunks)] if len(table.chunks_PE) else table.chunks_PE
    keys = tuple(table.keys[row] for row in rows)
    return EmbeddingTable(table.h_KE[rows], keys, chunks_PE, table.counts_K[rows], table.encoder, table.manifest)


def _chain(config: EvaluationConfig, severity: float, rate: int) -> Alter:
    chain = AugmentChain(config.robustness.augment.scaled(severity), rate)

    def alter(wave_NT: Tensor, chunk_N: Tensor) -> Tensor:
        return chain.apply(wave_NT, chain.draw(chunk_N, step=0, seed=config.seed, view=0))

    return alter


def _corruption(name: str, seed: int, rate: int) -> Alter:
    def alter(wave_NT: Tensor, chunk_N: Tensor) -> Tensor:
        return corrupt(name, wave_NT, chunk_N, sample_rate=rate, seed=seed)

    return alter
