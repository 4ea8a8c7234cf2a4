"""Every call of torch.distributed that the project makes; the bytes sent are counted.

Without an initialised process group each function is its one-rank identity, so callers need no second path. Bytes are
what this rank hands to the wire in the usual ring algorithm of each collective: all-gather (W−1)·payload, all-reduce
2·(W−1)/W·payload, reduce-scatter (W−1)/W·payload, broadcast payload (source only), point to point payload. DDP's own
gradient all-reduce happens inside torch and is not seen here.

Names: W ranks of the group; ranks in arguments count within the group.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from cluster.settings import RunError

Group = dist.ProcessGroup | None
"""None is the default group, or one process when there is none."""

# torch 2.13 renamed these and warns about the old names; 2.11 knows only the old ones.
_gather_call: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter_call: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

_REDUCTIONS: dict[str, Any] = {"sum": dist.ReduceOp.SUM, "mean": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


@dataclass
class Traffic:
    """Bytes this rank has sent, by kind of collective."""

    sent: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All kinds together."""
        return sum(self.sent.values())


# A list and not a context variable: backward of a CUDA graph runs in autograd's own threads.
_counters: list[Traffic] = []


@contextmanager
def counted() -> Iterator[Traffic]:
    """Count the bytes this rank sends inside the block.

    >>> with counted() as traffic:
    ...     _ = all_gather(torch.zeros(4))
    >>> traffic.total  # one process sends nothing
    0
    """
    traffic = Traffic()
    _counters.append(traffic)
    try:
        yield traffic
    finally:
        _counters[:] = [counter for counter in _counters if counter is not traffic]


def _count(kind: str, num_bytes: int) -> None:
    for counter in _counters:
        counter.sent[kind] = counter.sent.get(kind, 0) + num_bytes


def is_distributed() -> bool:
    """True when a process group is up."""
    return dist.is_available() and dist.is_initialized()


def world_size(group: Group = None) -> int:
    """Ranks in the group; 1 without one."""
    return dist.get_world_size(group) if is_distributed() else 1


def rank(group: Group = None) -> int:
    """This process's place in the group; 0 without one."""
    return dist.get_rank(group) if is_distributed() else 0


@contextmanager
def process_group(
    *, timeout_s: float, rank: int = -1, world_size: int = -1, init_method: str = "env://", backend: str | None = None
) -> Iterator[None]:
    """A default process group that ends with the block.

    Args:
        timeout_s: how long any collective waits for a rank before it fails.
        rank: this process; -1 reads the environment (torchrun).
        world_size: number of processes; -1 reads the environment.
        init_method: the rendezvous, ``env://``, ``tcp://…`` or ``file://…``.
        backend: None takes gloo for CPU tensors, and NCCL for GPU tensors where there is a GPU.
    """
    chosen = backend or ("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    dist.init_process_group(
        chosen, init_method=init_method, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s)
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier(*, timeout_s: float | None = None, group: Group = None) -> None:
    """Wait until every rank is here.

    Args:
        timeout_s: with gloo, how long to wait before the missing ranks are named; None is the group's own time-out.
        group: the ranks that wait for each other.

    Raises:
        RunError: on rank 0 naming every rank that did not come, on the others naming rank 0's refusal.
    """
    if world_size(group) == 1:
        return
    if "gloo" not in str(dist.get_backend(group)):
        dist.barrier(group=group)
        return
    # The group's own method: before torch 2.14 dist.monitored_barrier refuses one of cpu:gloo,cuda:nccl by its name.
    waiting: Any = group or dist.group.WORLD
    wait = {} if timeout_s is None else {"timeout": timedelta(seconds=timeout_s)}
    try:
        waiting.monitored_barrier(wait_all_ranks=True, **wait)
    except RuntimeError as error:
        raise RunError(f"rank {rank(group)}: not every rank reached the barrier: {error}") from error


def all_gather(tensor: Tensor, group: Group = None) -> Tensor:
    """Every rank's tensor, concatenated along the first dimension in rank order; not differentiable.

    Args:
        tensor: shape (n, …), the same on every rank.
        group: the ranks that take part.

    Returns:
        shape (W·n, …); the tensor itself for one process.
    """
    world = world_size(group)
    if world == 1:
        return tensor
    source = tensor.detach().contiguous()
    gathered = source.new_empty((world * source.shape[0], *source.shape[1:]))
    _gather_call(gathered, source, group=group)
    _count("all_gather", (world - 1) * source.nbytes)
    return gathered


def gather_json(value: Any) -> list[Any]:
    """Every rank's value, of plain JSON types, in rank order; for what is small and rare.

    NCCL takes tensors on a GPU alone: they are on the current one where it is the backend.
    """
    if world_size() == 1:
        return [value]
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    sizes = all_gather(torch.tensor([len(own)], device=device)).tolist()
    padded = own.new_zeros(max(sizes))
    padded[: len(own)] = own
    parts = all_gather(padded).view(len(sizes), -1).cpu()
    return [json.loads(part[:size].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]


def all_reduce(tensor: Tensor, reduction: Literal["sum", "mean", "max"] = "sum", group: Group = None) -> Tensor:
    """Replace a tensor by its sum, mean or maximum over ranks, in place, and return it; not differentiable."""
    world = world_size(group)
    if world == 1:
        return tensor
    dist.all_reduce(tensor, op=_REDUCTIONS[reduction], group=group)
    _count("all_reduce", 2 * (world - 1) * tensor.nbytes // world)
    return tensor.div_(world) if reduction == "mean" else tensor


def reduce_scatter(tensor: Tensor, group: Group = None) -> Tensor:
    """The sum over ranks of a (W·n, …) tensor, of which this rank keeps its own (n, …) part; not differentiable."""
    world = world_size(group)
    if world == 1:
        return tensor
    source = tensor.detach().contiguous()
    part = source.new_empty((source.shape[0] // world, *source.shape[1:]))
    _scatter_call(part, source, group=group)
    _count("reduce_scatter", (world - 1) * part.nbytes)
    return part


def broadcast(tensor: Tensor, source: int = 0, group: Group = None) -> Tensor:
    """The tensor of rank ``source``, as a new tensor on every rank."""
    sent = tensor.detach().clone(memory_format=torch.contiguous_format)
    if world_size(group) > 1:
        dist.broadcast(sent, group_src=source, group=group)
        _count("broadcast", sent.nbytes if rank(group) == source else 0)
    return sent


def exchange(tensors: Sequence[Tensor], *, to: int, source: int, group: Group = None) -> list[Tensor]:
    """Send tensors to one rank and receive as many, of the same shapes, from another; all ranks call it together."""
    payload = [tensor.detach().contiguous() for tensor in tensors]
    received = [torch.empty_like(tensor) for tensor in payload]
    # An empty tensor needs no message.
    full = [k for k, tensor in enumerate(payload) if tensor.numel()]
    sends = [dist.P2POp(dist.isend, payload[k], group=group, tag=k, group_peer=to) for k in full]
    receives = [dist.P2POp(dist.irecv, received[k], group=group, tag=k, group_peer=source) for k in full]
    for work in dist.batch_isend_irecv(sends + receives):
        work.wait()
    _count("point_to_point", sum(tensor.nbytes for tensor in payload))
    return received


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return all_gather(tensor, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return reduce_scatter(gradient, ctx.group), None


def gather_rows(tensor: Tensor, group: Group = None) -> Tensor:
    """`all_gather` whose backward sums the gradients that all ranks have for this rank's rows."""
    if world_size(group) == 1:
        return tensor
    gathered = _Gather.apply(tensor, group)
    assert isinstance(gathered, Tensor)
    return gathered


class Example(Protocol):
    """An input of a model: a tensor, or several under one name."""

    @property
    def device(self) -> torch.device:
        """Where it is."""
        ...


def data_parallel(model: torch.nn.Module, example: Example | None = None) -> torch.nn.Module:
    """The model in DDP, which averages gradients over ranks during backward; the model itself for one process.

    DDP rebuilds its buckets after the first backward, which changes the order of sums for three ranks and more: a
    resumed run would differ from an unbroken one. One backward of an example before the first step has them rebuilt in
    both. Without an example, or where the model leaves parameters without a gradient, DDP searches unused parameters at
    every step and keeps its buckets. Buffers are left to themselves: `batch_norm` gives every rank the same statistics.

    Args:
        model: returns a tuple whose first tensor is what the loss reads.
        example: an input of the model, on its device; running statistics and random states are left as they are.
    """
    if world_size() == 1:
        return model
    # torch 2.14 renamed the option and warns about the old name.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    search = example is None or bool(_without_gradient(model, example))
    options: dict[str, Any] = {buffers: False, "find_unused_parameters": search}
    wrapped = DistributedDataParallel(model, **options)
    if not search:
        assert example is not None
        _without_gradient(wrapped, example)
    return wrapped


def _without_gradient(model: torch.nn.Module, example: Example) -> list[str]:
    """Names of the parameters that one backward of an example leaves without a gradient."""
    devices = [example.device] if example.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.autograd.backward(model(example)[0].sum())
    missing = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    model.zero_grad(set_to_none=True)
    return missing


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over ranks: what DDP does, for parameters that live outside of it."""
    for parameter in parameters:
        if parameter.grad is not None:
            all_reduce(parameter.grad, "mean")
