"""A task's probe from tables to answers: embeddings in, heads trained on all models at once, test clips answered.

Shape suffixes: A models, S seeds, K clips, P chunks, C tags or classes, E encoder width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.config import EvaluationConfig, Task
from evaluation.embeddings.embed import EmbeddingTable
from evaluation.probes.training import Head, ProbeData, TrainedHeads, train_heads
from evaluation.targets.target import Target
from evaluation.tasks.kind import Values, label_kind_of


@dataclass(frozen=True)
class Scale:
    """Offset and deviation of the training split, for targets or for embeddings."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def apply(self, values: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.float32]:
        """To zero mean and unit deviation of the training split."""
        return ((values - self.mean) / self.deviation).astype(np.float32)


def fit_scale(values: NDArray[np.float64] | NDArray[np.float32]) -> Scale:
    """Mean and deviation over the first axis; what does not vary is left as it is."""
    deviation = values.std(0, dtype=np.float64)
    return Scale(values.mean(0, dtype=np.float64), np.where(deviation > 0, deviation, 1.0))


@dataclass(frozen=True)
class HeadEpochs:
    """How long one model's heads were trained, seed after seed."""

    best: list[int]
    """Epoch of the weights that answer, from 1."""
    last: list[int]
    """Epoch that was the last."""

    def capped(self, task: Task) -> int:
        """Heads that ``max_epochs`` stopped while they still had patience."""
        return sum(last - best < task.patience for best, last in zip(self.best, self.last, strict=True))


@dataclass(frozen=True)
class Probe:
    """Heads trained on clean embeddings, ready to answer other ones (a corrupted test set, for one)."""

    task: Task
    trained: TrainedHeads
    models: tuple[str, ...]
    inputs: tuple[Scale | None, ...]
    """Scaling of each model's embeddings."""
    target: Scale | None
    """Scaling of numeric targets, those of `TaskKind.probe_target`."""
    aggregate: str

    def answer(self, tables: Mapping[str, EmbeddingTable], rows_K: NDArray[np.int64]) -> dict[str, Values]:
        """Answers of every model's heads for some clips, shape (S, K) or, for tags, (S, K, C)."""
        return {model: self._decode(self._outputs(a, tables[model], rows_K)) for a, model in enumerate(self.models)}

    def epochs(self) -> dict[str, HeadEpochs]:
        """How long every model's heads were trained."""
        rows = {model: self.trained.rows(a) for a, model in enumerate(self.models)}
        return {
            model: HeadEpochs([self.trained.epochs[h] for h in of_model], [self.trained.ran[h] for h in of_model])
            for model, of_model in rows.items()
        }

    def _outputs(self, model: int, table: EmbeddingTable, rows_K: NDArray[np.int64]) -> NDArray[np.float64]:
        """Raw outputs of a model's heads (S, K, C); its clips are cut as its own chunks are."""
        if self.aggregate == "embeddings":
            return self._predict(model, table.h_KE[rows_K])
        lengths, ends = table.counts_K[rows_K], np.cumsum(table.counts_K)[rows_K]
        chunks = [np.arange(end - length, end) for length, end in zip(lengths, ends, strict=True)]
        out_SPC = self._predict(model, table.chunks_PE[np.concatenate(chunks)])
        if self.aggregate == "probabilities":
            out_SPC = label_kind_of(self.task).probabilities(out_SPC)
        sums: NDArray[np.float64] = np.add.reduceat(out_SPC, np.cumsum(lengths) - lengths, axis=1)
        return np.asarray(sums / lengths[:, None])

    def _predict(self, model: int, h_KE: NDArray[np.float32]) -> NDArray[np.float64]:
        x_KE = torch.from_numpy(_scaled(h_KE, self.inputs[model])).to(self.trained.weights[0].device)
        return np.asarray(self.trained.predict(model, x_KE).double().cpu().numpy())

    def _decode(self, out_SKC: NDArray[np.float64]) -> Values:
        if self.target is not None:
            out_SKC = out_SKC[..., 0] * self.target.deviation + self.target.mean
        return label_kind_of(self.task).decode(out_SKC)


def fit_probe(
    task: Task, parts: Mapping[str, Target], tables: Mapping[str, EmbeddingTable], config: EvaluationConfig
) -> Probe:
    """Train every seed on every model of one width together."""
    kind, train, valid = label_kind_of(task), parts["train"], parts["valid"]
    values = kind.probe_target(train.values)
    target = fit_scale(values) if values.dtype.kind == "f" else None
    inputs = tuple(fit_scale(table.h_KE[train.rows_K]) if task.standardise else None for table in tables.values())
    data = []
    for part in (train, valid):
        scaled = [_scaled(table.h_KE[part.rows_K], s) for table, s in zip(tables.values(), inputs, strict=True)]
        x_AKE = torch.from_numpy(np.stack(scaled))
        y_K = torch.from_numpy(_scaled(kind.probe_target(part.values), target))
        data.append(ProbeData(x_AKE.to(config.device), y_K.to(config.device)))
    heads = [Head(model, config.seed + seed) for model in range(len(tables)) for seed in range(config.seeds)]
    trained = train_heads(task, data[0], data[1], max(1, len(train.classes)), heads)
    return Probe(task, trained, tuple(tables), inputs, target, config.chunking.aggregate)


def _scaled(values: Values, scale: Scale | None) -> Values:
    return values if scale is None else scale.apply(values)


def by_width(tables: Mapping[str, EmbeddingTable]) -> list[dict[str, EmbeddingTable]]:
    """Models whose heads can be stacked: those of equal width."""
    groups: dict[int, dict[str, EmbeddingTable]] = {}
    for model, table in tables.items():
        groups.setdefault(table.h_KE.shape[1], {})[model] = table
    return list(groups.values())
