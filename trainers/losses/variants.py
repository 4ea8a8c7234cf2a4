"""Losses of several heads, each invariant to all effects but one: LOEV (arXiv:2412.18955).

Head 0 is the contrastive loss as it is. In head k ≥ 1 the views of a clip are positives only where neither got effect
k; every other row of all ranks is in the denominator, treated ones too. So head k may tell a treated view from an
untreated one, and what the heads share must keep what the effect changes. With two views a clip an anchor that counts
has no treated view of its own clip among its negatives: the head need not be invariant, but nothing makes it vary. From
three views on it has.

The heads are evaluated together: one agreement and one exchange of rows for all.

Shape suffixes: n rows of this rank (clips times views), K variant heads, d projection width, C tags.
"""

from torch import Tensor

from trainers.distributed.collectives import Group
from trainers.losses.contrastive.agreement import Rows, Variants
from trainers.losses.contrastive.loss import contrast_heads
from trainers.losses.contrastive.settings import (
    ContrastSettings,
    ExchangeName,
    KernelName,
    VariantAnchors,
    VariantPositives,
    VariantSettings,
)


def variant_contrastive_loss(
    z: Tensor,
    clip_id: Tensor,
    received: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    positives: VariantPositives = "untreated",
    anchors: VariantAnchors = "all",
    epsilon: float = 0.0,
    tile: int = 512,
    exchange: ExchangeName = "gather",
    kernel: KernelName = "auto",
    group: Group = None,
) -> Tensor:
    """Mean over K + 1 heads of the contrastive loss, each head k ≥ 1 without the positives that effect k changed.

    With P_ij^k = [same clip, i ≠ j]·(1 − r_i^k)·(1 − r_j^k) for k ≥ 1, P_ij^0 = [same clip or shared tags, i ≠ j], and
    p_ij = exp(s_ij) / Σ_{m≠i} exp(s_im) over all rows of all ranks,
    L = mean over k of mean over i of −Σ_j P_ij^k · log p_ij^k / max(1, Σ_j P_ij^k).

    The gradient is W times this rank's part of the global one, as that of `contrastive_loss`. A head without any
    positive has loss 0 and gradient 0.

    Args:
        z: projections of this rank, shape (n, K + 1, d), any scale, float32 or float64; head 0 is invariant to all.
        clip_id: shape (n,), int64; equal for rows of one clip, on every rank.
        received: shape (n, K), bool: whether a row got effect k. It may be on the host.
        labels: shape (n, C), bool, for head 0 alone: a tag says nothing of an effect. None means no labels on any rank.
        temperature: τ > 0, one for all heads; a tensor of one element may require a gradient.
        positives: pairs of a clip that are positives in head k: ``untreated``, both without the effect (the paper);
            ``alike``, both with or both without; ``all``.
        anchors: the mean of head k is over ``all`` rows (the paper's released code), where a row without positives
            counts as 0, or over those that have a ``positive``. That of head 0 is over all.
        epsilon: added to p, ≥ 0; the released code has 1e-6.
        tile: rows of a tile, ≥ 1.
        exchange: as for `contrastive_loss`.
        kernel: as for `contrastive_loss`.
        group: ranks that form the global batch; None is the default group, or this process alone.

    Returns:
        Scalar in the dtype of ``z``, in nats, the same bits on every rank.

    Raises:
        ValueError: for a setting out of range, shapes that disagree, or ranks whose rows differ; on every rank.

    Source: Guinot et al. 2025, "Leave-One-EquiVariant" (arXiv:2412.18955).

    >>> import torch
    >>> z = torch.eye(2).repeat(2, 1)[:, None].repeat(1, 2, 1)  # two views of two clips in two equal heads
    >>> got = torch.tensor([[True], [False], [False], [False]])  # one view of the first clip got the effect
    >>> loss = variant_contrastive_loss(z, torch.tensor([7, 9, 7, 9]), got, temperature=1.0)
    >>> round(loss.item(), 4)  # log(1 + 2/e) in head 0, half of it in head 1
    0.4136
    """
    settings = ContrastSettings(epsilon=epsilon, tile=tile, exchange=exchange, kernel=kernel)
    variants = Variants(received, VariantSettings(positives=positives, anchors=anchors))
    return contrast_heads(Rows(z, clip_id, labels), variants, temperature, settings, group).loss_H.mean()
