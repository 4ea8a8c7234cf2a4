"""Two-pass gradient caching: the global batch is bounded by time, not by the activations of the encoder.

Pass 1 projects chunk after chunk without keeping activations; the loss of all rows gives ∂L/∂z; pass 2 projects each
chunk again, now with activations, and pushes its part of ∂L/∂z through. Chunk k of K holds the clips k::K with all
their views, which are the rows k::K of a view-major batch, so that K chunks on one rank are K ranks with one chunk.
The gradient is that of the whole batch exactly, provided no layer mixes rows of different chunks: BatchNorm has to be
`micro`.

Shape suffixes: N rows of this rank (row m·clips + b), n of a chunk, D projection width, E encoder width.

Source: Gao et al. 2021 (arXiv:2101.06983).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trainers.distributed.batch_norm import GlobalNorm, MicroBatchNorm, running_statistics
from trainers.draws import GeneratorStates


class Chunk(NamedTuple):
    """A part of what a model reads, and the rows of its output that come of it."""

    features: Any
    rows_n: Tensor
    """int64; the embeddings are those of the first of them."""


class Chunked(Protocol):
    """What a model reads, where that is more than one tensor."""

    @property
    def device(self) -> torch.device:
        """Of all of it."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def split(self, num_chunks: int) -> list[Chunk]:
        """Chunk k holds the clips k::K."""
        ...


def backward_in_chunks(
    model: nn.Module,
    features: Tensor | Chunked,
    loss: Callable[[Tensor], Tensor],
    *,
    num_clips: int,
    num_chunks: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Accumulate the gradients of ``loss(model(features))`` with the activations of one chunk at a time.

    Random layers see the same draws in both passes, running statistics move once, and under DDP gradients travel once,
    with the last chunk.

    Args:
        model: views (N, …) to projections z_ND and embeddings h_NE; plain or wrapped in DDP.
        features: the views of this rank, view-major, or what is split by a method of its own.
        loss: z_ND to a scalar; gradients of its own parameters are accumulated too.
        num_clips: clips of this rank; it divides N.
        num_chunks: K, which divides ``num_clips``.

    Returns:
        The loss, z_ND and h_NE, all detached.

    Raises:
        ValueError: if the numbers do not divide, or a BatchNorm would see a chunk where it should see the whole batch.
    """
    if num_chunks < 1 or num_clips < 1 or num_clips % num_chunks or len(features) % num_clips:
        raise ValueError(
            f"{len(features)} rows of {num_clips} clips cannot be split into {num_chunks} chunks of whole clips"
        )
    _refuse_mixing_layers(model)
    chunks = _split(features, num_chunks) if isinstance(features, Tensor) else features.split(num_chunks)
    states: list[GeneratorStates] = []
    projected: list[Tensor] = []
    embedded: list[Tensor] = []
    with torch.no_grad(), running_statistics(model, "hold"), _without_sync(model):
        for chunk in chunks:
            states.append(GeneratorStates(features.device))
            z_nD, h_nE = model(chunk.features)
            projected.append(z_nD)
            embedded.append(h_nE)
    z_ND = _together(projected, chunks).requires_grad_()
    value = loss(z_ND)
    torch.autograd.backward(value)
    assert z_ND.grad is not None
    after = GeneratorStates(features.device)
    with running_statistics(model, "collect"):
        for k, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
            state.restore()
            with nullcontext() if k == num_chunks - 1 else _without_sync(model):
                torch.autograd.backward(model(chunk.features)[0], z_ND.grad[chunk.rows_n])
    after.restore()
    return value.detach(), z_ND.detach(), _together(embedded, chunks)


def _split(features: Tensor, num_chunks: int) -> list[Chunk]:
    row_N = torch.arange(len(features), device=features.device)
    return [Chunk(features[k::num_chunks], row_N[k::num_chunks]) for k in range(num_chunks)]


def _together(parts: list[Tensor], chunks: Sequence[Chunk]) -> Tensor:
    """The rows of all chunks where they belong."""
    whole = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
    for part, chunk in zip(parts, chunks, strict=True):
        whole[chunk.rows_n[: len(part)]] = part
    return whole


def _refuse_mixing_layers(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        mixes = isinstance(layer, nn.modules.batchnorm._BatchNorm) or (
            isinstance(layer, GlobalNorm) and not isinstance(layer, MicroBatchNorm)
        )
        if mixes and layer.training:
            raise ValueError(
                f"gradient caching is exact only with micro BatchNorm, and {name} is a {type(layer).__name__}; "
                "set encoder.batch_norm=micro or leave optim.micro_batch out"
            )


def _without_sync(model: nn.Module) -> Any:
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()
