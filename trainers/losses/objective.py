"""What a step learns from: the contrastive loss, or the end-to-end supervised baselines of Table 2, behind one call.

An objective is a module whose ``judge(z, clip_id, labels)`` returns the loss of the global batch and figures about it.
Its gradient is W times this rank's part of the global one, since DDP averages over W ranks.

Shape suffixes: n rows of this rank (clips times views), d width of the head's output, C tags.
"""

import math

import torch
from torch import Tensor, nn

from trainers import collectives
from trainers.collectives import Group
from trainers.kernel_choice import KernelChoice
from trainers.losses.loss_config import LossConfig
from trainers.losses.semi_supervised import Contrast, contrast
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

    def forward(self, z: Tensor, clip_id: Tensor, labels: Tensor | None, group: Group = None) -> Tensor:
        """`semi_supervised_contrastive_loss` with these settings."""
        return self._contrast(z, clip_id, labels, group).loss

    def judge(
        self, z: Tensor, clip_id: Tensor, labels: Tensor | None, group: Group = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what its pair matrix looks like.

        Returns:
            The loss; and 0-dim figures whose means over ranks are those of the global batch: ``positives`` an anchor,
            ``sparsity`` (1 − positive pairs / all pairs of rows), and where rows are labelled ``sparsity_labelled``,
            the same of labelled × labelled. All pairs are N²: Table 6's 87.5% is 8 rows with one positive each.
        """
        loss, positives_n, num_labelled = self._contrast(z, clip_id, labels, group)
        world = collectives.world_size(group)
        mean = positives_n.mean()
        figures = {"positives": mean, "sparsity": 1 - mean / (world * len(z))}
        if labels is not None and num_labelled:
            # Positives of a labelled row are its own views and labelled rows: all in the block.
            inside = positives_n.where(labels.any(1), 0).sum()
            figures["sparsity_labelled"] = 1 - inside * world / num_labelled**2
        return loss, figures

    def _contrast(self, z: Tensor, clip_id: Tensor, labels: Tensor | None, group: Group) -> Contrast:
        config = self.config
        return contrast(
            z,
            clip_id,
            labels,
            temperature=self.temperature,
            positives=config.positives,
            criterion=config.criterion,
            normaliser=config.normaliser,
            epsilon=config.epsilon,
            tile=config.tile,
            exchange=config.exchange,
            kernel=config.kernel,
            group=group,
            choice=self.choice,
        )


class SupervisedLoss(nn.Module):
    """`supervised_loss` as an objective: the head's outputs are the logits of the vocabulary's tags."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def judge(
        self, z: Tensor, clip_id: Tensor, labels: Tensor, group: Group = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and no figures: whose view a row is does not matter here."""
        del clip_id
        return supervised_loss(z, labels, objective=self.config.objective, group=group), {}


def build_loss(config: LossConfig) -> ContrastiveLoss | SupervisedLoss:
    """The objective of a configuration."""
    return ContrastiveLoss(config) if config.objective == "contrastive" else SupervisedLoss(config)
