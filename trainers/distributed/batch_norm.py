"""BatchNorm whose statistics do not depend on how a batch is split over ranks and chunks (docs/training.md).

`sync` normalises by the mean and variance of the global batch. `micro` normalises micro-batches of a fixed number of
rows, each by its own: the definition that K chunks on one rank and K ranks share, and under which gradient caching is
exact. Rows are view-major over clips in slot order, so rows k::K of a call are the clips k::K with all their views.
Running statistics are the same on every rank and for any split, so DDP has no buffers to broadcast.

Shape suffixes: N rows of this call, C channels; what follows (time, frequency) is normalised over as well.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.distributed import collectives
from trainers.distributed.global_moments import SyncNormalise, moments_of_ranks

Kind = Literal["sync", "micro"]
Running = Literal["update", "hold", "collect"]
"""Whether a forward in training mode updates running statistics, holds them, or collects its part for later."""


class GlobalNorm(nn.Module, ABC):
    """The base of both kinds: the parameters and buffers of torch's BatchNorm, under the same names.

    Args:
        num_features: channels C.
        eps: added to the variance.
        momentum: share of a new step in the running statistics, in (0, 1].
        affine: whether a learned scale and shift follow.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    global_statistics = False
    """Whether the statistics of a call are those of all ranks."""

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be in (0, 1], got {momentum}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))
        self.running: Running = "update"
        # Mean, variance and a weight of 1 for each batch seen since the last move; no buffer, it never outlives a step.
        self.collected: Tensor | None = None

    def extra_repr(self) -> str:
        """Channels and constants, as torch's BatchNorm shows them."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, …) rows; in evaluation mode by the running statistics."""
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"BatchNorm expects (rows, {self.num_features}, …), got {tuple(x.shape)}")
        if self.training:
            return self._normalise(x)
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    @abstractmethod
    def _normalise(self, x: Tensor) -> Tensor: ...

    def moments(self, count: Tensor, mean_C: Tensor, variance_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Number, mean and biased variance over the ranks that share the statistics of a call: here this one alone."""
        return count, mean_C, variance_C

    def total(self, part: Tensor) -> Tensor:
        """The sum over those ranks, which may overwrite ``part``."""
        return part

    def collect(self, mean_GC: Tensor, variance_GC: Tensor) -> None:
        """Take the unbiased statistics of G batches into account, as ``running`` has it."""
        if self.running == "hold":
            return
        part = torch.cat([mean_GC, variance_GC, torch.ones_like(mean_GC[:, :1])], 1).detach().sum(0)
        self.collected = part if self.collected is None else self.collected + part
        if self.running == "update":
            move_running_statistics([self])


class SyncBatchNorm(GlobalNorm):
    """BatchNorm of the global batch, in forward and backward, on CPU and GPU; one process gives torch's own."""

    global_statistics = True

    def moments(self, count: Tensor, mean_C: Tensor, variance_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Number, mean and biased variance over all ranks."""
        if collectives.world_size() == 1:
            return count, mean_C, variance_C
        return moments_of_ranks(count, mean_C, variance_C)

    def total(self, part: Tensor) -> Tensor:
        """The sum over ranks; overwrites ``part``."""
        return collectives.all_reduce(part, "sum")

    def _normalise(self, x: Tensor) -> Tensor:
        if collectives.world_size() == 1:
            if x.numel() == self.num_features:
                raise ValueError("BatchNorm needs more than one value per channel in training mode")
            return self._normalise_alone(x)
        y, mean_C, variance_C = SyncNormalise.apply(x, self.weight, self.bias, self.eps)
        assert isinstance(y, Tensor)
        self.collect(mean_C[None], variance_C[None])
        return y

    def _normalise_alone(self, x: Tensor) -> Tensor:
        mean_C, variance_C = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # With a momentum of 1 torch returns the statistics of this batch.
        y = functional.batch_norm(x, mean_C, variance_C, self.weight, self.bias, True, 1.0, self.eps)
        self.collect(mean_C[None], variance_C[None])
        return y


class MicroBatchNorm(GlobalNorm):
    """BatchNorm of micro-batches of ``rows`` rows: with K of them in a call, number k holds rows k::K.

    Running statistics move by the mean over all micro-batches of the global batch.

    Args:
        num_features: channels C.
        rows: rows of a micro-batch, clips times views; None takes each call for one.
        constants: as in `GlobalNorm`.
    """

    def __init__(self, num_features: int, *, rows: int | None = None, **constants: Any) -> None:
        super().__init__(num_features, **constants)
        if rows is not None and rows < 1:
            raise ValueError(f"rows of a micro-batch must be >= 1, got {rows}")
        self.rows = rows

    def extra_repr(self) -> str:
        """As above, with the size of the micro-batch."""
        return f"{super().extra_repr()}, rows={self.rows}"

    def _normalise(self, x: Tensor) -> Tensor:
        rows, features = self.rows or len(x), self.num_features
        if len(x) % rows:
            raise ValueError(f"a batch of {len(x)} rows cannot be split into micro-batches of {rows}")
        if rows * x[0, 0].numel() == 1:
            raise ValueError("BatchNorm needs more than one value per channel and micro-batch in training mode")
        num_groups = len(x) // rows
        mean, variance = x.new_zeros(2, num_groups * features, dtype=self.running_mean.dtype)
        # Row q·K + k belongs to group k: groups become channels without a copy.
        folded = x.reshape(rows, num_groups * features, *x.shape[2:])
        weight = None if self.weight is None else self.weight.repeat(num_groups)
        bias = None if self.bias is None else self.bias.repeat(num_groups)
        y = functional.batch_norm(folded, mean, variance, weight, bias, True, 1.0, self.eps)
        self.collect(mean.view(num_groups, -1), variance.view(num_groups, -1))
        return y.view(x.shape)


def convert_batch_norm(model: nn.Module, kind: Kind, *, rows: int | None = None) -> nn.Module:
    """Replace every BatchNorm inside a model, in place, keeping parameters, buffers and their names.

    Args:
        model: holds `nn.BatchNorm1d` or `nn.BatchNorm2d` layers; it may not be one itself.
        kind: ``sync`` or ``micro``.
        rows: for ``micro``, rows of a micro-batch (clips times views); None takes each call for one.

    Returns:
        The same model.

    Raises:
        ValueError: for an unknown kind, or ``rows`` with ``sync``, or a layer without running statistics or momentum.
    """
    if kind not in ("sync", "micro"):
        raise ValueError(f"batch_norm must be sync or micro, got {kind!r}")
    if kind == "sync" and rows is not None:
        raise ValueError(f"rows is a setting of batch_norm=micro; leave it out for sync, got {rows}")
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(module, name, _converted(child, kind, rows))
    return model


def _converted(layer: nn.Module, kind: Kind, rows: int | None) -> GlobalNorm:
    assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    if layer.momentum is None or layer.running_mean is None:
        raise ValueError("a BatchNorm without momentum or running statistics cannot be converted")
    constants: dict[str, Any] = {"eps": layer.eps, "momentum": layer.momentum, "affine": layer.affine}
    norm: GlobalNorm
    if kind == "sync":
        norm = SyncBatchNorm(layer.num_features, **constants)
    else:
        norm = MicroBatchNorm(layer.num_features, rows=rows, **constants)
    norm.to(device=layer.running_mean.device, dtype=layer.running_mean.dtype)
    norm.load_state_dict(layer.state_dict())
    return norm.train(layer.training)


@contextmanager
def running_statistics(model: nn.Module, running: Running) -> Iterator[None]:
    """Let every layer hold its running statistics, or collect those of several forwards and move them once at the end.

    With ``collect`` all ranks must leave the block together; an error inside it drops what was collected.
    """
    layers = [module for module in model.modules() if isinstance(module, GlobalNorm)]
    before = [(layer.running, layer.collected) for layer in layers]
    for layer in layers:
        layer.running = running
    try:
        yield
        if running == "collect":
            move_running_statistics(layers)
    finally:
        for layer, (mode, collected) in zip(layers, before, strict=True):
            # A forward that holds inside a block that collects leaves alone what was collected.
            layer.running, layer.collected = mode, collected if running == "hold" else None


def move_running_statistics(layers: Iterable[GlobalNorm]) -> None:
    """Move running statistics towards the mean over all batches collected on all ranks, with one all-reduce.

    Statistics that are not finite leave them as they were, as a masked update leaves the weights (docs/faults.md, 37).
    """
    parts = {layer: layer.collected for layer in layers if layer.collected is not None}
    local = [layer for layer in parts if not layer.global_statistics]
    if local:
        pooled = collectives.all_reduce(torch.cat([parts[layer] for layer in local]), "sum")
        parts.update(zip(local, torch.split(pooled, [len(parts[layer]) for layer in local]), strict=True))
    for layer, total in parts.items():
        mean_C, variance_C = (total[:-1] / total[-1]).to(layer.running_mean).chunk(2)
        finite = torch.isfinite(total).all()
        for running, new in ((layer.running_mean, mean_C), (layer.running_var, variance_C)):
            running.copy_(torch.where(finite, torch.lerp(running, new, layer.momentum), running))
        layer.num_batches_tracked += finite
        layer.collected = None
