"""What all ranks must agree on before a loss of the global batch is computed.

Shape suffixes: n rows of this rank, d projection width, C tags, K variant heads.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.contrastive.settings import VariantSettings, check_temperature

DTYPES = (torch.float32, torch.float64)


class Rows(NamedTuple):
    """The rows of this rank, as `contrastive_loss` and `variant_contrastive_loss` document them."""

    z: Tensor
    """(n, d), or (n, K + 1, d) where there are variant heads."""
    clip_id: Tensor
    labels: Tensor | None


class Variants(NamedTuple):
    """What the variant heads need besides the rows."""

    received: Tensor
    """bool (n, K): whether a row got the effect of head k ≥ 1."""
    settings: VariantSettings


class Agreement(NamedTuple):
    """What the ranks found out about each other."""

    num_labelled: list[int]
    """Labelled rows of each rank."""
    wants_gradient: bool
    """Whether any rank does."""
    temperature: float


def require_tensors(needed: Mapping[str, object], optional: Mapping[str, object], *, anywhere: str = "") -> None:
    """Refuse what no rank can compute with, at once: what another rank does cannot depend on it.

    Args:
        needed: arguments by name, all on the device of the first.
        optional: those that may be None.
        anywhere: name of one that may be on another device.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for one without numbers, or on another device.
    """
    device: torch.device | None = None
    given = {**needed, **{name: value for name, value in optional.items() if value is not None}}
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got a {type(value).__name__}; torch.as_tensor makes one")
        if value.is_meta or value.layout != torch.strided:
            raise ValueError(f"{name} must be a dense tensor that holds numbers, got {value.layout} on {value.device}")
        device = device or value.device
        if name != anywhere and value.device != device:
            first = next(iter(needed))
            raise ValueError(f"{name} is on {value.device} and {first} on {device}; call {name}.to({first}.device)")


def problem_with(rows: Rows, variants: Variants | None = None) -> str | None:
    """Why these rows cannot have a loss; None when they can."""
    z, clip_id, labels = rows
    if variants is None and (z.ndim != 2 or 0 in z.shape):
        return f"z must be (rows, width), neither of them 0, got {tuple(z.shape)}"
    if variants is not None and (problem := _problem_with_heads(z, variants.received)):
        return problem
    if z.dtype not in DTYPES:
        return f"z must be float32 or float64, got {z.dtype}; call z.float() first"
    if clip_id.shape != z.shape[:1] or clip_id.dtype != torch.int64:
        return f"clip_id must be int64 of shape ({len(z)},), got {clip_id.dtype} of shape {tuple(clip_id.shape)}"
    if labels is not None and (labels.ndim != 2 or len(labels) != len(z) or labels.dtype != torch.bool):
        return f"labels must be bool of shape ({len(z)}, tags), got {labels.dtype} of shape {tuple(labels.shape)}"
    return None


def _problem_with_heads(z: Tensor, received: Tensor) -> str | None:
    if z.ndim != 3 or 0 in z.shape:
        return f"z must be (rows, heads, width), none of them 0, got {tuple(z.shape)}"
    if received.dtype != torch.bool or received.shape != (len(z), z.shape[1] - 1):
        return (
            f"received must be bool of shape ({len(z)}, {z.shape[1] - 1}), a column for every head but the first, got "
            f"{received.dtype} of shape {tuple(received.shape)}"
        )
    return None


def agree(rows: Rows, temperature: float | Tensor, problem: str | None, group: Group) -> Agreement:
    """Compare the shapes of all ranks and collect what each has to know of the others, with one all-gather.

    Args:
        rows: of this rank.
        temperature: τ, checked here.
        problem: of this rank's rows. It still takes part, so that the others raise as well instead of waiting for it.
        group: ranks that form the global batch.

    Raises:
        ValueError: for a problem of any rank, shapes that differ, or a temperature that is not positive.
    """
    z, _, labels = rows
    learnable = isinstance(temperature, Tensor) and temperature.requires_grad
    wants_gradient = torch.is_grad_enabled() and (z.requires_grad or learnable)
    shape = (0, 0, 0) if problem else (len(z), z[0].numel(), 0 if labels is None else labels.shape[1])
    num_labelled = labels.any(1).sum() if problem is None and labels is not None else 0
    numbers = dict(zip(("rows", "width", "tags"), shape, strict=True))
    ranks = compare(numbers, (num_labelled, wants_gradient, temperature), problem, like=z, group=group)
    own = collectives.rank(group)
    tau: float = ranks[own][2]
    check_temperature(tau)
    return Agreement([int(row[0]) for row in ranks], any(row[1] for row in ranks), tau)


def compare(
    shape: Mapping[str, int],
    facts: Sequence[float | Tensor],
    problem: str | None,
    *,
    like: Tensor,
    group: Group,
) -> list[list[float]]:
    """The facts of every rank, by rank, from one all-gather that also finds out whether their shapes agree.

    Args:
        shape: whole numbers that must be the same on every rank, by name; all 0 with a problem, else the first is not.
        facts: numbers, or tensors of one element, that are not waited for.
        problem: why this rank refuses, or None; it still takes part, so that the others raise instead of waiting.
        like: a tensor on the device of the ranks' rows.
        group: ranks that form the global batch.

    Raises:
        ValueError: for a problem of any rank, or shapes that differ.
    """
    mine = list(shape.values())
    # float64 holds the whole numbers exactly, and the temperature.
    header = like.new_tensor([[*mine, *(0 for _ in facts)]], dtype=torch.float64)
    for place, fact in enumerate(facts, len(mine)):
        header[0, place] = fact.detach().reshape(()) if isinstance(fact, Tensor) else fact
    ranks: list[list[float]] = collectives.all_gather(header, group).tolist()
    if problem:
        raise ValueError(problem)
    own = collectives.rank(group)
    for rank, row in enumerate(ranks):
        theirs = [int(number) for number in row[: len(mine)]]
        if theirs[0] == 0:
            raise ValueError(f"rank {rank} refused its rows; its own message names the reason")
        if theirs != mine:
            raise ValueError(
                f"every rank must bring the same shape ({', '.join(shape)}): rank {own} has {tuple(mine)}, "
                f"rank {rank} has {tuple(theirs)}"
            )
    return [row[len(mine) :] for row in ranks]
