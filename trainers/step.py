"""One optimisation step: views → projections → exact global loss → masked update, with the figures a person watches.

Shape suffixes: N views of this rank (view-major: row m·clips + b), D projection width.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cluster.settings import Config
from trainers import collectives
from trainers.gradient_cache import backward_in_chunks
from trainers.model import ContrastiveModel
from trainers.views import Views

FIGURE_ROWS = 512
"""Alignment and uniformity look at this many rows at most, so that they stay cheap at any batch."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Config):
    """Adam as in the paper: 1e-4, 200,000 steps (SCIENCE §3)."""

    steps: int = 200_000
    """Optimisation steps of the whole run."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled (AdamW) when above 0."""
    warmup_steps: int = 0
    """Linear warm-up from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: keep the rate, or let it fall to 0 at the last step along a cosine."""
    max_grad_norm: float | None = None
    """Clip the global gradient norm to this; none: no clipping."""
    micro_batch: int | None = None
    """Clips whose activations a rank keeps at once: gradient caching, exact, for a second forward pass. Goes with
    ``encoder.batch_norm=micro``, whose statistics are those of so many clips; none: all at once."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError(
                f"weight_decay and warmup_steps must be >= 0, got {self.weight_decay}, {self.warmup_steps}"
            )
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch must be >= 1, got {self.micro_batch}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be > 0, got {self.max_grad_norm}")


def learning_rate(step: int, config: OptimConfig) -> float:
    """Rate of one step, a pure function so that a resumed run needs no scheduler state.

    Args:
        step: counted from 0.
        config: rate, warm-up and schedule.

    >>> learning_rate(0, OptimConfig(learning_rate=1e-3, warmup_steps=10))
    0.0001
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant" or step < config.warmup_steps:
        return config.learning_rate * warm
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Fused Adam: one kernel, and it can skip an update on the device (``found_inf``)."""
    kind = torch.optim.AdamW if config.weight_decay > 0 else torch.optim.Adam
    return kind(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def train_step(
    model: ContrastiveModel,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    views: Views,
    optim: OptimConfig,
    *,
    num_views: int,
) -> dict[str, Tensor]:
    """Forward, backward and update; nothing is read back to the host.

    A loss or gradient that is not finite leaves weights and optimiser untouched (FAULTS 37); the caller sees
    ``finite`` = 0 one step later and stops.

    Args:
        model: what is trained.
        network: its projector, or DDP around it.
        optimizer: of ``model``.
        views: of this rank.
        optim: clipping and micro-batches.
        num_views: M, views a clip.

    Returns:
        0-dim float tensors: loss (global batch, nats), grad_norm, alignment, uniformity, finite (1 or 0).
    """
    optimizer.zero_grad(set_to_none=True)

    def contrast(z_ND: Tensor) -> Tensor:
        loss: Tensor = model.loss(z_ND, views.clip_id_N, views.labels_NC)
        return loss

    if optim.micro_batch is None:
        z_ND = network(views.input_N)
        loss = contrast(z_ND)
        torch.autograd.backward(loss)
    else:
        clips = len(views.clip_id_N) // num_views
        chunks = clips // optim.micro_batch
        loss, z_ND = backward_in_chunks(network, views.input_N, contrast, num_clips=clips, num_chunks=chunks)
    collectives.average_gradients(model.loss.parameters())  # a learnable temperature lives outside of DDP
    limit = optim.max_grad_norm if optim.max_grad_norm is not None else math.inf
    norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
    finite = torch.isfinite(norm) & torch.isfinite(loss.detach())
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # read by the fused kernel
    optimizer.grad_scale = None  # type: ignore[attr-defined]  # both must exist, or neither is read
    optimizer.step()
    alignment, uniformity = alignment_and_uniformity(z_ND.detach(), num_views)
    return {
        "loss": loss.detach(),
        "grad_norm": norm.detach(),
        "alignment": alignment,
        "uniformity": uniformity,
        "finite": finite.float(),
    }


def alignment_and_uniformity(z_ND: Tensor, num_views: int) -> tuple[Tensor, Tensor]:
    """How close the views of a clip are, and how evenly all rows cover the sphere.

    Args:
        z_ND: projections of any scale, view-major.
        num_views: M, views a clip.

    Returns:
        Mean ‖a − b‖² over first and second views of a clip, and log mean exp(−2‖a − b‖²) over pairs of rows.

    Source: Wang and Isola 2020 (arXiv:2005.10242), with α = 2 and t = 2.
    """
    z_ND = nn.functional.normalize(z_ND.float(), dim=1)
    clips = len(z_ND) // num_views
    rows = min(clips, FIGURE_ROWS)
    first, second = z_ND[:rows], z_ND[clips : clips + rows] if num_views > 1 else z_ND[:rows]
    alignment = (first - second).square().sum(1).mean()
    # On the unit sphere ‖a − b‖² = 2 − 2a·b; the diagonal is left out by hand, it would count as 1.
    similar = (4 * (first @ first.T) - 4).exp()
    pairs = max(1, rows * (rows - 1))
    return alignment, ((similar.sum() - similar.diagonal().sum()) / pairs).clamp_min(1e-30).log()
