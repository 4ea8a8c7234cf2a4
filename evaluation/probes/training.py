"""Shallow heads on frozen embeddings: all seeds of a task, on all models beside each other, trained in batches.

Each head has its own first weights, order of clips, dropout and early stop, keyed by its seed alone, so a head trained
among others equals the one trained on its own, and two models are compared on equal draws.

On a CPU the heads that are trained together are as many as a cache holds with their gradients and moments: one after
the other, each to its end, they are several times faster than all of them in step, which would read all weights from
memory at every step. Threads train other heads, each on one thread, so that no number depends on how many there are.
On a GPU all heads are one batch.

Shape suffixes: H heads, A models, S seeds, K clips, B clips of a head's batch, E encoder width, F hidden width,
C outputs.
Source: 2407.13840 §4.3, §9.1, Table 5.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.config import Task
from evaluation.encoders.devices import sent
from evaluation.probes.heads import Adam, backward, draw_words, first_weights, forward, loss_gradient, losses

CACHE_BYTES = 9 << 20
"""Of weights, gradients and moments that a CPU trains together: two hidden layers of 512 × 512."""
ORDER, DROPOUT = 1 << 32, 2 << 32
"""Added to a head's seed for its other draws, or its first order would share the numbers of its first weights."""


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
    """The best weights of every head, and when they were found."""

    heads: tuple[Head, ...]
    weights: tuple[Tensor, ...]
    """(H, C, E), or (H, F, E) and (H, C, F)."""
    epochs: tuple[int, ...]
    """Epoch of each head's best validation loss, from 1."""
    ran: tuple[int, ...]
    """Epochs it was trained for: up to its best and its patience more, unless ``max_epochs`` came first."""
    losses: tuple[float, ...]
    """Its best validation loss."""

    def rows(self, model: int) -> list[int]:
        """Places of a model's heads, in the order of their seeds."""
        return [h for h, head in enumerate(self.heads) if head.model == model]

    @torch.no_grad()
    def predict(self, model: int, x_KE: Tensor) -> Tensor:
        """Raw outputs of a model's heads for clips that it embedded, shape (S, K, C)."""
        weights = [[layer[h : h + 1] for layer in self.weights] for h in self.rows(model)]
        return torch.cat([forward(of_head, x_KE[None])[-1] for of_head in weights])


def train_heads(task: Task, train: ProbeData, valid: ProbeData, outputs: int, heads: Sequence[Head]) -> TrainedHeads:
    """Train every head to its own early stop and keep its best weights.
    Raises ValueError if its validation loss is never finite.
    """
    train = ProbeData(train.x_AKE.contiguous(), train.y_K)  # rows are gathered from it, a model's clips after another's
    on_cpu, threads = train.x_AKE.device.type == "cpu", torch.get_num_threads()
    width = train.x_AKE.shape[2]
    shapes = [(width, outputs)] if task.head == "linear" else [(width, task.hidden), (task.hidden, outputs)]
    # Heads of one seed share their draws, so they are adjacent.
    order = sorted(range(len(heads)), key=lambda h: heads[h].seed)
    most = max(1, CACHE_BYTES // (16 * sum(math.prod(shape) for shape in shapes))) if on_cpu else len(heads)
    size = min(most, -(-len(heads) // threads)) if on_cpu else most
    blocks = [[heads[h] for h in order[first : first + size]] for first in range(0, len(heads), size)]

    def trained(block: list[Head]) -> TrainedHeads:
        return _train_together(task, train, valid, shapes, block)

    if on_cpu:
        torch.set_num_threads(1)
    try:
        if on_cpu and min(threads, len(blocks)) > 1:
            with ThreadPoolExecutor(min(threads, len(blocks))) as pool:
                parts = list(pool.map(trained, blocks))
        else:
            parts = list(map(trained, blocks))
    finally:
        torch.set_num_threads(threads)
    return _joined(parts, heads, order)


def _joined(parts: Sequence[TrainedHeads], heads: Sequence[Head], order: Sequence[int]) -> TrainedHeads:
    """The blocks in the order that was asked for."""
    place = sorted(range(len(order)), key=order.__getitem__)
    epochs = [epoch for part in parts for epoch in part.epochs]
    ran = [count for part in parts for count in part.ran]
    found = [loss for part in parts for loss in part.losses]
    weights = [torch.cat(layer)[place] for layer in zip(*(part.weights for part in parts), strict=True)]
    return TrainedHeads(
        heads=tuple(heads),
        weights=tuple(weights),
        epochs=tuple(epochs[p] for p in place),
        ran=tuple(ran[p] for p in place),
        losses=tuple(found[p] for p in place),
    )


@torch.no_grad()
def _train_together(
    task: Task, train: ProbeData, valid: ProbeData, shapes: Sequence[tuple[int, int]], heads: Sequence[Head]
) -> TrainedHeads:
    """Heads as one batch of products; those that stop leave it."""
    device = train.x_AKE.device
    weights = first_weights(shapes, [head.seed for head in heads], device)
    draws = {head.seed: Draws(head.seed, device) for head in heads}
    best = [weight.clone() for weight in weights]
    best_loss_H = torch.full((len(heads),), math.inf, dtype=torch.float64)
    best_epoch_H, ran_H = torch.zeros(2, len(heads), dtype=torch.int64)
    alive = torch.arange(len(heads))
    optimiser = Adam.of(weights, learning_rate=task.learning_rate, weight_decay=task.weight_decay)
    for epoch in range(1, task.max_epochs + 1):
        running = [heads[i] for i in alive.tolist()]
        _train_epoch(task, train, optimiser, running, draws)
        loss_H = _validation_losses(optimiser.weights, valid, running)
        better_H = loss_H < best_loss_H[alive]
        rows, ran_H[alive] = alive[better_H], epoch
        best_loss_H[rows], best_epoch_H[rows] = loss_H[better_H], epoch
        for kept, weight in zip(best, optimiser.weights, strict=True):
            kept[rows] = weight[better_H]
        patient_H = epoch - best_epoch_H[alive] < task.patience
        if not patient_H.any():
            break
        if not patient_H.all():
            alive = alive[patient_H]
            optimiser.keep(patient_H)
    if not bool(torch.isfinite(best_loss_H).all()):
        raise ValueError("the validation loss of a head is not finite")
    epochs, ran = tuple(best_epoch_H.tolist()), tuple(ran_H.tolist())
    return TrainedHeads(tuple(heads), tuple(best), epochs, ran, tuple(best_loss_H.tolist()))


class Draws:
    """The random numbers of one seed: orders of clips on the host, words for dropout where they are needed."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.order = torch.Generator().manual_seed(seed + ORDER)
        self.dropout = torch.Generator(device).manual_seed(seed + DROPOUT)


def _train_epoch(task: Task, train: ProbeData, optimiser: Adam, heads: Sequence[Head], draws: dict[int, Draws]) -> None:
    """One pass over the clips, every seed in its own order, gradient written out; the host waits for nothing."""
    clips, device = train.x_AKE.shape[1], train.x_AKE.device
    x_RE = train.x_AKE.flatten(0, 1)
    seeds = sorted({head.seed for head in heads})
    place = [seeds.index(head.seed) for head in heads]
    order_SK = torch.stack([torch.randperm(clips, generator=draws[seed].order) for seed in seeds])
    order_HK = sent(order_SK[place], device)
    row_HK = sent(order_SK[place] + clips * torch.tensor([[head.model] for head in heads]), device)
    place_H = sent(torch.tensor(place), device)
    entering = train.x_AKE.shape[2] if task.head == "linear" else task.hidden
    for first in range(0, clips, task.batch):
        row_HB, order_HB = (rows[:, first : first + task.batch] for rows in (row_HK, order_HK))
        shape = row_HB.shape
        x_HBE = x_RE.index_select(0, row_HB.flatten()).view(*shape, -1)
        chance_HBF = None
        if task.dropout > 0:
            words_SBF = draw_words([draws[seed].dropout for seed in seeds], (shape[1], entering), device)
            chance_HBF = words_SBF.index_select(0, place_H)
        layers = forward(optimiser.weights, x_HBE, chance_HBF, task.dropout)
        y_HB = train.y_K.index_select(0, order_HB.flatten()).view(*shape, *train.y_K.shape[1:])
        g_HBC = loss_gradient(layers[-1], y_HB)
        if chance_HBF is not None:
            g_HBC /= 1 - task.dropout
        backward(optimiser.weights, optimiser.gradients, layers, g_HBC)
        optimiser.step()


def _validation_losses(weights: Sequence[Tensor], valid: ProbeData, heads: Sequence[Head]) -> Tensor:
    """Loss of the whole split for every head, (H,) float64 on the host."""
    found = []
    for h, head in enumerate(heads):
        out_1KC = forward([weight[h : h + 1] for weight in weights], valid.x_AKE[None, head.model])[-1]
        found.append(losses(out_1KC, valid.y_K[None]))
    return torch.cat(found).double().cpu()
