"""A loss of your own: VICReg (Bardes et al. 2022, arXiv:2105.04906), which has no negatives.

    counterpoint pretrain conf/pretrain/self_supervised.yaml data.unlabelled=DIR \
        loss.objective=own_loss:VicReg loss.settings.variance=25

Rows of all ranks are gathered with their gradient, so that the loss is of the global batch on any number of ranks.
"""

import torch
from torch import Tensor, nn

from counterpoint import LossResult, Projected, gather_rows


class VicReg(nn.Module):
    """Invariance of two views, a hinge on the standard deviation of each output, and decorrelated outputs.

    Args:
        invariance: weight of the mean squared distance of the two views.
        variance: weight of the hinge that keeps every output's standard deviation above 1.
        covariance: weight of the squared covariances of different outputs.
    """

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def forward(self, batch: Projected) -> LossResult:
        """The loss of the global batch of two views a clip."""
        if batch.num_views != 2:
            raise ValueError(f"VICReg compares two views, got views.count={batch.num_views}")
        clips, width = len(batch.z_ND) // 2, batch.z_ND.shape[1]
        own = batch.z_ND.view(2, clips, width).transpose(0, 1)
        first, second = gather_rows(own.flatten(1), batch.group).view(-1, 2, width).unbind(1)
        invariance = (first - second).square().mean()
        variance = (hinge(first) + hinge(second)) / 2
        covariance = decorrelation(first) + decorrelation(second)
        loss = self.invariance * invariance + self.variance * variance + self.covariance * covariance
        metrics = {"vicreg/invariance": invariance, "vicreg/variance": variance, "vicreg/covariance": covariance}
        return LossResult(loss, metrics)


def hinge(z: Tensor) -> Tensor:
    """How far standard deviations lie below 1."""
    return torch.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()


def decorrelation(z: Tensor) -> Tensor:
    """Squared covariances of different outputs, by the number of outputs."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
