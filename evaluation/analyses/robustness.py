"""How much a probe loses when the music is corrupted: heads trained on clean embeddings, tested on corrupted audio.

Severity s is the training chain with its probabilities and ranges scaled by s/2 (2407.13840 §5.3, Fig. 3); the seven
novel corruptions have their released settings (§9.4, Fig. 6). Every chunk's draw is keyed by its clip and its
place there, so no task or model changes what another meets, and all models of one chunk length read the same.

Shape suffixes: N chunks of a batch, T samples, K test clips.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from evaluation.config import EvaluationConfig
from evaluation.embeddings.columns import split_tables
from evaluation.embeddings.embed import Alter, EmbeddingTable, embed_shards
from evaluation.encoders.encoder import alike, models_of
from evaluation.inputs import EvaluationInputs
from evaluation.metrics.confidence import as_row
from evaluation.metrics.samples import MetricSamples
from evaluation.scores.score import Scored, test_resamples
from evaluation.targets.target import Target
from evaluation.tasks.kind import Values, label_kind_of
from trainers.augment.chain import AugmentChain
from trainers.augment.corruptions import corrupt

CLEAN, SEVERITY = "clean", "severity "
Curves = dict[str, dict[str, dict[str, MetricSamples]]]
"""Metric → model → condition → values on the set and its resamples."""


def conditions(config: EvaluationConfig, rate: int) -> dict[str, Alter]:
    """Every way the audio is altered, by name."""
    wanted = config.robustness
    altered: dict[str, Alter] = {f"{SEVERITY}{s:g}": _chain(config, s, rate) for s in wanted.severities}
    return altered | {name: _corruption(name, config.seed, rate) for name in wanted.corruptions}


def measure_robustness(inputs: EvaluationInputs, scored: Mapping[str, Scored]) -> Curves:
    """Metric → model → condition → values on the set and its resamples, of every probe; ``summarise`` makes rows of
    them.
    """
    shards, pool, config = inputs.shards, inputs.encoders, inputs.config
    tests = {name: inputs.targets[name].only("test") for name, task in scored.items() if task.probes}
    rows = np.unique(np.concatenate([test.rows_K for test in tests.values()]))
    models = [model for name in pool for model in models_of(name, pool[name], config.spaces)]
    result = {
        f"{name}/{metric}": {model: {CLEAN: scored[name].metrics[metric][model]} for model in models}
        for name in tests
        for metric in label_kind_of(config.tasks[name]).probe_metrics
    }
    for condition in conditions(config, shards.rate):
        tables: dict[str, EmbeddingTable] = {}
        for names in alike(pool):
            alter = conditions(config, pool[names[0]].rate)[condition]
            tables |= embed_shards(shards, pool.only(names), config, rows=rows, alter=alter, progress=inputs.progress)
        tables = split_tables(tables, pool, config.spaces)
        for name, test in tests.items():
            at_K = np.searchsorted(rows, test.rows_K)
            answers = {m: a for probe in scored[name].probes for m, a in probe.answer(tables, at_K).items()}
            for metric, model, samples in _score(name, answers, test, config):
                result[metric][model][condition] = samples
    return result


def by_condition(curves: Curves) -> dict[str, dict[str, MetricSamples]]:
    """``task/metric under condition`` → model → values."""
    return {
        f"{metric} under {condition}": {model: found[condition] for model, found in row.items()}
        for metric, row in curves.items()
        for condition in next(iter(row.values()))
    }


def summarise(curves: Curves, config: EvaluationConfig) -> dict[str, Any]:
    """Metric → model → condition → value, low, high, and the same of its paired change, a share of the clean value."""
    return {metric: {model: _summary(found, config) for model, found in row.items()} for metric, row in curves.items()}


def undefined_changes(robustness: Mapping[str, Any]) -> list[str]:
    """Why a change of the summary has no value, a note a metric and model."""
    return [
        f"{metric}: the change under corruption is undefined for {model}, whose value on clean audio is 0"
        for metric, by_model in robustness.items()
        for model, found in by_model.items()
        if any(row["change"]["value"] is None for row in found.values())
    ]


def _score(
    name: str, answers: Mapping[str, Values], test: Target, config: EvaluationConfig
) -> Iterator[tuple[str, str, MetricSamples]]:
    resamples = test_resamples(name, test, config)
    for model, answer in answers.items():
        for metric, samples in label_kind_of(config.tasks[name]).score_probe(answer, test, resamples).items():
            yield f"{name}/{metric}", model, samples


def _summary(found: Mapping[str, MetricSamples], config: EvaluationConfig) -> dict[str, dict[str, Any]]:
    level, rows = config.confidence.level, {}
    for condition, samples in found.items():
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample on which the clean probe scores nothing
            change_R = samples.values_R / found[CLEAN].values_R - 1
        rows[condition] = {**samples.row(level), "change": as_row(change_R, level)}
    return rows


def _chain(config: EvaluationConfig, severity: float, rate: int) -> Alter:
    chain = AugmentChain(config.robustness.augment.scaled(severity), rate)

    def alter(wave_NT: Tensor, slot_N: Tensor) -> Tensor:
        return chain.apply(wave_NT, chain.draw(slot_N, step=0, seed=config.seed, view=0))

    return alter


def _corruption(name: str, seed: int, rate: int) -> Alter:
    def alter(wave_NT: Tensor, slot_N: Tensor) -> Tensor:
        return corrupt(name, wave_NT, slot_N, sample_rate=rate, seed=seed)

    return alter
