"""One command: a snapshot, tasks and shards in; a report with intervals and baselines out."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.locks import sole_writer
from cluster.progress import SILENT, Progress
from cluster.provenance import provenance
from cluster.settings import UserError, to_tree
from data_shards.index import ShardIndex
from data_shards.reader import ShardSet
from evaluation.answerable import why_not
from evaluation.cache import load_table, save_table, table_path
from evaluation.devices import check_device
from evaluation.embed import EmbeddingTable, Encoder, alike, embed_shards, frames_at, open_shards
from evaluation.encoders import is_factory, load_any, untrained_any
from evaluation.equivariance import measure_equivariance
from evaluation.pinned import compare
from evaluation.pool import Pool, open_pool
from evaluation.preflight import check_request
from evaluation.projection import project
from evaluation.published import beside
from evaluation.report import SUBJECT, Report, build_tree, write_report
from evaluation.resamples import RESAMPLES, by_condition, by_metric, save_resamples
from evaluation.robustness import measure_robustness, summarise, undefined_changes
from evaluation.score import Scored
from evaluation.score_store import SCORES, scored_once
from evaluation.splits import check_leaks, freeze, hold_to, load_split, save_split
from evaluation.targets import EmptyColumnError, Target, artist_overlap, columns, read_target
from evaluation.tasks import EvaluationConfig, Task


def evaluate(source: Path | str, config: EvaluationConfig, out: Path, *, progress: Progress = SILENT) -> Report:
    """Judge an encoder beside its untrained self, chance and a constant.

    Args:
        source: a step-N folder, the link last, a run's folder, or a user's ``module:factory``.
        config: shards and tasks.
        out: folder of report.json, .md, .html, .csv, .tex and the figures, of every task's scores as soon as they are
            there, and of embeddings unless ``config.cache`` says where. An evaluation that was killed goes on there.
        progress: told of the work.

    Raises:
        UserError: for whatever cannot be answered, before anything is embedded.
        RunError: if an embedding is not finite.
    """
    check_device(config.device)
    device = "cpu" if config.resources.num_workers else config.device  # workers move their copies
    trained, untrained = load_any(source, device), untrained_any(source, device)
    encoders: dict[str, Encoder] = {SUBJECT: trained}
    if untrained is not None:
        encoders["untrained"] = untrained
    encoders |= {name: load_any(other, device) for name, other in config.against.items()}
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

    Args:
        encoders: by name.
        config: shards and tasks.
        out: folder of the report.
        about: provenance of the encoders, plain JSON types.
        progress: told of the work.

    Raises:
        UserError: for whatever cannot be answered, before anything is embedded.
    """
    check_device(config.device)
    if not config.data.shards:
        raise UserError("data.shards is not set; give the folder of the shards: data.shards=DIR")
    if not config.tasks:
        raise UserError("no tasks: a preset of conf/evaluation has some")
    started = time.monotonic()
    with open_shards(config.data) as shards:
        check_leaks(config.data.shards, list(shards.index.track), list(shards.index.split))
        targets, left_out = _targets(shards.index, config)
        check_request(shards, encoders, targets, config)
        cache = Path(config.cache) if config.cache else out / "embeddings"
        with open_pool(encoders, config.resources) as pool:
            tables = embedded(shards, pool, config, cache, progress=progress)
            scored: dict[str, Scored] = {}
            with progress.stage("scoring", len(targets)) as bar:
                for done, (name, target) in enumerate(targets.items(), 1):
                    scored[name] = scored_once(name, config.tasks[name], target, tables, config, out / SCORES)
                    bar(done, name)
            kept = by_metric(scored)
            extras: dict[str, Any] = {}
            if config.robustness.asked:
                curves = measure_robustness(shards, pool, targets, scored, config, progress=progress)
                extras["robustness"] = summarise(curves, config)
                kept |= by_condition(curves)
            if config.equivariance.asked:
                extras["equivariance"] = measure_equivariance(shards, pool, config, progress=progress)
        if config.projection.task:
            extras["projection"] = project(tables, targets, config)
        facts = dict(about) | _facts(shards, encoders, config) | {"seconds": round(time.monotonic() - started, 1)}
        splits = _save_splits(shards.index, targets, config, out / "splits")
    tree = build_tree(scored, config=config, left_out=left_out, provenance=facts) | extras
    tree["notes"] += undefined_changes(extras.get("robustness", {}))
    for name, identity in splits.items():
        tree["tasks"][name] |= identity
    tree["published"] = beside(tree, config, seconds=encoders[SUBJECT].samples / encoders[SUBJECT].rate)
    save_resamples(kept, out / RESAMPLES)
    return write_report(tree, out)


def _save_splits(
    index: ShardIndex, targets: Mapping[str, Target], config: EvaluationConfig, folder: Path
) -> dict[str, dict[str, Any]]:
    """Freeze what every task was judged on; hashes, file, and how it stands to the published split, by task."""
    identities: dict[str, dict[str, Any]] = {}
    for name, target in targets.items():
        frozen = freeze(index, config.tasks[name].column, target)
        save_split(frozen, folder / f"{name}.json")
        identities[name] = {
            "split_hash": frozen.split_hash,
            "vocabulary_hash": frozen.vocabulary_hash,
            "split_file": f"{folder.name}/{name}.json",
        }
        protocol = config.tasks[name].published
        if protocol is not None:
            identities[name]["published_split"] = compare(protocol, frozen)
    return identities


def embedded(
    shards: ShardSet, encoders: Pool, config: EvaluationConfig, folder: Path, *, progress: Progress
) -> dict[str, EmbeddingTable]:
    """Tables of all encoders: read where they were computed before, computed and kept otherwise."""
    paths = {
        name: table_path(folder, encoder.hash, shards.manifest_hash, config.chunking, encoder.samples)
        for name, encoder in encoders.items()
    }
    tables = {name: load_table(path) for name, path in paths.items()}
    missing = {name: encoder for name, encoder in encoders.items() if tables[name] is None}
    if missing:
        for names in alike(missing):
            fresh = embed_shards(shards, encoders.only(names), config, progress=progress)
            for name, table in fresh.items():
                save_table(table, paths[name])
            tables |= fresh
    return {name: table for name, table in tables.items() if table is not None}


def _targets(index: ShardIndex, config: EvaluationConfig) -> tuple[dict[str, Target], dict[str, str]]:
    """Targets of the tasks that can run, and why optional ones cannot."""
    present = columns(index)
    targets, left_out = {}, {}
    for name, task in config.tasks.items():
        if task.optional and task.column not in present and task.column != "artist":
            left_out[name] = f"the set has no column {task.column}"
            continue
        try:
            target = _read(index, name, task)
            reason = why_not(name, task, target, config)
        except EmptyColumnError as error:
            reason = str(error)
        if reason is None:
            targets[name] = target
        elif task.optional:
            left_out[name] = reason.removeprefix(f"task {name}: ")
        else:
            raise UserError(reason)
    if not targets:
        known, reasons = ", ".join(sorted(present)) or "none", "; ".join(f"{n}: {why}" for n, why in left_out.items())
        raise UserError(f"none of the tasks can run ({reasons}); the shards have the columns {known}")
    return targets, left_out


def _read(index: ShardIndex, name: str, task: Task) -> Target:
    if task.frozen is None:
        return read_target(index, name, task)
    frozen = load_split(Path(task.frozen))
    if frozen.column != task.column or (task.vocabulary and task.vocabulary != frozen.vocabulary):
        raise UserError(
            f"task {name}: {task.frozen} freezes column {frozen.column} with {len(frozen.vocabulary)} tags, "
            f"the task has column {task.column}" + " and another vocabulary" * bool(task.vocabulary)
        )
    target = read_target(index, name, replace(task, vocabulary=frozen.vocabulary))
    return hold_to(frozen, name, index, target)


def _facts(shards: ShardSet, encoders: Mapping[str, Encoder], config: EvaluationConfig) -> dict[str, Any]:
    """What a reader needs to repeat the report."""
    index, everything = shards.index, np.arange(len(shards.index))
    trained = encoders[SUBJECT]
    return {
        "encoder": trained.hash,
        "encoders": {name: encoder.hash for name, encoder in encoders.items()},
        "manifest_hash": shards.manifest_hash,
        "clips": {split: len(index.rows(split)) for split in ("train", "valid", "test")},
        "clips_shorter_than_a_chunk": sum(n < trained.samples for n in frames_at(shards, everything, trained.rate)),
        "test_clips_whose_artist_is_in_train": artist_overlap(index),
        "evaluation": to_tree(config),
        "software": provenance(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
