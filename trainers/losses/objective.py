"""The objectives: the contrastive loss, the end-to-end supervised baselines of Table 2, and losses of users.

An objective is a module from `Projected` to `LossResult`; its gradient is W times this rank's part of the global one,
since DDP averages over W ranks. A user's own is named by ``module:factory``.

Shape suffixes: N rows of this rank (clips times views), H = K + 1 heads, K variant heads, D projection width, C tags.
"""

import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from cluster.entry_points import import_factory, is_entry_point
from cluster.settings import UserError
from trainers.distributed import collectives
from trainers.encoders.config import INVARIANT
from trainers.kernel_choice import KernelChoice
from trainers.losses.config import OUTPUTS, LossConfig, Outputs
from trainers.losses.contrastive.agreement import Rows, Variants
from trainers.losses.contrastive.loss import contrast, contrast_heads
from trainers.losses.contrastive.settings import VariantSettings
from trainers.losses.own import build_own
from trainers.losses.projected import LossResult, Projected
from trainers.losses.supervised import supervised_loss


class ContrastiveLoss(nn.Module):
    """The loss of a `LossConfig`, with its temperature.

    A learnable temperature stays outside of DDP: call `collectives.average_gradients(loss.parameters())` after
    backward.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        self.choice = KernelChoice("loss.kernel", "tiles")
        start = torch.tensor(math.log(config.temperature))
        self.log_temperature = nn.Parameter(start) if config.learnable else None

    @property
    def temperature(self) -> float | Tensor:
        """Its present value; a tensor with a gradient when it is learnable."""
        return self.config.temperature if self.log_temperature is None else self.log_temperature.exp()

    def forward(self, batch: Projected) -> LossResult:
        """`contrastive_loss` with these settings, and what its pair matrix looks like.

        Returns:
            The loss; and the metrics ``positives`` an anchor, ``sparsity`` (1 − positive pairs / all pairs of rows),
            and where rows are labelled ``sparsity_labelled``, the same of labelled × labelled. All pairs are N²: Table
            6's 87.5% is 8 rows with one positive each.
        """
        rows = Rows(batch.z_ND, batch.clip_id_N, batch.labels_NC)
        loss, positives_N, num_labelled = contrast(
            rows, self.temperature, self.config.contrast, batch.group, self.choice
        )
        return LossResult(loss, contrast_metrics(positives_N, num_labelled, batch))


def contrast_metrics(positives_N: Tensor, num_labelled: int, batch: Projected) -> dict[str, Tensor]:
    """The metrics of `ContrastiveLoss` from what one head found."""
    world = collectives.world_size(batch.group)
    mean = positives_N.mean()
    metrics = {"positives": mean, "sparsity": 1 - mean / (world * len(positives_N))}
    if batch.labels_NC is not None and num_labelled:
        # Positives of a labelled row are its own views and labelled rows: all in the block.
        inside = positives_N.where(batch.labels_NC.any(1), 0).sum()
        metrics["sparsity_labelled"] = 1 - inside * world / num_labelled**2
    return metrics


class VariantLoss(ContrastiveLoss):
    """`variants.variant_contrastive_loss` with the settings of a `LossConfig`: K + 1 projections a row, side by side;
    heads 1 … K leave out one of the effects each, in their order.
    """

    def __init__(self, config: LossConfig, effects: Sequence[str]) -> None:
        super().__init__(config)
        self.effects = tuple(effects)
        self.variants = VariantSettings(positives=config.variant_positives, anchors=config.variant_anchors)

    def forward(self, batch: Projected) -> LossResult:
        """The mean over the heads.

        Returns:
            The loss; and besides the metrics of `ContrastiveLoss`, which are those of head 0, ``loss/invariant`` and
            for every effect ``loss/EFFECT`` and ``anchors/EFFECT``, the share of rows that have a positive there.
        """
        received_NK = torch.stack([batch.received[effect] for effect in self.effects], 1)
        z_NHD = batch.z_ND.view(len(received_NK), 1 + len(self.effects), -1)
        rows = Rows(z_NHD, batch.clip_id_N, batch.labels_NC)
        found = contrast_heads(
            rows,
            Variants(received_NK, self.variants),
            self.temperature,
            self.config.contrast,
            batch.group,
            self.choice,
        )
        metrics = contrast_metrics(found.positives_Hn[0], found.num_labelled, batch)
        loss_H = found.loss_H.detach()
        metrics |= {f"loss/{name}": loss for name, loss in zip((INVARIANT, *self.effects), loss_H, strict=True)}
        share_K = (found.positives_Hn[1:] > 0).double().mean(1)
        metrics |= {f"anchors/{name}": share for name, share in zip(self.effects, share_K, strict=True)}
        return LossResult(found.loss_H.mean(), metrics)


class SupervisedLoss(nn.Module):
    """`supervised_loss` as an objective: the head's outputs are the logits of the vocabulary's tags."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, batch: Projected) -> LossResult:
        """The loss, and no metrics: this loss compares no views."""
        assert batch.labels_NC is not None
        loss = supervised_loss(batch.z_ND, batch.labels_NC, objective=self.config.objective, group=batch.group)
        return LossResult(loss, {})


def head_outputs(config: LossConfig) -> Outputs:
    """What the head ends in: projections to compare, or an output a tag."""
    if not is_entry_point(config.objective):
        return OUTPUTS[config.objective]
    asked = getattr(import_factory(config.objective, "loss.objective"), "head_outputs", "projections")
    if asked not in get_args(Outputs):
        allowed = " or ".join(get_args(Outputs))
        raise UserError(f"loss.objective={config.objective}: its head_outputs must be {allowed}, got {asked!r}")
    return "tags" if asked == "tags" else "projections"


def build_loss(config: LossConfig, variant: Sequence[str] = ()) -> nn.Module:
    """The objective of a configuration, from `Projected` to `LossResult`.
    Raises UserError if a user's own cannot be made.
    """
    if is_entry_point(config.objective):
        return build_own(config)
    if variant:
        return VariantLoss(config, variant)
    return ContrastiveLoss(config) if OUTPUTS[config.objective] == "projections" else SupervisedLoss(config)
