"""One command: a snapshot, tasks and shards in; a report with intervals and baselines out."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.files.locks import sole_writer
from cluster.progress import SILENT, Progress
from cluster.provenance import provenance
from cluster.settings import UserError, require_config, to_tree
from evaluation.analyses.equivariance import measure_equivariance
from evaluation.analyses.projection import project
from evaluation.analyses.robustness import by_condition, measure_robustness, summarise, undefined_changes
from evaluation.config import EvaluationConfig
from evaluation.embeddings.cache import embed_or_load
from evaluation.embeddings.columns import joint_tables, split_tables
from evaluation.embeddings.embed import EmbeddingTable, frames_at, open_shards
from evaluation.encoders.devices import check_device
from evaluation.encoders.encoder import SUBJECT, Encoder, with_heads, without_towers
from evaluation.encoders.pool import Pool, open_pool
from evaluation.encoders.sources import is_factory, load_any, untrained_any
from evaluation.inputs import EvaluationInputs
from evaluation.metrics.samples import RESAMPLES, MetricSamples, save_resamples
from evaluation.preflight import check_request
from evaluation.report.published import beside
from evaluation.report.rows import build_tree
from evaluation.report.write import Report, write_report
from evaluation.runnable import read_targets
from evaluation.scores.score import Scored, by_metric
from evaluation.scores.store import SCORES, score_tasks
from evaluation.targets.splits import check_leaks, compare, freeze, save_split
from evaluation.targets.target import artist_overlap
from evaluation.tasks.kind import kind_of


def evaluate(
    source: Path | str,
    config: EvaluationConfig,
    out: Path | str,
    *,
    trust_code: bool = False,
    progress: Progress = SILENT,
) -> Report:
    """Evaluate an encoder beside its untrained self, chance and a constant.

    Args:
        source: a step-N folder, the link last, a run's folder, or a user's ``module:factory``.
        config: shards and tasks.
        out: folder of report.json, .md, .html, .csv, .tex and the figures, of every task's scores as soon as they are
            there, and of embeddings unless ``config.cache`` names another folder. A killed
            evaluation continues there.
        trust_code: import the user's own code that a snapshot names.
        progress: counts the work.

    Raises:
        UserError: for whatever cannot be answered, before anything is embedded.
        RunError: if an embedding is not finite.
    """
    require_config("config", config, EvaluationConfig)
    out = Path(out)
    check_device(config.device)
    device = "cpu" if config.resources.num_workers else config.device  # workers move their copies
    texts = bool(_about_texts(config, config.tasks))
    trained = load_any(source, device, trust_code=trust_code, texts=texts)
    untrained = untrained_any(source, device, trust_code=trust_code, texts=texts)
    encoders: dict[str, Encoder] = {SUBJECT: trained}
    if untrained is not None:
        encoders["untrained"] = untrained
    encoders |= {
        name: load_any(other, device, trust_code=trust_code, texts=texts) for name, other in config.against.items()
    }
    about = {key: trained.provenance.get(key) for key in ("snapshot", "step")} | {"pretraining": trained.provenance}
    if is_factory(source):
        word = "factory(untrained=True)" if untrained is not None else "absent: the factory takes no untrained"
        about |= {"source": str(source), "untrained": word}
    with sole_writer(out, "give another --out"):
        return evaluate_encoders(encoders, config, out, about=about, progress=progress)


def evaluate_encoders(
    encoders: Mapping[str, Encoder],
    config: EvaluationConfig,
    out: Path,
    *,
    about: Mapping[str, Any],
    progress: Progress = SILENT,
) -> Report:
    """The same for any encoders: one called ``trained``, and its baselines.
    Raises UserError for whatever cannot be answered, before anything is embedded.
    """
    check_device(config.device)
    if not config.data.shards:
        raise UserError("data.shards is not set; give the folder of the shards: data.shards=DIR")
    if not config.tasks:
        raise UserError("no tasks: a preset of conf/evaluation has some")
    if config.spaces:
        encoders = {**encoders, SUBJECT: with_heads(encoders[SUBJECT])}
    started = time.monotonic()
    with open_shards(config.data) as shards:
        check_leaks(config.data.shards, list(shards.index.track), list(shards.index.split))
        targets, left_out = read_targets(shards.index, config)
        asking = _about_texts(config, targets)
        running = {name: config.tasks[name] for name in targets}
        left_out |= without_towers(running, asking, encoders, {SUBJECT: about.get("snapshot"), **config.against})
        targets = {name: target for name, target in targets.items() if name not in left_out}
        inputs = EvaluationInputs(shards, Pool(encoders), targets, config, progress)
        check_request(inputs)
        with open_pool(encoders, config.resources) as pool:
            inputs = replace(inputs, encoders=pool)
            embedded = embed_or_load(inputs, Path(config.cache) if config.cache else out / "embeddings")
            tables = split_tables(embedded, pool, config.spaces)
            scored = score_tasks(inputs, tables, joint_tables(embedded, pool), out / SCORES)
            analyses, samples = _analyse(inputs, tables, scored)
        facts = dict(about) | _facts(inputs) | {"seconds": round(time.monotonic() - started, 1)}
        splits = _save_splits(inputs, out / "splits")
    tree = build_tree(scored, config=config, left_out=left_out, provenance=facts) | analyses
    tree["notes"] += undefined_changes(analyses.get("robustness", {}))
    for name, identity in splits.items():
        tree["tasks"][name] |= identity
    tree["published"] = beside(tree, config, seconds=encoders[SUBJECT].samples / encoders[SUBJECT].rate)
    save_resamples(by_metric(scored) | samples, out / RESAMPLES)
    return write_report(tree, out)


def _about_texts(config: EvaluationConfig, names: Iterable[str]) -> list[str]:
    """Names of the tasks that compare clips with texts."""
    return [name for name in names if kind_of(config.tasks[name]).reads_texts]


def _analyse(
    inputs: EvaluationInputs, tables: Mapping[str, EmbeddingTable], scored: Mapping[str, Scored]
) -> tuple[dict[str, Any], dict[str, dict[str, MetricSamples]]]:
    """Sections of the report that are measured on request, and their metrics on every resample."""
    found: dict[str, Any] = {}
    samples: dict[str, dict[str, MetricSamples]] = {}
    if inputs.config.robustness.enabled:
        curves = measure_robustness(inputs, scored)
        found["robustness"], samples = summarise(curves, inputs.config), by_condition(curves)
    if inputs.config.equivariance.enabled:
        found["equivariance"], distances = measure_equivariance(inputs)
        samples = samples | distances
    if inputs.config.projection.task:
        found["projection"] = project(inputs, tables)
    return found, samples


def _save_splits(inputs: EvaluationInputs, folder: Path) -> dict[str, dict[str, Any]]:
    """Freeze the clips of every task; hashes, file, and how it differs from the published split, by task."""
    identities: dict[str, dict[str, Any]] = {}
    for name, target in inputs.targets.items():
        task = inputs.config.tasks[name]
        frozen = freeze(inputs.shards.index, task.column, target)
        save_split(frozen, folder / f"{name}.json")
        identities[name] = {
            "split_hash": frozen.split_hash,
            "vocabulary_hash": frozen.vocabulary_hash,
            "split_file": f"{folder.name}/{name}.json",
        }
        if task.published is not None:
            identities[name]["published_split"] = compare(task.published, frozen)
    return identities


def _facts(inputs: EvaluationInputs) -> dict[str, Any]:
    """What a reader needs to repeat the report."""
    shards, encoders = inputs.shards, inputs.encoders
    index, everything = shards.index, np.arange(len(shards.index))
    trained = encoders[SUBJECT]
    return {
        "encoder": trained.hash,
        "encoders": {name: encoder.hash for name, encoder in encoders.items()},
        "manifest_hash": shards.manifest_hash,
        "clips": {split: len(index.rows(split)) for split in ("train", "valid", "test")},
        "clips_shorter_than_a_chunk": sum(n < trained.samples for n in frames_at(shards, everything, trained.rate)),
        "test_clips_whose_artist_is_in_train": artist_overlap(index),
        "evaluation": to_tree(inputs.config),
        "software": provenance(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
