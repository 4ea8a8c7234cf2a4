"""The semi-supervised contrastive loss of the global batch as one differentiable operation without an N² matrix.

Forward computes the value and, when anybody wants it, the gradient too: it is linear in what comes from above, so
nothing but the gradient itself, O(n·D), has to live until backward, and backward sends nothing.

Shape suffixes: n or R rows of this rank, D projection width; N rows over all ranks.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainers import collectives
from trainers.collectives import Group
from trainers.losses.exchange import EXCHANGES, Exchange, Local
from trainers.losses.fused import FusedGradient, FusedSums
from trainers.losses.pairs import Recipe, sort_rows
from trainers.losses.tiles import NUMBER, SCORE, WEIGHT, EpsilonTerm, Gradient, Sums

WALKS: dict[bool, tuple[type[Sums], type[Gradient]]] = {False: (Sums, Gradient), True: (FusedSums, FusedGradient)}
"""First and last walk, in tiles or fused."""


class Request(NamedTuple):
    """Everything about one evaluation of the loss but the two differentiable tensors."""

    clip_id_R: Tensor
    labels_RC: Tensor | None
    num_labelled: list[int]
    """Labelled rows of each rank."""
    recipe: Recipe
    exchange: str
    group: Group
    wants_gradient: bool


class GlobalLoss(torch.autograd.Function):
    """Value and gradient of arXiv:2407.13840, Eq. 3, for unnormalised projections and the inverse temperature."""

    @staticmethod
    def forward(ctx: Any, z_RD: Tensor, inverse_temperature: Tensor, request: Request) -> tuple[Tensor, Tensor]:
        """The loss of the global batch, the same bits on every rank, and how many positives each own row has."""
        ctx.world = collectives.world_size(request.group)
        with torch.autocast(z_RD.device.type, enabled=False):
            loss, positives_R, gradients = _evaluate(z_RD.detach(), inverse_temperature.detach(), request)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(positives_R)
        return loss, positives_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor, _positives: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """W times this rank's part of the global gradient, because DDP is going to average over W ranks."""
        if not ctx.saved_tensors:
            raise RuntimeError("this rank's loss was computed without a gradient")
        gradient_RD, gradient_inverse = ctx.saved_tensors
        factor = above * ctx.world
        return gradient_RD * factor, gradient_inverse * factor, None


def _evaluate(z_RD: Tensor, inverse_temperature: Tensor, request: Request) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    order_R, norm_R1, local = _prepare(z_RD, inverse_temperature, request)
    exchange = EXCHANGES[request.exchange, request.recipe.fused](local)
    total, positives_R, scalars = _anchors(exchange, local, request.recipe)
    # A NaN row that no anchor has as its positive must not go unseen.
    total = total + 0 * local.z_RD.sum()
    # Summed in rank order and not by an all-reduce: the same bits everywhere.
    loss = collectives.all_gather(total[None], request.group).sum().to(z_RD.dtype)
    positives_R = torch.empty_like(positives_R).index_copy_(0, order_R, positives_R)
    if not request.wants_gradient:
        return loss, positives_R, ()
    gradient = WALKS[request.recipe.fused][1]
    pull_RD = exchange.walk(gradient(request.recipe), exchange.share(scalars))
    return loss, positives_R, _back_to_rows(pull_RD, local.z_RD, inverse_temperature, norm_R1, order_R)


def _prepare(z_RD: Tensor, inverse_temperature: Tensor, request: Request) -> tuple[Tensor, Tensor, Local]:
    """Sort the rows and bring them to norm √(1/τ); a silent row stays zero, and its norm is returned as +∞."""
    labels_RC = request.labels_RC
    labelled_R = request.clip_id_R.new_zeros(len(z_RD), dtype=torch.bool) if labels_RC is None else labels_RC.any(1)
    order_R = sort_rows(request.clip_id_R, labelled_R)
    # Dividing by the largest entry first keeps squares from overflowing or vanishing.
    peak_R1 = torch.linalg.vector_norm(z_RD, torch.inf, dim=1, keepdim=True)[order_R]
    silent_R1 = peak_R1 < torch.finfo(z_RD.dtype).tiny
    sorted_RD = z_RD[order_R].div_(peak_R1.masked_fill(silent_R1, 1))
    length_R1 = torch.linalg.vector_norm(sorted_RD, dim=1, keepdim=True)
    sorted_RD.mul_((inverse_temperature.sqrt() / length_R1).masked_fill_(silent_R1, 0))
    norm_R1 = (peak_R1 * length_R1).masked_fill_(silent_R1, torch.inf)
    labels_sorted = None if labels_RC is None else labels_RC[order_R]
    local = Local(
        sorted_RD,
        request.clip_id_R[order_R],
        labels_sorted,
        request.num_labelled,
        request.group,
        request.recipe,
    )
    return order_R, norm_R1, local


def _anchors(exchange: Exchange, local: Local, recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of this rank's anchors over N, float64; K of its rows; and their scalars lse, a, b, (3, R)."""
    world = len(local.num_labelled)
    num_rows = world * len(local.z_RD)
    sums = WALKS[recipe.fused][0](recipe)
    table = exchange.walk(sums, [local.z_RD.new_empty(0, len(local.z_RD))] * world)
    lse_R, mass_R = sums.lse(table), table[WEIGHT]
    positive_R = mass_R > 0
    # Under a criterion every weight is 0 or 1: the mass is the number.
    number_R = table[NUMBER] if recipe.weighing else mass_R
    divisor_R = (number_R if recipe.count else mass_R).where(positive_R, 1)
    if recipe.epsilon > 0:
        term, credit_R = exchange.walk(EpsilonTerm(recipe), [lse_R[None].to(local.z_RD.dtype)] * world)
        loss_R, pull_R = -term / divisor_R, credit_R / divisor_R
    else:
        pull_R = mass_R / divisor_R
        loss_R = pull_R * lse_R - table[SCORE] / divisor_R
        pull_R = pull_R if recipe.careful else pull_R * (-lse_R).exp()
    pull_R = pull_R.where(positive_R, 0) / num_rows
    push_R = (1 / divisor_R).where(positive_R, 0) / num_rows
    total = loss_R.where(positive_R, 0).sum() / num_rows
    return total, number_R, torch.stack([lse_R, pull_R, push_R]).to(local.z_RD.dtype)


def _back_to_rows(
    pull_RD: Tensor, scaled_RD: Tensor, inverse_temperature: Tensor, norm_R1: Tensor, order_R: Tensor
) -> tuple[Tensor, Tensor]:
    """From Σ_j H_ij·√(1/τ)ẑ_j to the gradients of the unnormalised rows, in the caller's order, and of 1/τ."""
    radial_R1 = torch.linalg.vecdot(scaled_RD, pull_RD)[:, None]
    gradient_inverse = radial_R1.double().sum().to(pull_RD.dtype) / (2 * inverse_temperature)
    # The normalisation ẑ = z/‖z‖ passes only what is at right angles to ẑ, divided by ‖z‖.
    pull_RD.addcmul_(scaled_RD, radial_R1 / inverse_temperature, value=-1).mul_(inverse_temperature.sqrt() / norm_R1)
    gradient_RD = torch.empty_like(pull_RD)
    gradient_RD[order_R] = pull_RD
    return gradient_RD, gradient_inverse
