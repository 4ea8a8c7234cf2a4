"""One task, every model, one set of resamples: what the report's rows are made of.

Shape suffixes: S seeds, K test clips, k neighbours, C tags or classes, E encoder width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation import answerable
from evaluation.baselines import best_constant
from evaluation.confidence import Resamples, draw_resamples
from evaluation.embed import EmbeddingTable
from evaluation.judge import CONVENTIONS, Judged, Values, judge_answers, judge_neighbours, masked_tags
from evaluation.probing import Probe, by_width, fit_probe
from evaluation.retrieval import neighbours
from evaluation.targets import Target, parts_of
from evaluation.tasks import EvaluationConfig, Task

FEW_CLUSTERS = 10
ByModel = dict[str, dict[str, Judged]]
"""Metric → model → values."""


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


def score_task(
    name: str, task: Task, target: Target, tables: Mapping[str, EmbeddingTable], config: EvaluationConfig
) -> Scored:
    """Run a task's probe and retrieval on every model.

    Args:
        name: of the task; it keys the draws.
        task: protocol.
        target: its known targets, which the task can answer (`evaluation.answerable`).
        tables: embeddings of the whole set by model.
        config: seeds, neighbourhoods, bootstrap.
    """
    parts = parts_of(target, config.judged)
    test = parts["test"]
    resamples = test_resamples(name, test, config)
    notes = answerable.notes(name, task, test, config)
    if 1 < resamples.clusters < FEW_CLUSTERS:
        notes.append(f"{name}: the intervals rest on {resamples.clusters} {config.confidence.cluster}s only")
    metrics: ByModel = {}
    probes: tuple[Probe, ...] = ()
    if task.probe:
        probes = tuple(fit_probe(task, parts, group, config) for group in by_width(tables))
        notes += _capped(name, task, probes)
        answers = _answers(name, task, parts, probes, tables, config)
        judged = {model: judge_answers(task.kind, answer, test, resamples) for model, answer in answers.items()}
        metrics |= _by_metric(judged)
    if task.retrieval:
        found, there_Kk = _retrieve(name, task, parts, tables, config)
        metrics |= _by_metric(
            {
                model: judge_neighbours(task.kind, answer, there_Kk, test, resamples, config.ks)
                for model, answer in found.items()
            }
        )
        short = int((~there_Kk).any(1).sum())
        notes += [f"{name}: {short} queries have fewer than {max(config.ks)} neighbours outside their group"] * (
            short > 0
        )
    masked = tuple(masked_tags(test)) if task.kind == "tags" and task.probe else ()
    return Scored(
        metrics=metrics,
        conventions={metric: _convention(task, config, metric, test, masked) for metric in metrics},
        n=len(test),
        clusters=resamples.clusters,
        counts={split: len(part) for split, part in parts.items()},
        classes=target.classes,
        masked=masked,
        notes=tuple(notes),
        probes=probes,
    )


def test_resamples(name: str, test: Target, config: EvaluationConfig) -> Resamples:
    """The resamples of a task: the same for every model, and for every condition it is tested under."""
    units = test.artist_K if config.confidence.cluster == "artist" else test.track_K
    rng = generator(config, name, "resamples")
    return draw_resamples(units.tolist(), resamples=config.confidence.resamples, seeds=config.seeds, rng=rng)


def generator(config: EvaluationConfig, *purpose: str) -> np.random.Generator:
    """The generator of one purpose: it depends on the configured seed and on names, never on what ran before."""
    return np.random.default_rng([config.seed, *"/".join(purpose).encode()])


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


def _answers(
    name: str,
    task: Task,
    parts: Mapping[str, Target],
    probes: Sequence[Probe],
    tables: Mapping[str, EmbeddingTable],
    config: EvaluationConfig,
) -> dict[str, Values]:
    test, train = parts["test"], parts["train"]
    answers: dict[str, Values] = {}
    for probe in probes:
        answers |= probe.answer(tables, test.rows_K)
    rng = generator(config, name, "random")
    constant = best_constant(task.kind, train)
    if task.kind == "tags":
        # A constant ranks nothing: every clip has the same score for every tag.
        answers["random"] = rng.random((config.seeds, len(test), len(test.classes)))
        answers["constant"] = np.zeros((1, len(test), len(test.classes)))
    else:
        answers["random"] = rng.choice(train.values, (config.seeds, len(test)))
        answers["constant"] = np.full((1, len(test)), constant)
    return {model: answers[model] for model in (*tables, "random", "constant")}


def _retrieve(
    name: str,
    task: Task,
    parts: Mapping[str, Target],
    tables: Mapping[str, EmbeddingTable],
    config: EvaluationConfig,
) -> tuple[dict[str, Values], np.ndarray[tuple[int, int], np.dtype[np.bool_]]]:
    """Targets of every query's neighbours by model, and which of them exist."""
    test, k = parts["test"], max(config.ks)
    _, groups_K = np.unique(test.track_K if config.exclude == "track" else test.artist_K, return_inverse=True)
    embedded = {model: table.h_KE[test.rows_K] for model, table in tables.items()}
    embedded["random"] = generator(config, name, "random").standard_normal((len(test), 64)).astype(np.float32)
    near = {model: neighbours(h_KE, groups_K, k, device=config.device) for model, h_KE in embedded.items()}
    found = {model: test.values[near_Kk] for model, near_Kk in near.items()}
    # Which neighbours exist depends on the groups alone, so it is the same for every model.
    there_Kk = near["random"] >= 0
    constant = best_constant(task.kind, parts["train"] if len(parts["train"]) else test)
    found["constant"] = np.broadcast_to(np.asarray(constant), found["random"].shape)
    return found, there_Kk


def _by_metric(judged: Mapping[str, dict[str, Judged]]) -> ByModel:
    first = next(iter(judged.values()))
    return {metric: {model: found[metric] for model, found in judged.items()} for metric in first}


def _convention(task: Task, config: EvaluationConfig, metric: str, test: Target, masked: tuple[str, ...]) -> str:
    base, at, k = metric.partition("@")
    text = CONVENTIONS["tag_p" if base == "p" and task.kind == "tags" else base]
    if at:
        return f"{text}; cosine, {k} nearest {config.judged} clips of another {config.exclude}, mean over pairs"
    if task.kind == "tags":
        text += f"; {len(test.classes) - len(masked)} of {len(test.classes)} tags"
    layers = "one linear layer" if task.head == "linear" else f"MLP of {task.hidden}"
    return (
        f"{text}; {layers} on the frozen embedding, mean of {config.seeds} seeds, {config.chunking.aggregate} averaged"
    )
