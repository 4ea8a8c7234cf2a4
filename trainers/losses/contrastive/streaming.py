"""The semi-supervised contrastive loss of the global batch as one differentiable operation without an N² matrix.

Forward computes the value and, where any rank wants it, the gradient: backward only multiplies it by the gradient of
the scalar. So O(n·D) numbers live until backward, and backward needs no collective.

All heads are computed in one go, with one exchange of rows: a plain loss has one head, and a row that a variant head
has no clip for differs from the others in its clip code alone (`pairs.variant_codes`).

Shape suffixes: n or R rows of this rank, H heads, K = H − 1 variant heads, D projection width; N rows over all ranks.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.contrastive.agreement import Agreement, Variants
from trainers.losses.contrastive.exchange import EXCHANGES, Exchange, LocalRows, send_back
from trainers.losses.contrastive.pairs import sort_rows
from trainers.losses.contrastive.scaling import scaled_rows, unscaled_gradient
from trainers.losses.contrastive.settings import ResolvedSettings
from trainers.losses.contrastive.tiles import NUMBER, SCORE, WEIGHT, EpsilonTerm, Gradient, Sums, TileKernel
from trainers.losses.contrastive.triton.fused import FusedGradient, FusedSums

KERNELS: dict[bool, tuple[type[Sums], type[Gradient]]] = {False: (Sums, Gradient), True: (FusedSums, FusedGradient)}
"""Of the sums and of the gradient, in tiles or fused."""


class Request(NamedTuple):
    """Everything about one evaluation of the loss but the two differentiable tensors."""

    clip_id_R: Tensor
    labels_RC: Tensor | None
    variants: Variants | None
    agreement: Agreement
    settings: ResolvedSettings
    group: Group


class GlobalLoss(torch.autograd.Function):
    """Value and gradient of arXiv:2407.13840, Eq. 3, for unnormalised projections and the inverse temperature."""

    @staticmethod
    def forward(ctx: Any, z_RHD: Tensor, inverse_temperature: Tensor, request: Request) -> tuple[Tensor, Tensor]:
        """The loss of each head of the global batch, the same bits on every rank, and how many positives each own row
        has there: (H,) and (H, R).
        """
        ctx.world = collectives.world_size(request.group)
        with torch.autocast(z_RHD.device.type, enabled=False):
            loss_H, positives_HR, gradients = _evaluate(z_RHD.detach(), inverse_temperature.detach(), request)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(positives_HR)
        return loss_H, positives_HR

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above_H: Tensor, _positives: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """W times this rank's part of the global gradient, because DDP is going to average over W ranks."""
        if not ctx.saved_tensors:
            raise RuntimeError("this rank's loss was computed without a gradient")
        gradient_RHD, gradient_inverse_H = ctx.saved_tensors
        factor_H = above_H * ctx.world
        return gradient_RHD * factor_H[:, None], (gradient_inverse_H * factor_H).sum(), None


def _evaluate(
    z_RHD: Tensor, inverse_temperature: Tensor, request: Request
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    order_R, norm_HR1, local = _prepare(z_RHD, inverse_temperature, request)
    settings = request.settings
    sums, gradient = KERNELS[settings.fused]
    exchange = EXCHANGES[settings.exchange](local)
    total_H, number_HR, scalars = _anchors(exchange, local, sums(settings))
    loss_H, share_H = _over_ranks(total_H, number_HR, request)
    positives_HR = torch.empty_like(number_HR).index_copy_(1, order_R, number_HR)
    if not request.agreement.wants_gradient:
        return loss_H.to(z_RHD.dtype), positives_HR, ()
    pulls = sum_over_pairs(gradient(settings), exchange, exchange.share(scalars))
    back = [
        _back_to_rows(pull_RD, scaled_RD, inverse_temperature, norm_R1, order_R)
        for pull_RD, scaled_RD, norm_R1 in zip(pulls, local.z_HRD, norm_HR1, strict=True)
    ]
    gradient_RHD, gradient_inverse_H = torch.stack([rows for rows, _ in back], 1), torch.stack([tau for _, tau in back])
    if share_H is not None:
        share_H = share_H.to(z_RHD.dtype)
        gradient_RHD, gradient_inverse_H = gradient_RHD * share_H[:, None], gradient_inverse_H * share_H
    return loss_H.to(z_RHD.dtype), positives_HR, (gradient_RHD, gradient_inverse_H)


def _over_ranks(total_H: Tensor, number_HR: Tensor, request: Request) -> tuple[Tensor, Tensor | None]:
    """Losses of the global batch, float64; and N over the number of anchors that a head's mean is over.

    Summed in rank order and not by an all-reduce: the same bits everywhere.
    """
    rescaled = request.variants is not None and request.variants.settings.anchors == "positive"
    positive_H = (number_HR > 0).sum(1)
    found = torch.cat([total_H, positive_H.to(total_H)]) if rescaled else total_H
    summed = torch.stack(
        [column_W.sum() for column_W in collectives.all_gather(found[None], request.group).T.contiguous()]
    )
    if not rescaled:
        return summed, None
    loss_H, positive_H = summed.chunk(2)
    share_H = collectives.world_size(request.group) * number_HR.shape[1] / positive_H.clamp(min=1)
    share_H[0] = 1  # the mean of head 0 is over all rows, as in the plain loss
    return loss_H * share_H, share_H


def sum_over_pairs(kernel: TileKernel, exchange: Exchange, scalars: list[Tensor]) -> list[Tensor]:
    """The kernel's table of the rows of this rank in every head, over all their pairs with rows of any rank."""
    tables = [kernel.table(block) for block in exchange.own]
    for pairs, (row_scalars, col_scalars), hop in exchange.pairs(scalars):
        gained = [kernel.table(pair.cols) for pair in pairs] if hop else []
        for head, (pair, table) in enumerate(zip(pairs, tables, strict=True)):
            col_table = table if pair.mirrored else gained[head] if hop else None
            kernel.accumulate(pair, (row_scalars[head], col_scalars[head]), table, col_table)
        if hop:
            for table, part in zip(tables, send_back(gained, hop, exchange.group), strict=True):
                kernel.merge(table, part)
    return tables


def _prepare(z_RHD: Tensor, inverse_temperature: Tensor, request: Request) -> tuple[Tensor, Tensor, LocalRows]:
    """Sort the rows, the same in all heads, and bring them to norm √(1/τ)."""
    labels_RC, variants = request.labels_RC, request.variants
    labelled_R = request.clip_id_R.new_zeros(len(z_RHD), dtype=torch.bool) if labels_RC is None else labels_RC.any(1)
    order_R = sort_rows(request.clip_id_R, labelled_R)
    heads = [scaled_rows(z_RD, order_R, inverse_temperature) for z_RD in z_RHD.unbind(1)]
    local = LocalRows(
        torch.stack([scaled_RD for scaled_RD, _ in heads]),
        request.clip_id_R[order_R],
        None if labels_RC is None else labels_RC[order_R],
        None if variants is None else variants.received[order_R],
        "untreated" if variants is None else variants.settings.positives,
        request.agreement.num_labelled,
        request.group,
        request.settings,
    )
    return order_R, torch.stack([norm_R1 for _, norm_R1 in heads]), local


def _anchors(exchange: Exchange, local: LocalRows, sums: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of this rank's anchors over N, float64 (H,); K of its rows (H, R); their scalars lse, a, b, (H, 3, R)."""
    settings, world = local.settings, len(local.num_labelled)
    heads, num_local, _ = local.z_HRD.shape
    tables = sum_over_pairs(sums, exchange, [local.z_HRD.new_empty(heads, 0, num_local)] * world)
    terms = None
    if settings.epsilon > 0:
        lse_H1R = torch.stack([sums.lse(table)[None] for table in tables]).to(local.z_HRD.dtype)
        terms = sum_over_pairs(EpsilonTerm(settings), exchange, [lse_H1R] * world)
    found = []
    for head, table in enumerate(tables):
        found.append(_anchors_of(table, None if terms is None else terms[head], sums, world * num_local))
    # A NaN row that no anchor has as its positive must make the loss NaN too.
    totals = [total + 0 * z_RD.sum() for (total, _, _), z_RD in zip(found, local.z_HRD, strict=True)]
    scalars = [scalars_3R for _, _, scalars_3R in found]
    return (
        torch.stack(totals),
        torch.stack([number for _, number, _ in found]),
        torch.stack(scalars).to(local.z_HRD.dtype),
    )


def _anchors_of(table: Tensor, term_2R: Tensor | None, sums: Sums, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """`_anchors` of one head, float64, from its sums and for ε > 0 from the table of `EpsilonTerm`."""
    settings = sums.settings
    lse_R, mass_R = sums.lse(table), table[WEIGHT]
    positive_R = mass_R > 0
    # Under a criterion every weight is 0 or 1: the mass is the number.
    number_R = table[NUMBER] if settings.weighing else mass_R
    divisor_R = (number_R if settings.count else mass_R).where(positive_R, 1)
    if term_2R is not None:
        term, credit_R = term_2R
        loss_R, pull_R = -term / divisor_R, credit_R / divisor_R
    else:
        pull_R = mass_R / divisor_R
        loss_R = pull_R * lse_R - table[SCORE] / divisor_R
        pull_R = pull_R if settings.careful else pull_R * (-lse_R).exp()
    pull_R = pull_R.where(positive_R, 0) / num_rows
    push_R = (1 / divisor_R).where(positive_R, 0) / num_rows
    total = loss_R.where(positive_R, 0).sum() / num_rows
    return total, number_R, torch.stack([lse_R, pull_R, push_R])


def _back_to_rows(
    pull_RD: Tensor, scaled_RD: Tensor, inverse_temperature: Tensor, norm_R1: Tensor, order_R: Tensor
) -> tuple[Tensor, Tensor]:
    """From Σ_j H_ij·√(1/τ)ẑ_j to the gradients of the unnormalised rows, in the caller's order, and of 1/τ."""
    gradient_RD, radial = unscaled_gradient(pull_RD, scaled_RD, norm_R1, inverse_temperature)
    in_order_RD = torch.empty_like(gradient_RD)
    in_order_RD[order_R] = gradient_RD
    return in_order_RD, radial / (2 * inverse_temperature)
