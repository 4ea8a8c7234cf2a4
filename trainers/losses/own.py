"""A loss of the user's own: any callable from `Projected` to `LossResult`, held to the contract.

Shape suffixes: N rows of this rank (clips times views), D width of the head's output, C tags.
"""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cluster.entry_points import create, failures_named
from cluster.settings import UserError
from trainers.distributed import collectives
from trainers.losses.config import LossConfig
from trainers.losses.projected import LossResult, Projected

RESERVED_METRICS = frozenset(
    {
        *("step", "loss", "finite", "grad_norm", "learning_rate", "alignment", "uniformity", "effective_rank"),
        *("data_wait_s", "views_s", "step_s", "clips_per_s", "replaced", "time_ms", "gpu_memory_gib"),
    }
)
"""Names of a step's own metrics; a test compares them with those that a run writes."""
RESERVED_GROUPS = frozenset({"share", "quick", "snapshot", "system"})
"""What the names of others begin with, before a slash."""
_METRIC = re.compile(r"[\w.@:-]([\w.@: -]*[\w.@:-])?")
"""What a part of a metric's name between slashes may be: what a chart and MLflow show as it is."""
_TRIED_CLIPS = 8


class OwnLoss(nn.Module):
    """A user's loss, held to the contract."""

    def __init__(self, name: str, inner: Callable[[Projected], LossResult]) -> None:
        super().__init__()
        self.name, self.inner = name, inner
        if not callable(inner):
            raise self._error(f"the factory returned a {type(inner).__name__} that cannot be called")

    def forward(self, batch: Projected) -> LossResult:
        """The user's result.
        Raises UserError if it is not a `LossResult` of a scalar and 0-dim metrics whose names are free.
        """
        found = self.inner(batch)
        if not isinstance(found, LossResult):
            raise self._error(f"returned a {type(found).__name__}, not a LossResult(loss, metrics)")
        if not isinstance(found.loss, Tensor) or found.loss.ndim != 0:
            raise self._error(f"its loss must be a tensor without axes, got {_shape(found.loss)}")
        if not found.loss.is_floating_point():
            raise self._error(f"its loss must be a real number, got {found.loss.dtype}")
        if not isinstance(found.metrics, dict):
            raise self._error(f"its metrics must be a dictionary, {{}} for none, got a {type(found.metrics).__name__}")
        for metric, value in found.metrics.items():
            self._check_metric(metric, value)
        metrics = {metric: value.detach() for metric, value in found.metrics.items()}
        return LossResult(found.loss, metrics)

    def _check_metric(self, metric: object, value: object) -> None:
        if not isinstance(metric, str) or not all(_METRIC.fullmatch(part) for part in metric.split("/")):
            raise self._error(f"its metric {metric!r} must be named in letters, digits, _ . @ : - and single slashes")
        if metric in RESERVED_METRICS or metric.partition("/")[0] in RESERVED_GROUPS:
            raise self._error(f"its metric {metric} has the name of a metric of every step; rename it")
        if not isinstance(value, Tensor) or value.ndim != 0 or value.is_complex():
            raise self._error(f"its metric {metric} must be a real tensor without axes, got {_shape(value)}")

    def _error(self, why: str) -> UserError:
        return UserError(f"loss.objective={self.name}: on rank {collectives.rank()}, {why}")


def build_own(config: LossConfig) -> OwnLoss:
    """The loss that ``loss.objective=module:factory`` names.
    Raises UserError if it cannot be imported, made, or called.
    """
    return OwnLoss(config.objective, create(config.objective, config.settings, "loss.objective"))


def try_loss(loss: OwnLoss, *, clips: int, views: int, width: int, num_tags: int, effects: Sequence[str]) -> None:
    """One forward and backward pass on projections of noise before a run takes any resources.

    Args:
        loss: the user's.
        clips: of a step of one rank; a few of them are enough.
        views: M.
        width: D, of the head's output.
        num_tags: C; 0 for no labels.
        effects: names of the effects that a view may have received.

    Raises:
        UserError: if it raises, breaks the contract, changes its input, or gives no finite loss or gradient.
    """
    clips = min(clips, _TRIED_CLIPS)
    rows, generator = clips * views, torch.Generator().manual_seed(0)
    z_ND = torch.randn(rows, width, generator=generator).requires_grad_()
    coins_BC = torch.rand(clips, num_tags, generator=generator) < 0.5
    received = {name: torch.rand(rows, generator=generator) < 0.5 for name in effects}
    given = z_ND * 1.0  # not a leaf: a loss that changes it in place is found below, not by autograd
    batch = Projected(
        z_ND=given,
        clip_id_N=torch.arange(clips).repeat(views),
        labels_NC=coins_BC.repeat(views, 1) if num_tags else None,
        num_views=views,
        received=received,
    )
    with failures_named(f"loss.objective={loss.name}: it failed on projections of shape {(rows, width)}"):
        found = loss(batch)
        if not found.loss.requires_grad:
            raise loss._error("its loss does not depend on the projections: take out detach, no_grad, item or NumPy")
        found.loss.backward()
    if not torch.equal(given, z_ND):
        raise loss._error("it changes the projections that it is given in place; work on a copy")
    if not torch.isfinite(found.loss):
        raise loss._error(f"its loss of finite projections is {found.loss.item()}")
    if z_ND.grad is None or not torch.isfinite(z_ND.grad).all():
        raise loss._error("the gradient of its loss to finite projections is not finite, or there is none")


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
