"""Scores of every task on disk as soon as it is done, so that an evaluation that was killed goes on at the next one.

A file is reused only under its key, a hash of everything that determines a score: the embeddings, the targets, the
task, the evaluation's settings, the code of `evaluation` and of the kind, and the versions of the libraries. Heads'
weights are kept only where robustness is asked for, which has them answer again.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cluster.files.storage import write_atomic
from cluster.provenance import provenance
from cluster.settings import to_tree
from evaluation.config import Task
from evaluation.embeddings.embed import EmbeddingTable
from evaluation.encoders.encoder import text_towers
from evaluation.inputs import EvaluationInputs
from evaluation.metrics.samples import MetricSamples
from evaluation.probes.probe import Probe, Scale
from evaluation.probes.training import Head, TrainedHeads
from evaluation.scores.score import Scored, TaskInputs, score_task
from evaluation.tasks.kind import Kind, kind_of

SCORES = "scores"
"""Folder beside the report."""
ELSEWHERE = (
    *("data", "tasks", "cache", "resources", "against", "spaces"),
    *("robustness", "equivariance", "projection", "claims"),
)
"""Sections of an evaluation that determine no score, or only through the embeddings and targets."""
PLAIN = ("conventions", "n", "clusters", "counts", "classes", "masked", "notes")
"""Fields of `Scored` that JSON holds as they are."""
_log = logging.getLogger(__name__)


def score_tasks(
    inputs: EvaluationInputs,
    tables: Mapping[str, EmbeddingTable],
    joint: Mapping[str, EmbeddingTable],
    folder: Path,
) -> dict[str, Scored]:
    """Scores of all tasks, one after another; a task whose scores are on disk already is read."""
    scored, config = {}, inputs.config
    towers = text_towers(inputs.encoders)
    with inputs.progress.stage("scoring", len(inputs.targets)) as bar:
        for done, (name, target) in enumerate(inputs.targets.items(), 1):
            task = config.tasks[name]
            read = joint if kind_of(task).reads_texts else tables
            scored[name] = scored_once(TaskInputs(name, task, target, read, config, towers), folder)
            bar(done, name)
    return scored


def scored_once(inputs: TaskInputs, folder: Path) -> Scored:
    """A task's scores: read where they were computed before, computed and written otherwise."""
    path, key = folder / f"{inputs.name}.safetensors", score_key(inputs)
    found = load_scores(path, key, inputs.task, inputs.config.device)
    if found is None:
        found = score_task(inputs)
        save_scores(found, key, path, weights=inputs.config.robustness.enabled)
    return found


def score_key(inputs: TaskInputs) -> str:
    """SHA-256 of everything that determines a task's scores."""
    target, config = inputs.target, inputs.config
    settings = {key: value for key, value in to_tree(config).items() if key not in ELSEWHERE}
    rows_K = np.concatenate([part.rows_K for part in inputs.parts.values()])
    content = {
        "code": _code(inputs.kind),
        "packages": provenance()["packages"],
        "name": inputs.name,  # it keys the draws
        "task": to_tree(inputs.task),
        "settings": settings,
        "weights": config.robustness.enabled,
        "target": _hash(target.rows_K, target.split_K, target.track_K, target.artist_K, target.values)
        + json.dumps([target.classes, target.texts_K]),
        "tables": [
            (model, table.encoder, table.manifest, _hash(table.h_KE[rows_K], table.chunks_PE, table.counts_K[rows_K]))
            for model, table in inputs.tables.items()
        ],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_scores(scored: Scored, key: str, path: Path, *, weights: bool) -> None:
    """Write a task's scores atomically."""
    tensors: dict[str, Tensor] = {}
    rows: list[tuple[str, str, dict[str, float], float]] = []
    for metric, by_model in scored.metrics.items():
        for model, samples in by_model.items():
            tensors[f"{len(rows)}/values"] = torch.from_numpy(samples.values_R)
            if samples.left_out_G is not None:
                tensors[f"{len(rows)}/left_out"] = torch.from_numpy(samples.left_out_G)
            rows.append((metric, model, samples.by_tag, samples.seed_variance))
    probes = [_pack(probe, f"probe {number}", tensors, weights) for number, probe in enumerate(scored.probes)]
    tensors = {place: tensor.detach().cpu().contiguous() for place, tensor in tensors.items()}
    about = {"rows": rows, "probes": probes} | {field: getattr(scored, field) for field in PLAIN}
    head = {"key": key, "about": json.dumps(about), "content": _hash(*(tensors[at].numpy() for at in sorted(tensors)))}
    write_atomic(path, save(tensors, metadata=head))


def load_scores(path: Path, key: str, task: Task, device: str) -> Scored | None:
    """Read a task's scores; None where there are none of that key, or the file is damaged (with a warning)."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            head = file.metadata() or {}
            if head.get("key") != key:
                return None
            tensors: dict[str, Tensor] = {place: file.get_tensor(place) for place in file.keys()}  # noqa: SIM118
        if _hash(*(tensors[at].numpy() for at in sorted(tensors))) != head["content"]:
            raise ValueError("its content does not fit its checksum")
        about = json.loads(head["about"])
        return _unpack(about, tensors, task, device)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: the scores cannot be read (%s) and are computed again", path, error)
        return None


def _pack(probe: Probe, prefix: str, tensors: dict[str, Tensor], weights: bool) -> dict[str, Any]:
    """Tensors of a probe are added to the others; the rest of it as JSON."""
    trained = probe.trained
    if weights:
        tensors |= {f"{prefix}/weights {layer:02d}": weight for layer, weight in enumerate(trained.weights)}
    scales = {f"{prefix}/input {model:02d}": scale for model, scale in enumerate(probe.inputs)}
    for place, scale in (scales | {f"{prefix}/target": probe.target}).items():
        if scale is not None:
            tensors[f"{place}/mean"] = torch.from_numpy(np.atleast_1d(scale.mean))
            tensors[f"{place}/deviation"] = torch.from_numpy(np.atleast_1d(scale.deviation))
    return {
        "heads": [(head.model, head.seed) for head in trained.heads],
        "layers": len(trained.weights) if weights else 0,
        "epochs": trained.epochs,
        "ran": trained.ran,
        "losses": trained.losses,
        "models": probe.models,
        "aggregate": probe.aggregate,
    }


def _unpack(about: Mapping[str, Any], tensors: Mapping[str, Tensor], task: Task, device: str) -> Scored:
    metrics: dict[str, dict[str, MetricSamples]] = {}
    for place, (metric, model, by_tag, seed_variance) in enumerate(about["rows"]):
        left_out = tensors.get(f"{place}/left_out")
        metrics.setdefault(metric, {})[model] = MetricSamples(
            tensors[f"{place}/values"].numpy(), by_tag, None if left_out is None else left_out.numpy(), seed_variance
        )
    probes = []
    for number, one in enumerate(about["probes"]):
        prefix = f"probe {number}"
        trained = TrainedHeads(
            heads=tuple(Head(model, seed) for model, seed in one["heads"]),
            weights=tuple(tensors[f"{prefix}/weights {layer:02d}"].to(device) for layer in range(one["layers"])),
            epochs=tuple(one["epochs"]),
            ran=tuple(one["ran"]),
            losses=tuple(one["losses"]),
        )
        inputs = tuple(_scale(tensors, f"{prefix}/input {model:02d}") for model in range(len(one["models"])))
        target = _scale(tensors, f"{prefix}/target")
        probes.append(Probe(task, trained, tuple(one["models"]), inputs, target, one["aggregate"]))
    plain: dict[str, Any] = {
        field: tuple(about[field]) if isinstance(about[field], list) else about[field] for field in PLAIN
    }
    return Scored(metrics=metrics, probes=tuple(probes), **plain)


def _scale(tensors: Mapping[str, Tensor], place: str) -> Scale | None:
    if f"{place}/mean" not in tensors:
        return None
    return Scale(tensors[f"{place}/mean"].numpy(), tensors[f"{place}/deviation"].numpy())


def _hash(*arrays: np.ndarray[Any, Any]) -> str:
    """SHA-256 of contents, shapes and types."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _code(kind: Kind) -> str:
    """SHA-256 of the evaluation's sources and of the kind's own: scores of other code are not reused."""
    digest = hashlib.sha256()
    own = sys.modules[type(kind).__module__].__file__
    for file in [*sorted(Path(__file__).parents[1].rglob("*.py")), *([Path(own)] if own else [])]:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
