"""The semi-supervised contrastive loss of the global batch, exact on any number of ranks.

An anchor without positives counts as zero but stays in the mean; a batch without any has loss 0. Without labels this is
NT-Xent, with only labelled rows SupCon. A row of norm 0 is at right angles to all and gets no gradient; a NaN row makes
the loss NaN. Every rank of the group must call, with the same settings. Inside a bfloat16 autocast region of a GPU rows
are multiplied as bfloat16 and added up in float32. Every call waits for the device once, to learn how many rows are
labelled, and the temperature with them.

>>> z = torch.eye(2).repeat(2, 1)  # two views of two clips, the views equal
>>> loss = semi_supervised_contrastive_loss(z, torch.tensor([7, 9, 7, 9]), None, temperature=1.0)
>>> round(loss.item(), 4)  # log(1 + 2/e)
0.5514

Shape suffixes: n rows of this rank (clips times views), d projection width, C tags; N = W·n rows over W ranks.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainers import collectives
from trainers.collectives import Group
from trainers.kernel_choice import KernelChoice
from trainers.losses.fused import obstacle
from trainers.losses.loss_config import check_numbers, check_temperature
from trainers.losses.pairs import Recipe
from trainers.losses.streaming import GlobalLoss, Request

LARGEST_EXPONENT = {torch.float32: 40.0, torch.float64: 300.0}
"""1/τ up to which exp(s) needs no running maximum, by dtype of the projections."""


class Contrast(NamedTuple):
    """What one evaluation of the loss finds."""

    loss: Tensor
    positives_n: Tensor
    """float64: K of each row of this rank, in the caller's order."""
    num_labelled: int
    """Labelled rows of all ranks."""


def semi_supervised_contrastive_loss(
    z: Tensor,
    clip_id: Tensor,
    labels: Tensor | None,
    *,
    temperature: float | Tensor = 0.1,
    positives: Literal["criterion", "weighing"] = "criterion",
    criterion: int = 1,
    normaliser: Literal["mass", "count"] = "mass",
    epsilon: float = 0.0,
    tile: int = 512,
    exchange: Literal["gather", "ring"] = "gather",
    kernel: Literal["auto", "tiles", "fused"] = "auto",
    group: Group = None,
) -> Tensor:
    """Mean over all anchors of −Σ w·log p / D: how poorly an anchor finds its positives among all rows of all ranks.

    The gradient is W times this rank's part of the global one, since DDP averages over W ranks; a caller with W > 1
    outside DDP divides by W.

    Args:
        z: projections of this rank, shape (n, d), any scale, float32 or float64.
        clip_id: shape (n,), int64; equal for rows of one clip, on every rank.
        labels: shape (n, C), bool; an all-False row is unlabelled. None means no labels on any rank.
        temperature: τ > 0, no unit; a tensor of one element may require a gradient.
        positives: rows that share enough tags weigh 1, or every pair 2·C_ij / (C_i + C_j).
        criterion: tags to share, ≥ 1.
        normaliser: D is the sum of the weights, or the number of positives.
        epsilon: added to p, ≥ 0.
        tile: rows of a tile, ≥ 1.
        exchange: all rows in every rank's memory, or blocks travelling in a ring.
        kernel: how pairs are walked: ``tiles`` in tensor operations, ``fused`` by Triton kernels, which choose their
            own tiles, or ``auto``: fused for bfloat16 products where they can.
        group: ranks that form the global batch; None is the default group, or this process alone.

    Returns:
        Scalar in the dtype of ``z``, in nats, the same bits on every rank.

    Raises:
        ValueError: for a setting out of range, shapes that disagree, or ranks whose rows differ; on every rank.

    Source: Guinot et al. 2024 (arXiv:2407.13840), Eq. 3.
    """
    return contrast(
        z,
        clip_id,
        labels,
        temperature=temperature,
        positives=positives,
        criterion=criterion,
        normaliser=normaliser,
        epsilon=epsilon,
        tile=tile,
        exchange=exchange,
        kernel=kernel,
        group=group,
    ).loss


def contrast(
    z: Tensor,
    clip_id: Tensor,
    labels: Tensor | None,
    *,
    temperature: float | Tensor,
    positives: Literal["criterion", "weighing"],
    criterion: int,
    normaliser: Literal["mass", "count"],
    epsilon: float,
    tile: int,
    exchange: Literal["gather", "ring"],
    kernel: Literal["auto", "tiles", "fused"],
    group: Group,
    choice: KernelChoice | None = None,
) -> Contrast:
    """`semi_supervised_contrastive_loss`, with the positives it counted on the way.

    ``choice`` keeps what ``kernel=auto`` found out about the kernels; None for that of this process.
    """
    _check_choices(positives=positives, normaliser=normaliser, exchange=exchange, kernel=kernel)
    check_settings(temperature, criterion, epsilon, tile)
    problem = _problem(z, clip_id, labels)
    hindrance = problem or obstacle(z, labels, epsilon)
    if kernel == "fused" and hindrance:
        problem = problem or f"the fused kernels cannot walk these rows: {hindrance}; set kernel to auto or tiles"
    wants_gradient = torch.is_grad_enabled() and (z.requires_grad or _requires_grad(temperature))
    num_labelled, wants_gradient, tau = _agree(z, labels, temperature, problem, wants_gradient, group)
    check_temperature(tau)
    half = _wants_half(z)
    recipe = Recipe(
        weighing=positives == "weighing",
        criterion=criterion,
        count=normaliser == "count",
        epsilon=epsilon,
        tile=tile,
        online=1 / tau > LARGEST_EXPONENT[z.dtype],
        half=half,
        fused=kernel == "fused" or (kernel == "auto" and half and hindrance is None),
        choice=(choice or _CHOICE) if kernel == "auto" else None,
    )
    labels = None if labels is None or labels.shape[1] == 0 else labels
    request = Request(clip_id, labels, num_labelled, recipe, exchange, group, wants_gradient)
    loss, positives_n = GlobalLoss.apply(z, _inverse(temperature, z), request)
    assert isinstance(loss, Tensor)
    if recipe.choice:
        recipe.choice.settle()
    return Contrast(loss, positives_n, sum(num_labelled))


_CHOICE = KernelChoice("kernel", "tiles")
"""Of this process, for calls of `semi_supervised_contrastive_loss`; a run has its own."""
_CHOICES = {
    "positives": ("criterion", "weighing"),
    "normaliser": ("mass", "count"),
    "exchange": ("gather", "ring"),
    "kernel": ("auto", "tiles", "fused"),
}


def _check_choices(**given: str) -> None:
    for name, value in given.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(_CHOICES[name])}, got {value!r}")


def check_settings(temperature: float | Tensor, criterion: int, epsilon: float, tile: int) -> None:
    """Refuse numbers out of range with a ValueError that names them."""
    if isinstance(temperature, Tensor) and temperature.numel() != 1:
        raise ValueError(f"temperature must be one number, got a tensor of shape {tuple(temperature.shape)}")
    if not isinstance(temperature, Tensor):
        check_temperature(temperature)
    elif temperature.device.type == "cpu":
        check_temperature(temperature.detach().item())
    check_numbers(criterion, epsilon, tile)


def _requires_grad(temperature: float | Tensor) -> bool:
    return isinstance(temperature, Tensor) and temperature.requires_grad


def _wants_half(z: Tensor) -> bool:
    """True inside a bfloat16 autocast region of a GPU; a CPU has nothing to gain from it."""
    return (
        z.is_cuda
        and z.dtype == torch.float32
        and torch.is_autocast_enabled("cuda")
        and torch.get_autocast_dtype("cuda") == torch.bfloat16
    )


def _inverse(temperature: float | Tensor, z: Tensor) -> Tensor:
    if not isinstance(temperature, Tensor):
        return torch.tensor(1 / temperature, dtype=z.dtype, device=z.device)
    value = temperature.reshape(()).to(z)
    return torch.where(value > 0, 1 / value, torch.nan)


def _agree(
    z: Tensor,
    labels: Tensor | None,
    temperature: float | Tensor,
    problem: str | None,
    wants_gradient: bool,
    group: Group,
) -> tuple[list[int], bool, float]:
    """Check the rows of all ranks; labelled rows of each, whether any rank wants the gradient, and the temperature.

    A rank that refuses its own rows still takes part, so that the others raise as well instead of waiting for it.
    """
    shape = (0, 0, 0) if problem else (*z.shape, 0 if labels is None else labels.shape[1])
    # float64 holds the whole numbers exactly, and the temperature.
    header = z.new_tensor([[*shape, 0, wants_gradient, 0]], dtype=torch.float64)
    header[0, 5] = temperature.detach().reshape(()) if isinstance(temperature, Tensor) else temperature
    if problem is None and labels is not None:
        header[0, 3] = labels.any(1).sum()
    ranks = collectives.all_gather(header, group).tolist()
    if problem:
        raise ValueError(problem)
    for r, (rows, width, tags, *_) in enumerate(ranks):
        if rows == 0:
            raise ValueError(f"rank {r} refused its rows; its own message tells why")
        theirs = int(rows), int(width), int(tags)
        if theirs != shape:
            mine = collectives.rank(group)
            raise ValueError(
                f"every rank must bring the same shape (rows, width, tags): rank {mine} has {shape}, "
                f"rank {r} has {theirs}"
            )
    tau: float = ranks[collectives.rank(group)][5]
    return [int(row[3]) for row in ranks], any(row[4] for row in ranks), tau


def _problem(z: Tensor, clip_id: Tensor, labels: Tensor | None) -> str | None:
    if z.ndim != 2 or 0 in z.shape:
        return f"z must be (rows, width), neither of them 0, got {tuple(z.shape)}"
    if z.dtype not in LARGEST_EXPONENT:
        return f"z must be float32 or float64, got {z.dtype}; call z.float() first"
    if clip_id.shape != z.shape[:1] or clip_id.dtype != torch.int64:
        return f"clip_id must be int64 of shape ({len(z)},), got {clip_id.dtype} of shape {tuple(clip_id.shape)}"
    if labels is not None and (labels.ndim != 2 or len(labels) != len(z) or labels.dtype != torch.bool):
        return f"labels must be bool of shape ({len(z)}, tags), got {labels.dtype} of shape {tuple(labels.shape)}"
    return None
