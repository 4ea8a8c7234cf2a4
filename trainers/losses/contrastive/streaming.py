"""The semi-supervised contrastive loss of the global batch as one differentiable operation without an N² matrix.

Forward computes the value and, where any rank wants it, the gradient: backward only multiplies it by the gradient of
the scalar. So O(n·D) numbers live until backward, and backward needs no collective.

Shape suffixes: n or R rows of this rank, D projection width; N rows over all ranks.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.contrastive.agreement import Agreement
from trainers.losses.contrastive.exchange import EXCHANGES, Exchange, LocalRows, send_back
from trainers.losses.contrastive.fused import FusedGradient, FusedSums
from trainers.losses.contrastive.pairs import sort_rows
from trainers.losses.contrastive.scaling import scaled_rows, unscaled_gradient
from trainers.losses.contrastive.settings import ResolvedSettings
from trainers.losses.contrastive.tiles import NUMBER, SCORE, WEIGHT, EpsilonTerm, Gradient, Sums, TileKernel

KERNELS: dict[bool, tuple[type[Sums], type[Gradient]]] = {False: (Sums, Gradient), True: (FusedSums, FusedGradient)}
"""Of the sums and of the gradient, in tiles or fused."""


class Request(NamedTuple):
    """Everything about one evaluation of the loss but the two differentiable tensors."""

    clip_id_R: Tensor
    labels_RC: Tensor | None
    agreement: Agreement
    settings: ResolvedSettings
    group: Group


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
    settings = request.settings
    sums, gradient = KERNELS[settings.fused]
    exchange = EXCHANGES[settings.exchange](local)
    total, positives_R, scalars = _anchors(exchange, local, sums(settings))
    # A NaN row that no anchor has as its positive must make the loss NaN too.
    total = total + 0 * local.z_RD.sum()
    # Summed in rank order and not by an all-reduce: the same bits everywhere.
    loss = collectives.all_gather(total[None], request.group).sum().to(z_RD.dtype)
    positives_R = torch.empty_like(positives_R).index_copy_(0, order_R, positives_R)
    if not request.agreement.wants_gradient:
        return loss, positives_R, ()
    pull_RD = sum_over_pairs(gradient(settings), exchange, exchange.share(scalars))
    return loss, positives_R, _back_to_rows(pull_RD, local.z_RD, inverse_temperature, norm_R1, order_R)


def sum_over_pairs(kernel: TileKernel, exchange: Exchange, scalars: list[Tensor]) -> Tensor:
    """The kernel's table of the rows of this rank, over all their pairs with rows of any rank."""
    table = kernel.table(exchange.own)
    for pair, pair_scalars, hop in exchange.pairs(scalars):
        if pair.mirrored:
            kernel.accumulate(pair, pair_scalars, table, table)
        elif hop == 0:
            kernel.accumulate(pair, pair_scalars, table, None)
        else:
            col_table = kernel.table(pair.cols)
            kernel.accumulate(pair, pair_scalars, table, col_table)
            kernel.merge(table, send_back(col_table, hop, exchange.group))
    return table


def _prepare(z_RD: Tensor, inverse_temperature: Tensor, request: Request) -> tuple[Tensor, Tensor, LocalRows]:
    """Sort the rows and bring them to norm √(1/τ); a zero-norm row stays zero, and its norm is returned as +∞."""
    labels_RC = request.labels_RC
    labelled_R = request.clip_id_R.new_zeros(len(z_RD), dtype=torch.bool) if labels_RC is None else labels_RC.any(1)
    order_R = sort_rows(request.clip_id_R, labelled_R)
    sorted_RD, norm_R1 = scaled_rows(z_RD, order_R, inverse_temperature)
    labels_sorted = None if labels_RC is None else labels_RC[order_R]
    local = LocalRows(
        sorted_RD,
        request.clip_id_R[order_R],
        labels_sorted,
        request.agreement.num_labelled,
        request.group,
        request.settings,
    )
    return order_R, norm_R1, local


def _anchors(exchange: Exchange, local: LocalRows, sums: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of this rank's anchors over N, float64; K of its rows; and their scalars lse, a, b, (3, R)."""
    settings, world = local.settings, len(local.num_labelled)
    num_rows = world * len(local.z_RD)
    table = sum_over_pairs(sums, exchange, [local.z_RD.new_empty(0, len(local.z_RD))] * world)
    lse_R, mass_R = sums.lse(table), table[WEIGHT]
    positive_R = mass_R > 0
    # Under a criterion every weight is 0 or 1: the mass is the number.
    number_R = table[NUMBER] if settings.weighing else mass_R
    divisor_R = (number_R if settings.count else mass_R).where(positive_R, 1)
    if settings.epsilon > 0:
        term, credit_R = sum_over_pairs(EpsilonTerm(settings), exchange, [lse_R[None].to(local.z_RD.dtype)] * world)
        loss_R, pull_R = -term / divisor_R, credit_R / divisor_R
    else:
        pull_R = mass_R / divisor_R
        loss_R = pull_R * lse_R - table[SCORE] / divisor_R
        pull_R = pull_R if settings.careful else pull_R * (-lse_R).exp()
    pull_R = pull_R.where(positive_R, 0) / num_rows
    push_R = (1 / divisor_R).where(positive_R, 0) / num_rows
    total = loss_R.where(positive_R, 0).sum() / num_rows
    return total, number_R, torch.stack([lse_R, pull_R, push_R]).to(local.z_RD.dtype)


def _back_to_rows(
    pull_RD: Tensor, scaled_RD: Tensor, inverse_temperature: Tensor, norm_R1: Tensor, order_R: Tensor
) -> tuple[Tensor, Tensor]:
    """From Σ_j H_ij·√(1/τ)ẑ_j to the gradients of the unnormalised rows, in the caller's order, and of 1/τ."""
    gradient_RD, radial = unscaled_gradient(pull_RD, scaled_RD, norm_R1, inverse_temperature)
    in_order_RD = torch.empty_like(gradient_RD)
    in_order_RD[order_R] = gradient_RD
    return in_order_RD, radial / (2 * inverse_temperature)
