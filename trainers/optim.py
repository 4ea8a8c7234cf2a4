"""How weights move: Adam as in the paper, its rate as a pure function of the step, and what a step may cost."""

import math

import torch
from torch import nn

from trainers.optim_config import OptimConfig


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
    """Fused Adam: one kernel, and it can skip an update on the device (``found_inf``).

    Weight decay would pull what scales and shifts towards 0, and a learnable temperature, kept as its logarithm,
    towards 1; so it spares all that has fewer than two dimensions.
    """
    if config.weight_decay == 0:
        return torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
