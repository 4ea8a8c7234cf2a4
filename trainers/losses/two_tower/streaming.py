"""The two-tower loss of the global batch as one differentiable operation without an N×M matrix.

Forward computes the value and, where any rank wants it, the gradient: backward only multiplies it by the gradient of
the scalar. So O((n + m)·D) numbers live until backward, and backward needs no collective.

Shape suffixes: n audio rows of this rank, m its texts, R rows of a block, K codes of a row, D projection width; N audio
rows over all ranks.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.contrastive.scaling import scaled_rows, unscaled_gradient
from trainers.losses.contrastive.settings import ResolvedSettings
from trainers.losses.contrastive.tiles import SCORE, WEIGHT, Gradient, Sums
from trainers.losses.two_tower.codes import gather_texts, make_codebook
from trainers.losses.two_tower.exchange import (
    TOWER_EXCHANGES,
    LocalTowers,
    Side,
    TowerExchange,
    no_scalars,
    sum_over_pairs,
)
from trainers.losses.two_tower.metrics import METRICS, metrics
from trainers.losses.two_tower.pairs import audio_order, matched_column, text_order
from trainers.losses.two_tower.rows import TowerAgreement, TowerRows
from trainers.losses.two_tower.settings import TowerSettings, start_of_bias
from trainers.losses.two_tower.sigmoid import SigmoidPairs


class TowerRequest(NamedTuple):
    """Everything about one evaluation of the loss but the differentiable tensors."""

    rows: TowerRows
    agreement: TowerAgreement
    settings: TowerSettings
    tiles: ResolvedSettings
    group: Group
    with_metrics: bool = False
    """Whether to compute `metrics`, by one more pass over the pairs."""

    @property
    def num_audio(self) -> int:
        """N, audio rows of all ranks."""
        return len(self.agreement.num_true) * len(self.rows.z_audio)


class Evaluated(NamedTuple):
    """What one evaluation finds."""

    loss: Tensor
    parts: Tensor
    """The audio side's part of the loss and the texts', each a mean; both are the loss for ``pairs=sigmoid``."""
    metrics: Tensor
    gradients: tuple[Tensor, ...]
    """Of this rank's audio rows and texts, and its parts of those of 1/τ and β; empty where no rank wants them."""


class _Prepared(NamedTuple):
    """The rows in order, and what leads back."""

    local: LocalTowers
    order_audio_R: Tensor
    order_text_R: Tensor
    norm_audio_R1: Tensor
    norm_text_R1: Tensor


class GlobalTwoTowerLoss(torch.autograd.Function):
    """Value and gradient for unnormalised projections of both towers, the inverse temperature and the bias."""

    @staticmethod
    def forward(
        ctx: Any,
        z_audio: Tensor,
        z_text: Tensor,
        inverse_temperature: Tensor,
        bias: Tensor | None,
        request: TowerRequest,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of the global batch, the same bits on every rank; its two parts; and its metrics."""
        ctx.world, ctx.biased = collectives.world_size(request.group), bias is not None
        rows = request.rows._replace(z_audio=z_audio.detach(), z_text=z_text.detach())
        with torch.autocast(z_audio.device.type, enabled=False):
            given = None if bias is None else bias.detach()
            found = evaluate(request._replace(rows=rows), inverse_temperature.detach(), given)
        ctx.save_for_backward(*found.gradients)
        ctx.mark_non_differentiable(found.parts, found.metrics)
        return found.loss, found.parts, found.metrics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor, _parts: Tensor, _metrics: Tensor) -> tuple[Tensor | None, ...]:
        """W times this rank's part of the global gradient, because DDP is going to average over W ranks."""
        if not ctx.saved_tensors:
            raise RuntimeError("this rank's loss was computed without a gradient")
        factor = above * ctx.world
        audio, text, inverse, bias = (gradient * factor for gradient in ctx.saved_tensors)
        return audio, text, inverse, bias if ctx.biased else None, None


def evaluate(request: TowerRequest, inverse_temperature: Tensor, bias: Tensor | None) -> Evaluated:
    """The loss and its gradients."""
    prepared = _prepare(request, inverse_temperature)
    local = prepared.local
    exchange = TOWER_EXCHANGES[request.settings.exchange](local)
    if request.settings.pairs == "sigmoid":
        totals, pulls, bias_gradient = _pairwise(exchange, local, request, bias)
    else:
        totals, scalars = _anchors(exchange, local, request)
        pulls, bias_gradient = None, totals.new_zeros(())
    # A NaN row that no anchor has as its positive must make the loss NaN too.
    totals = totals + 0 * (local.audio.z_RD.sum() + local.text.z_RD.sum())
    # Summed in rank order and not by an all-reduce: the same bits everywhere.
    parts = collectives.all_gather(totals[None], request.group).sum(0)
    share = request.settings.audio_share
    loss = (share * parts[0] + (1 - share) * parts[1]).to(local.audio.z_RD.dtype)
    found = metrics(exchange, local, request.tiles) if request.with_metrics else totals.new_zeros(len(METRICS))
    if not request.agreement.wants_gradient:
        return Evaluated(loss, parts, found, ())
    if pulls is None:
        pulls = sum_over_pairs(Gradient(request.tiles), exchange, exchange.share(*scalars))
    del exchange
    return Evaluated(loss, parts, found, _back_to_rows(pulls, prepared, request, inverse_temperature, bias_gradient))


def _prepare(request: TowerRequest, inverse_temperature: Tensor) -> _Prepared:
    """Bring rows with the same positives together and scale them; leave out the texts that are absent."""
    rows, settings = request.rows, request.settings
    codebook = make_codebook(gather_texts(rows, request.group), rows.z_audio.dtype)
    matched = matched_column(settings, hashed=codebook.hash_G is not None)
    code_audio_nK, code_text_m2 = codebook.audio(rows.clip_audio), codebook.texts(rows.clip_text, rows.text_hash)
    order_audio_R = audio_order(code_audio_nK, matched)
    there_R = rows.present_m.nonzero()[:, 0]
    order_text_R = there_R[text_order(code_text_m2[there_R], ~rows.true_m[there_R], matched)]
    audio_RD, norm_audio_R1 = scaled_rows(rows.z_audio, order_audio_R, inverse_temperature)
    text_RD, norm_text_R1 = scaled_rows(rows.z_text, order_text_R, inverse_temperature)
    tags_audio = None if rows.tags_audio is None else rows.tags_audio[order_audio_R]
    tags_text = None if rows.tags_text is None else rows.tags_text[order_text_R]
    local = LocalTowers(
        Side(audio_RD, code_audio_nK[order_audio_R], tags_audio),
        Side(text_RD, code_text_m2[order_text_R], tags_text),
        request.agreement.num_true,
        request.agreement.num_hard,
        len(rows.z_text),
        matched,
        settings,
        request.group,
    )
    return _Prepared(local, order_audio_R, order_text_R, norm_audio_R1, norm_text_R1)


def _anchors(
    exchange: TowerExchange, local: LocalTowers, request: TowerRequest
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """This rank's part of both sides of the loss, (2,) float64; and the scalars lse, a, b of its rows, (3, R) each."""
    sums, share = Sums(request.tiles), request.settings.audio_share
    audio_table, text_table = sum_over_pairs(sums, exchange, no_scalars(local))
    num_texts = max(sum(request.agreement.num_true), 1)
    num_true = request.agreement.num_true[collectives.rank(request.group)]
    anchor_R = (torch.arange(len(local.text.z_RD), device=text_table.device) < num_true).double()
    audio_R = torch.full_like(audio_table[WEIGHT], 1 / request.num_audio)
    audio, audio_scalars = _terms(sums, audio_table, audio_R, share)
    text, text_scalars = _terms(sums, text_table, anchor_R / num_texts, 1 - share)
    dtype = local.audio.z_RD.dtype
    return torch.stack([audio, text]), (audio_scalars.to(dtype), text_scalars.to(dtype))


def _terms(sums: Sums, table: Tensor, anchor_R: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Σ over anchors of lse − S/R, each with its weight in the mean, and the scalars of these rows for the gradient."""
    lse_R, mass_R = sums.lse(table), table[WEIGHT]
    positive_R = mass_R > 0
    divisor_R = mass_R.where(positive_R, 1)
    weight_R = anchor_R.where(positive_R, 0)
    total = (lse_R - table[SCORE] / divisor_R).where(positive_R, 0) @ anchor_R
    # A row without any pair has −∞, which would meet itself in s − lse.
    lse_R = lse_R.masked_fill(lse_R == -math.inf, 0)
    pull_R = share * weight_R * (1 if sums.settings.careful else (-lse_R).exp())
    return total, torch.stack([lse_R, pull_R, share * weight_R / divisor_R])


def _pairwise(
    exchange: TowerExchange, local: LocalTowers, request: TowerRequest, bias: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """This rank's part of the sigmoid loss, twice; Σ_j H_ij·z_j of its rows of both towers; and its part of ∂L/∂β."""
    if bias is None:
        num_texts = sum(request.agreement.num_true) + sum(request.agreement.num_hard)
        bias = local.audio.z_RD.new_tensor(start_of_bias(num_texts))
    kernel = SigmoidPairs(request.tiles, bias)
    audio_RD, text_RD = sum_over_pairs(kernel, exchange, no_scalars(local))
    # A sum over the pairs of an audio row, and a mean over rows: the mean over pairs would be as many times smaller.
    total, bias_gradient = kernel.sums / request.num_audio
    return (
        torch.stack([total, total]),
        (audio_RD.div_(request.num_audio), text_RD.div_(request.num_audio)),
        bias_gradient,
    )


def _back_to_rows(
    pulls: tuple[Tensor, Tensor],
    prepared: _Prepared,
    request: TowerRequest,
    inverse_temperature: Tensor,
    bias_gradient: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the rows as the caller gave them, and this rank's parts of those of 1/τ and β."""
    local = prepared.local
    audio_RD, radial = unscaled_gradient(pulls[0], local.audio.z_RD, prepared.norm_audio_R1, inverse_temperature)
    audio_nD = torch.empty_like(audio_RD)
    audio_nD[prepared.order_audio_R] = audio_RD
    text_RD, _ = unscaled_gradient(pulls[1], local.text.z_RD, prepared.norm_text_R1, inverse_temperature)
    text_mD = torch.zeros_like(request.rows.z_text)  # absent texts have none
    text_mD[prepared.order_text_R] = text_RD
    # Every pair has one audio row: unlike the loss of one tower, one side's sum is the whole of it.
    return audio_nD, text_mD, radial / inverse_temperature, bias_gradient.to(audio_nD.dtype)
