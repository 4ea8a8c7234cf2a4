"""One task, every model, one set of resamples: what the report's rows are made of.

Shape suffixes: S seeds, K test clips, k neighbours, C tags or classes, E encoder width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from evaluation import runnable
from evaluation.config import EvaluationConfig, Task
from evaluation.embeddings.embed import EmbeddingTable
from evaluation.encoders.encoder import TextTower
from evaluation.metrics.confidence import Resamples, draw_resamples
from evaluation.metrics.neighbours import neighbours, unit_rows
from evaluation.metrics.samples import MetricSamples
from evaluation.probes.probe import Probe, by_width, fit_probe
from evaluation.targets.target import Target, parts_of
from evaluation.tasks.kind import Kind, Values, kind_of, label_kind_of
from evaluation.tasks.text import Question, TextKind, TextModel, Vectors

FEW_CLUSTERS = 10
ByModel = dict[str, dict[str, MetricSamples]]
"""Metric → model → values."""


@dataclass(frozen=True)
class TaskInputs:
    """What a task's scores are computed from."""

    name: str
    """Keys the draws."""
    task: Task
    target: Target
    """Its known targets, which the task can answer (`evaluation.runnable`)."""
    tables: Mapping[str, EmbeddingTable]
    """Embeddings of the whole set by model; for a task about texts, in the space of the text tower."""
    config: EvaluationConfig
    towers: Mapping[str, TextTower] = field(default_factory=dict)
    """What embeds texts, by model."""

    @cached_property
    def kind(self) -> Kind:
        """Metrics and baselines, and the probe's loss of one about labels."""
        return kind_of(self.task)

    @cached_property
    def parts(self) -> dict[str, Target]:
        """What heads are trained on, what they stop on, and what is reported."""
        return parts_of(self.target, self.config.split)

    @property
    def test(self) -> Target:
        """What is reported."""
        return self.parts["test"]

    def generator(self, purpose: str) -> np.random.Generator:
        """The generator of one purpose of this task."""
        return generator(self.config, self.name, purpose)


def test_resamples(name: str, test: Target, config: EvaluationConfig) -> Resamples:
    """The resamples of a task: the same for every model, and for every condition it is tested under."""
    units = test.artist_K if config.confidence.cluster == "artist" else test.track_K
    rng = generator(config, name, "resamples")
    return draw_resamples(units.tolist(), resamples=config.confidence.resamples, seeds=config.seeds, rng=rng)


def generator(config: EvaluationConfig, *purpose: str) -> np.random.Generator:
    """The generator of one purpose: it depends on the configured seed and on names, never on what ran before."""
    return np.random.default_rng([config.seed, *"/".join(purpose).encode()])


@dataclass(frozen=True)
class Scored:
    """A task's metrics by model, and what a reader must know about them."""

    metrics: ByModel
    """Models are those embedded, ``random`` and ``constant``."""
    conventions: dict[str, str]
    n: int
    """Test clips; those of retrieval are its queries."""
    clusters: int
    """Independent units behind the intervals."""
    counts: dict[str, int]
    """Clips of each split whose target is known."""
    classes: tuple[str, ...]
    masked: tuple[str, ...]
    """Tags that no test clip has, or all have."""
    notes: tuple[str, ...]
    probes: tuple[Probe, ...] = ()
    """Trained heads, those of models of one width together; none for retrieval alone."""


def by_metric(scored: Mapping[str, Scored]) -> dict[str, dict[str, MetricSamples]]:
    """``task/metric`` → model → values."""
    return {f"{name}/{metric}": row for name, task in scored.items() for metric, row in task.metrics.items()}


def score_task(inputs: TaskInputs) -> Scored:
    """Run a task's probe and retrieval on every model."""
    name, task, test, config = inputs.name, inputs.task, inputs.test, inputs.config
    resamples = test_resamples(name, test, config)
    notes = runnable.notes(name, task, inputs.parts, config)
    if 1 < resamples.clusters < FEW_CLUSTERS:
        notes.append(f"{name}: the intervals rest on {resamples.clusters} {config.confidence.cluster}s only")
    if isinstance(inputs.kind, TextKind):
        return _score_texts(inputs, inputs.kind, resamples, notes)
    kind = label_kind_of(task)
    metrics: ByModel = {}
    probes: tuple[Probe, ...] = ()
    if task.probe:
        probes = tuple(fit_probe(task, inputs.parts, group, config) for group in by_width(inputs.tables))
        notes += _capped(name, task, probes)
        metrics |= _score_probes(inputs, probes, resamples)
    if task.retrieval:
        found, there_Kk = _retrieve(inputs)
        metrics |= _by_metric(
            {model: kind.score_neighbours(near, there_Kk, test, resamples, config.ks) for model, near in found.items()}
        )
        short = int((~there_Kk).any(1).sum())
        if short:
            notes.append(f"{name}: {short} queries have fewer than {max(config.ks)} neighbours outside their group")
    return Scored(
        metrics=metrics,
        conventions={metric: _convention(inputs, metric) for metric in metrics},
        n=len(test),
        clusters=resamples.clusters,
        counts={split: len(part) for split, part in inputs.parts.items()},
        classes=test.classes,
        masked=tuple(kind.masked(test)) if task.probe else (),
        notes=tuple(notes),
        probes=probes,
    )


def _score_texts(inputs: TaskInputs, kind: TextKind, resamples: Resamples, notes: list[str]) -> Scored:
    """Metrics of every model's two towers, of random vectors and of a constant."""
    question = Question(inputs.name, inputs.task, inputs.test, inputs.config, resamples, inputs.generator)
    models = {
        model: TextModel(unit_rows(table.h_KE[question.test.rows_K]), partial(_embed, inputs.towers[model]))
        for model, table in inputs.tables.items()
    }
    models |= kind.baselines(question)
    metrics = _by_metric({name: kind.score(question, model) for name, model in models.items()})
    return Scored(
        metrics=metrics,
        conventions={metric: kind.convention(question, metric) for metric in metrics},
        n=len(question.test),
        clusters=resamples.clusters,
        counts={split: len(part) for split, part in inputs.parts.items()},
        classes=question.test.classes,
        masked=(),
        notes=(*notes, *kind.notes(question)),
    )


def _embed(tower: TextTower, texts: Sequence[str]) -> Vectors:
    return np.asarray(tower.embed_text(list(texts)).float().cpu().numpy())


def _capped(name: str, task: Task, probes: Sequence[Probe]) -> Iterator[str]:
    """The protocol is early stop alone: a head that did not come to it is named."""
    for probe in probes:
        for model, epochs in probe.epochs().items():
            count = epochs.capped(task)
            if count:
                yield (
                    f"{name}: {count} of {len(epochs.last)} heads of {model} still had patience when "
                    f"max_epochs={task.max_epochs} stopped them; raise tasks.{name}.max_epochs"
                )


def _score_probes(inputs: TaskInputs, probes: Sequence[Probe], resamples: Resamples) -> ByModel:
    """Metrics of every model's heads, of chance and of the best constant."""
    test = inputs.test
    answers: dict[str, Values] = {}
    for probe in probes:
        answers |= probe.answer(inputs.tables, test.rows_K)
    rng = inputs.generator("random")
    kind = label_kind_of(inputs.task)
    answers["random"], answers["constant"] = kind.baselines(inputs.parts["train"], test, inputs.config.seeds, rng)
    order = (*inputs.tables, "random", "constant")
    return _by_metric({model: kind.score_probe(answers[model], test, resamples) for model in order})


def _retrieve(inputs: TaskInputs) -> tuple[dict[str, Values], NDArray[np.bool_]]:
    """Targets of every query's neighbours by model, and which of them exist."""
    test, config = inputs.test, inputs.config
    groups = test.track_K if config.exclude == "track" else test.artist_K
    _, groups_K = np.unique(test.rows_K if inputs.kind.finds_own_track else groups, return_inverse=True)
    embedded = {model: table.h_KE[test.rows_K] for model, table in inputs.tables.items()}
    embedded["random"] = inputs.generator("random").standard_normal((len(test), 64)).astype(np.float32)
    near = {model: neighbours(h_KE, groups_K, max(config.ks), device=config.device) for model, h_KE in embedded.items()}
    found = {model: test.values[near_Kk] for model, near_Kk in near.items()}
    # Which neighbours exist depends on the groups alone, so it is the same for every model.
    there_Kk = near["random"] >= 0
    train = inputs.parts["train"]
    constant = label_kind_of(inputs.task).best_constant(train if len(train) else test)
    found["constant"] = np.broadcast_to(np.asarray(constant), found["random"].shape)
    return found, there_Kk


def _by_metric(samples: Mapping[str, dict[str, MetricSamples]]) -> ByModel:
    first = next(iter(samples.values()))
    return {metric: {model: found[metric] for model, found in samples.items()} for metric in first}


def _convention(inputs: TaskInputs, metric: str) -> str:
    task, config, kind = inputs.task, inputs.config, label_kind_of(inputs.task)
    base, at, k = metric.partition("@")
    if at:
        return kind.retrieval_convention(base, int(k), config.split, config.exclude)
    layers = "one linear layer" if task.head == "linear" else f"MLP of {task.hidden}"
    return (
        f"{kind.probe_metrics[base]}{kind.scope(inputs.test)}; {layers} on the frozen embedding, "
        f"mean of {config.seeds} seeds, {config.chunking.aggregate} averaged"
    )
