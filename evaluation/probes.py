"""Shallow heads on frozen embeddings: all seeds of a task, on all models beside each other, trained as one batch.

A head is a row of stacked weights; one batched product serves them all. Each has its own first weights, order of clips,
dropout and early stop, keyed by its seed alone, so a head trained among others equals the one trained on its own, and
two models are compared on equal draws.

Shape suffixes: H heads, A models, K clips, B clips of a head's batch, E encoder width, F hidden width, C outputs.
Source: 2407.13840 §4.3, §9.1, Table 5.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from evaluation.tasks import Task


@dataclass(frozen=True)
class ProbeData:
    """One split of a task."""

    x_AKE: Tensor
    """Embeddings of the same clips by every model, float32."""
    y_K: Tensor
    """bool (K, C) for tags, int64 (K,) for classes, float32 (K,) for numbers."""


@dataclass(frozen=True)
class Head:
    """Which model a head reads and which seed it has; its weights are a row of the stack."""

    model: int
    seed: int


@dataclass(frozen=True)
class TrainedHeads:
    """The best weights of every head and how long it took."""

    heads: tuple[Head, ...]
    weights: tuple[Tensor, ...]
    """(H, E, C), or (H, E, F) and (H, F, C)."""
    epochs: tuple[int, ...]
    """Epoch of each head's best validation loss, from 1."""
    losses: tuple[float, ...]
    """Its best validation loss."""

    @torch.no_grad()
    def predict(self, x_AKE: Tensor) -> Tensor:
        """Raw outputs of every head for the clips its model embedded, shape (H, K, C)."""
        model_H = torch.tensor([head.model for head in self.heads], device=x_AKE.device)
        return _forward(self.weights, x_AKE[model_H], None)[-1]


@torch.no_grad()
def train_heads(task: Task, train: ProbeData, valid: ProbeData, outputs: int, heads: Sequence[Head]) -> TrainedHeads:
    """Train every head to its own early stop and keep its best weights.

    Args:
        task: head, optimiser and patience.
        train: what is fitted.
        valid: what decides when to stop; its loss is that of the whole split.
        outputs: columns of the head, C.
        heads: models and seeds; their order is that of the result.
    """
    device = train.x_AKE.device
    weights = _first_weights(task, train.x_AKE.shape[2], outputs, heads, device)
    draws = {head.seed: torch.Generator().manual_seed(_draw_seed(head.seed)) for head in heads}
    best = [weight.clone() for weight in weights]
    best_loss_H = torch.full((len(heads),), math.inf, dtype=torch.float64)
    best_epoch_H = torch.zeros(len(heads), dtype=torch.int64)
    alive = torch.arange(len(heads))
    # Fused: one pass over memory; the stack is larger than a cache.
    optimiser = torch.optim.Adam(weights, lr=task.learning_rate, weight_decay=task.weight_decay, fused=True)
    for epoch in range(1, task.max_epochs + 1):
        running = [heads[i] for i in alive.tolist()]
        model_H = torch.tensor([head.model for head in running], device=device)
        _train_epoch(task, train, weights, optimiser, running, draws)
        out_HKC = _forward(weights, valid.x_AKE[model_H], None)[-1]
        loss_H = _losses(out_HKC, valid.y_K.expand(len(alive), *valid.y_K.shape)).double().cpu()
        better_H = loss_H < best_loss_H[alive]
        rows = alive[better_H]
        best_loss_H[rows], best_epoch_H[rows] = loss_H[better_H], epoch
        for kept, weight in zip(best, weights, strict=True):
            kept[rows] = weight[better_H]
        patient_H = epoch - best_epoch_H[alive] < task.patience
        if not patient_H.any():
            break
        if not patient_H.all():
            alive = alive[patient_H]
            _keep_heads(optimiser, weights, patient_H)
    if not bool(torch.isfinite(best_loss_H).all()):
        raise ValueError("the validation loss of a head is not finite")
    return TrainedHeads(tuple(heads), tuple(best), tuple(best_epoch_H.tolist()), tuple(best_loss_H.tolist()))


def _draw_seed(seed: int) -> int:
    """Apart from the seed of the first weights, or a head's first order would share its numbers."""
    return seed + (1 << 32)


def _first_weights(task: Task, width: int, outputs: int, heads: Sequence[Head], device: torch.device) -> list[Tensor]:
    """That of torch's own Linear, U(±1/√inputs), from the head's seed."""
    shapes = [(width, outputs)] if task.head == "linear" else [(width, task.hidden), (task.hidden, outputs)]
    stacked: list[list[Tensor]] = []
    for head in heads:
        generator = torch.Generator().manual_seed(head.seed)
        stacked.append([(2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(shape[0]) for shape in shapes])
    return [torch.stack(layer).to(device) for layer in zip(*stacked, strict=True)]


def _train_epoch(
    task: Task,
    train: ProbeData,
    weights: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    heads: Sequence[Head],
    draws: Mapping[int, torch.Generator],
) -> None:
    """One pass over the clips, every seed in its own order, with the gradient written out.

    A gradient is as large as its weights: written into one buffer, it costs neither allocation nor bookkeeping.
    """
    clips, device = train.x_AKE.shape[1], train.x_AKE.device
    seeds = sorted({head.seed for head in heads})
    model_H1 = torch.tensor([[head.model] for head in heads], device=device)
    place_H = torch.tensor([seeds.index(head.seed) for head in heads], device=device)
    order_SK = torch.stack([torch.randperm(clips, generator=draws[seed]) for seed in seeds]).to(device)
    dropped = train.x_AKE.shape[2] if task.head == "linear" else task.hidden
    for weight in weights:
        weight.grad = torch.empty_like(weight) if weight.grad is None else weight.grad
    for first in range(0, clips, task.batch):
        rows_HB = order_SK[:, first : first + task.batch][place_H]
        keep_SBF = _keep_mask(task.dropout, (rows_HB.shape[1], dropped), [draws[seed] for seed in seeds], device)
        layers = _forward(weights, train.x_AKE[model_H1, rows_HB], None if keep_SBF is None else keep_SBF[place_H])
        _backward(weights, layers, _loss_gradient(layers[-1], train.y_K[rows_HB]), task.dropout)
        optimiser.step()


def _keep_mask(
    dropout: float, shape: tuple[int, int], draws: Sequence[torch.Generator], device: torch.device
) -> Tensor | None:
    """What survives dropout and its scale, (S, B, F); 16 random bits an entry, a quarter of a float's price."""
    if dropout == 0:
        return None
    count = shape[0] * shape[1]
    words = torch.empty(len(draws), -(-count // 4), dtype=torch.int64)
    for row, draw in zip(words, draws, strict=True):
        row.random_(-(1 << 63), None, generator=draw)
    keep_SBF = words.view(torch.int16)[:, :count].reshape(-1, *shape) >= round(dropout * 65_536) - 32_768
    return keep_SBF.to(device, torch.float32).div_(1 - dropout)


def _forward(weights: Sequence[Tensor], x_HBE: Tensor, keep_HBF: Tensor | None) -> list[Tensor]:
    """Batched heads: what enters each layer, and what leaves the last, (H, B, C).

    Dropout falls on what enters the last layer.
    """
    last_HBF = x_HBE if len(weights) == 1 else torch.bmm(x_HBE, weights[0]).relu_()
    last_HBF = last_HBF if keep_HBF is None else last_HBF * keep_HBF
    return [*([x_HBE] if len(weights) == 2 else []), last_HBF, torch.bmm(last_HBF, weights[-1])]


def _backward(weights: Sequence[Tensor], layers: Sequence[Tensor], g_HBC: Tensor, dropout: float) -> None:
    """Gradients of the weights into their buffers.

    Args:
        weights: with buffers in ``grad``.
        layers: of `_forward`.
        g_HBC: gradient of the loss by the outputs.
        dropout: what was scaled up by 1/(1 − dropout).
    """
    assert weights[-1].grad is not None
    torch.bmm(layers[-2].transpose(1, 2), g_HBC, out=weights[-1].grad)
    if len(weights) == 2:
        assert weights[0].grad is not None
        g_HBF = torch.bmm(g_HBC, weights[1].transpose(1, 2))
        # What ReLU or dropout had set to zero passes nothing; the rest was scaled.
        g_HBF *= (layers[1] > 0).to(g_HBF).div_(1 - dropout)
        torch.bmm(layers[0].transpose(1, 2), g_HBF, out=weights[0].grad)


def _losses(out_HBC: Tensor, y_HB: Tensor) -> Tensor:
    """Mean loss of every head, (H,): cross-entropy for classes, its binary form for tags, squared error for numbers."""
    if y_HB.dtype == torch.bool:
        return binary_cross_entropy_with_logits(out_HBC, y_HB.to(out_HBC), reduction="none").mean((1, 2))
    if y_HB.dtype == torch.int64:
        return cross_entropy(out_HBC.transpose(1, 2), y_HB, reduction="none").mean(1)
    return mse_loss(out_HBC[..., 0], y_HB, reduction="none").mean(1)


def _loss_gradient(out_HBC: Tensor, y_HB: Tensor) -> Tensor:
    """Derivative of every head's own mean loss by its outputs."""
    if y_HB.dtype == torch.bool:
        return (out_HBC.sigmoid() - y_HB.to(out_HBC)) / (out_HBC.shape[1] * out_HBC.shape[2])
    if y_HB.dtype == torch.int64:
        g_HBC = out_HBC.softmax(2)
        g_HBC.scatter_add_(2, y_HB[..., None], g_HBC.new_full((*y_HB.shape, 1), -1.0))
        return g_HBC / out_HBC.shape[1]
    g_HBC = torch.zeros_like(out_HBC)
    g_HBC[..., 0] = 2 * (out_HBC[..., 0] - y_HB) / out_HBC.shape[1]
    return g_HBC


def _keep_heads(optimiser: torch.optim.Optimizer, weights: Sequence[Tensor], keep_H: Tensor) -> None:
    """Drop the heads that have stopped from the stack and from Adam's moments; the others go on as if alone."""
    for weight in weights:
        weight.data, weight.grad = weight.data[keep_H], None
        for name in ("exp_avg", "exp_avg_sq"):
            optimiser.state[weight][name] = optimiser.state[weight][name][keep_H]
