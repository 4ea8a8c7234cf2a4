"""One command: a snapshot, tasks and shards in; a report with intervals and baselines out."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.progress import SILENT, Progress
from cluster.provenance import provenance
from cluster.settings import UserError, to_tree
from data_shards.index import ShardIndex
from data_shards.reader import ShardSet
from evaluation.cache import load_table, save_table, table_path
from evaluation.embed import EmbeddingTable, Encoder, check_rate, embed_shards
from evaluation.equivariance import measure_equivariance
from evaluation.projection import project
from evaluation.report import Report, build_tree, write_report
from evaluation.resamples import RESAMPLES, by_condition, by_metric, save_resamples
from evaluation.robustness import measure_robustness, summarise
from evaluation.score import Scored, score_task
from evaluation.targets import Target, artist_overlap, check_splits, columns, read_target
from evaluation.tasks import EvaluationConfig


def evaluate(snapshot: Path | str, config: EvaluationConfig, out: Path, *, progress: Progress = SILENT) -> Report:
    """Judge a snapshot beside the untrained encoder, chance and a constant.

    Args:
        snapshot: a step-N folder, the link last, or a run's folder.
        config: shards and tasks.
        out: folder of report.json, .md, .html, .csv, .tex and the figures, and of embeddings unless ``config.cache``
            says where.
        progress: told of the work.

    Raises:
        UserError: for shards, columns, splits or rates that do not fit; before anything is embedded.
        RunError: if an embedding is not finite.
    """
    from trainers.frozen import load_encoder, untrained_encoder

    trained = load_encoder(snapshot, config.device)
    encoders: dict[str, Encoder] = {"trained": trained, "untrained": untrained_encoder(snapshot, config.device)}
    encoders |= {name: load_encoder(other, config.device) for name, other in config.against.items()}
    about = {key: trained.provenance.get(key) for key in ("snapshot", "step")} | {"pretraining": trained.provenance}
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
    """
    if not config.data.shards:
        raise UserError("data.shards is not set; give the folder of the shards: data.shards=DIR")
    if not config.tasks:
        raise UserError("no tasks: a preset of conf/evaluation has some")
    started = time.monotonic()
    with ShardSet.open(config.data.shards) as shards:
        for encoder in encoders.values():
            check_rate(encoder, shards.rate, config.data.shards)
        check_splits(shards.index)
        targets, left_out = _targets(shards.index, config)
        cache = Path(config.cache) if config.cache else out / "embeddings"
        tables = embedded(shards, encoders, config, cache, progress=progress)
        scored: dict[str, Scored] = {}
        with progress.stage("scoring", len(targets)) as bar:
            for done, (name, target) in enumerate(targets.items(), 1):
                scored[name] = score_task(name, config.tasks[name], target, tables, config)
                bar(done, name)
        extras: dict[str, Any] = {}
        values = {name: {m: j.values_R for m, j in row.items()} for name, row in by_metric(scored).items()}
        if config.robustness.severities or config.robustness.corruptions:
            curves = measure_robustness(shards, encoders, targets, tables, config, progress=progress)
            extras["robustness"] = summarise(curves, config)
            values |= by_condition(curves)
        if config.equivariance.semitones or config.equivariance.rates:
            extras["equivariance"] = measure_equivariance(shards, encoders, config, progress=progress)
        if config.projection.task:
            extras["projection"] = project(tables, targets, config)
        facts = dict(about) | _facts(shards, encoders, config) | {"seconds": round(time.monotonic() - started, 1)}
    tree = build_tree(scored, config=config, left_out=left_out, provenance=facts) | extras
    save_resamples(values, out / RESAMPLES)
    return write_report(tree, out)


def embedded(
    shards: ShardSet, encoders: Mapping[str, Encoder], config: EvaluationConfig, folder: Path, *, progress: Progress
) -> dict[str, EmbeddingTable]:
    """Tables of all encoders: read where they were computed before, computed and kept otherwise."""
    paths = {
        name: table_path(folder, encoder.hash, shards.manifest_hash, config.chunking, encoder.samples)
        for name, encoder in encoders.items()
    }
    tables = {name: load_table(path) for name, path in paths.items()}
    missing = {name: encoder for name, encoder in encoders.items() if tables[name] is None}
    if missing:
        fresh: dict[str, EmbeddingTable] = {}
        for samples in sorted({encoder.samples for encoder in missing.values()}):
            alike = {name: encoder for name, encoder in missing.items() if encoder.samples == samples}
            fresh |= embed_shards(shards, alike, config, progress=progress)
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
        else:
            targets[name] = read_target(index, name, task)
    if not targets:
        known = ", ".join(sorted(present)) or "none"
        raise UserError(f"none of the tasks' columns is in the shards; they have {known}")
    return targets, left_out


def _facts(shards: ShardSet, encoders: Mapping[str, Encoder], config: EvaluationConfig) -> dict[str, Any]:
    """What a reader needs to repeat the report."""
    index = shards.index
    samples = encoders["trained"].samples
    return {
        "encoder": encoders["trained"].hash,
        "encoders": {name: encoder.hash for name, encoder in encoders.items()},
        "manifest_hash": shards.manifest_hash,
        "clips": {split: len(index.rows(split)) for split in ("train", "valid", "test")},
        "clips_shorter_than_a_chunk": int((index.frames < samples).sum()),
        "test_clips_whose_artist_is_in_train": artist_overlap(index),
        "evaluation": to_tree(config),
        "software": provenance(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
