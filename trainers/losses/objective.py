"""What a step learns from: the contrastive loss, or the end-to-end supervised baselines of Table 2, behind one call.

An objective is a module whose ``judge(z, clip_id, labels)`` returns the loss of the global batch and figures about it.
Its gradient is W times this rank's part of the global one, since DDP averages over W ranks.

Shape suffixes: n rows of this rank (clips times views), d width of the head's output, C tags.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn

from cluster.settings import Config
from trainers import collectives
from trainers.collectives import Group
from trainers.kernel_choice import KernelChoice
from trainers.losses.semi_supervised import Contrast, check_settings, contrast
from trainers.losses.supervised import supervised_loss


@dataclass(frozen=True, kw_only=True)
class LossConfig(Config):
    """What is learned, and which pairs are positives; the defaults are the paper's (arXiv:2407.13840, Eq. 3)."""

    objective: Literal["contrastive", "bce", "cross_entropy"] = "contrastive"
    """Contrastive, or the end-to-end baseline: tags by binary cross-entropy, one class by cross-entropy. The latter
    take the labelled stream alone (``data.b_s=1``), one output a tag, and none of the settings below."""
    temperature: float = 0.1
    """Softmax temperature, no unit, > 0; where a learnable one starts."""
    learnable: bool = False
    """Train the temperature, as the exponential of a parameter."""
    positives: Literal["criterion", "weighing"] = "criterion"
    """Besides the views of a clip: pairs that share enough tags, or every pair by its share of common tags."""
    criterion: int = 1
    """Tags that two rows must share to be positives (the paper's C)."""
    normaliser: Literal["mass", "count"] = "mass"
    """Divide an anchor's terms by the sum of its positive weights, or by the number of its positives."""
    epsilon: float = 0.0
    """Added to each probability inside its logarithm; the released code has 1e-6, the paper none."""
    tile: int = 512
    """Rows of a square tile of the pair matrix: 256–512 suit a CPU's cache, thousands a GPU."""
    exchange: Literal["gather", "ring"] = "gather"
    """How ranks meet: all rows in every rank's memory, or blocks travelling in a ring."""
    kernel: Literal["auto", "tiles", "fused"] = "auto"
    """How pairs are walked: in tiles of tensor operations, or by Triton kernels that choose tiles of their own; auto
    takes the kernels for bfloat16 products on a GPU where their first batch is that of the tiles up to rounding."""

    def __post_init__(self) -> None:
        check_settings(self.temperature, self.criterion, self.epsilon, self.tile)
        if self.kernel == "fused" and self.epsilon > 0:
            raise ValueError("kernel=fused has no walk for epsilon > 0; set kernel to auto or tiles")
        if self.kernel == "fused" and self.tile != type(self).tile:
            raise ValueError("tile is a setting of kernel=tiles; kernel=fused chooses tiles of its own")
        if self.objective == "contrastive":
            return
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        for name in given[1:]:
            raise ValueError(f"{name} is a setting of objective=contrastive; leave it out for {self.objective}")


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
