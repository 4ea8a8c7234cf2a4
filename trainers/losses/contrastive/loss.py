"""The semi-supervised contrastive loss of the global batch, exact on any number of ranks.

An anchor without positives counts as zero but stays in the mean; a batch without any has loss 0. Without labels this is
NT-Xent, with only labelled rows SupCon. A row of norm 0 is at right angles to all and gets no gradient; a NaN row makes
the loss NaN. Every rank of the group must call, with the same settings. Inside a bfloat16 autocast region of a GPU rows
are multiplied as bfloat16 and added up in float32. Every call synchronises with the device once, to read the
number of labelled rows and the temperature.

>>> z = torch.eye(2).repeat(2, 1)  # two views of two clips, the views equal
>>> loss = contrastive_loss(z, torch.tensor([7, 9, 7, 9]), None, temperature=1.0)
>>> round(loss.item(), 4)  # log(1 + 2/e)
0.5514

Shape suffixes: n rows of this rank (clips times views), H heads, d projection width, C tags; N = W·n rows over W ranks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trainers.distributed.collectives import Group
from trainers.kernel_choice import KernelChoice
from trainers.losses.contrastive.agreement import Rows, Variants, agree, problem_with, require_tensors
from trainers.losses.contrastive.settings import (
    ContrastSettings,
    ExchangeName,
    KernelName,
    Normaliser,
    Positives,
    ResolvedSettings,
    check_temperature,
)
from trainers.losses.contrastive.streaming import GlobalLoss, Request
from trainers.losses.contrastive.triton.launch import obstacle

LARGEST_EXPONENT = {torch.float32: 40.0, torch.float64: 300.0}
"""1/τ up to which exp(s) needs no running maximum, by dtype of the projections."""


class Contrast(NamedTuple):
    """What one evaluation of the loss finds."""

    loss: Tensor
    positives_n: Tensor
    """float64: K of each row of this rank, in the caller's order."""
    num_labelled: int
    """Labelled rows of all ranks."""


class HeadsContrast(NamedTuple):
    """What one evaluation of the loss finds in every head."""

    loss_H: Tensor
    positives_Hn: Tensor
    """float64: positives of each row of this rank, in the caller's order."""
    num_labelled: int
    """Labelled rows of all ranks."""


def contrastive_loss(
    z: Tensor,
    clip_id: Tensor,
    labels: Tensor | None,
    *,
    temperature: float | Tensor = 0.1,
    positives: Positives = "criterion",
    criterion: int = 1,
    normaliser: Normaliser = "mass",
    epsilon: float = 0.0,
    tile: int = 512,
    exchange: ExchangeName = "gather",
    kernel: KernelName = "auto",
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
        exchange: all rows in every rank's memory, or blocks sent around a ring.
        kernel: ``tiles`` are tensor operations, ``fused`` are Triton kernels, which choose their own tiles; ``auto`` is
            fused for bfloat16 products where the kernels can compute them.
        group: ranks that form the global batch; None is the default group, or this process alone.

    Returns:
        Scalar in the dtype of ``z``, in nats, the same bits on every rank.

    Raises:
        ValueError: for a setting out of range, shapes that disagree, or ranks whose rows differ; on every rank.

    Source: Guinot et al. 2024 (arXiv:2407.13840), Eq. 3.
    """
    settings = ContrastSettings(
        positives=positives,
        criterion=criterion,
        normaliser=normaliser,
        epsilon=epsilon,
        tile=tile,
        exchange=exchange,
        kernel=kernel,
    )
    return contrast(Rows(z, clip_id, labels), temperature, settings, group).loss


def contrast(
    rows: Rows,
    temperature: float | Tensor,
    settings: ContrastSettings,
    group: Group = None,
    choice: KernelChoice | None = None,
) -> Contrast:
    """`contrastive_loss`, with the positives it counted.

    ``choice`` keeps what ``kernel=auto`` found out about the kernels; None for that of this process.
    """
    loss_H, positives_Hn, num_labelled = contrast_heads(rows, None, temperature, settings, group, choice)
    return Contrast(loss_H[0], positives_Hn[0], num_labelled)


def contrast_heads(
    rows: Rows,
    variants: Variants | None,
    temperature: float | Tensor,
    settings: ContrastSettings,
    group: Group = None,
    choice: KernelChoice | None = None,
) -> HeadsContrast:
    """The losses of head 0 and of the variant heads by one agreement and one exchange of rows; see `variants`."""
    check_temperature_argument(temperature)
    z, clip_id, labels = rows
    given = {"z": z, "clip_id": clip_id} | ({} if variants is None else {"received": variants.received})
    require_tensors(given, {"labels": labels}, anywhere="received")
    problem = problem_with(rows, variants)
    hindrance = problem or obstacle(z if variants is None else z[:, 0], labels, settings.epsilon)
    if settings.kernel == "fused" and hindrance:
        problem = problem or f"the fused kernels cannot compute these rows: {hindrance}; set kernel to auto or tiles"
    agreement = agree(rows, temperature, problem, group)
    half = _wants_half(z)
    resolved = ResolvedSettings(
        **vars(settings),
        online=1 / agreement.temperature > LARGEST_EXPONENT[z.dtype],
        half=half,
        fused=settings.kernel == "fused" or (settings.kernel == "auto" and half and hindrance is None),
        choice=(choice or _CHOICE) if settings.kernel == "auto" else None,
    )
    labels = None if labels is None or labels.shape[1] == 0 else labels
    if variants is not None:
        variants = variants._replace(received=variants.received.to(z.device, non_blocking=True))
    request = Request(clip_id, labels, variants, agreement, resolved, group)
    z_nHd = z[:, None] if variants is None else z
    loss_H, positives_Hn = GlobalLoss.apply(z_nHd, inverse_of(temperature, z), request)
    if resolved.choice:
        resolved.choice.settle()
    return HeadsContrast(loss_H, positives_Hn, sum(agreement.num_labelled))


_CHOICE = KernelChoice("kernel", "tiles")
"""Of this process, for calls of `contrastive_loss`; a run has its own."""


def check_temperature_argument(temperature: float | Tensor) -> None:
    """What can be checked without waiting for a device."""
    if not isinstance(temperature, Tensor):
        check_temperature(temperature)
    elif temperature.numel() != 1:
        raise ValueError(f"temperature must be one number, got a tensor of shape {tuple(temperature.shape)}")
    elif temperature.device.type == "cpu":
        check_temperature(temperature.detach().item())


def _wants_half(z: Tensor) -> bool:
    """True inside a bfloat16 autocast region of a GPU; a CPU has nothing to gain from it."""
    return (
        z.is_cuda
        and z.dtype == torch.float32
        and torch.is_autocast_enabled("cuda")
        and torch.get_autocast_dtype("cuda") == torch.bfloat16
    )


def inverse_of(temperature: float | Tensor, z: Tensor) -> Tensor:
    """1/τ in the dtype of the projections, differentiable; NaN where τ is not positive."""
    if not isinstance(temperature, Tensor):
        return torch.tensor(1 / temperature, dtype=z.dtype, device=z.device)
    value = temperature.reshape(()).to(z)
    return torch.where(value > 0, 1 / value, torch.nan)
