"""How weights move: Adam as in the paper, its rate as a pure function of the step, and their running mean."""

import math
from collections.abc import Mapping
from functools import lru_cache
from inspect import unwrap

import torch
from torch import Tensor, nn

from trainers.state.optim_config import OptimConfig

SHARE = "rate_share"
"""Key of an optimiser's group: its learning rate as a share of the step's."""


def learning_rate(step: int, config: OptimConfig) -> float:
    """Rate of one step, counted from 0: a pure function, so that a resumed run needs no scheduler state.

    >>> learning_rate(0, OptimConfig(learning_rate=1e-3, warmup_steps=10))
    0.0001
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant" or step < config.warmup_steps:
        return config.learning_rate * warm
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(
    model: nn.Module, config: OptimConfig, rates: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """Fused Adam: one kernel, and it can skip an update on the device (``found_inf``).

    Weight decay would pull what scales and shifts towards 0, a learnable temperature, kept as its logarithm, towards 1,
    and vectors of tokens that a step does not read towards 0; so it spares embeddings and all that has fewer than two
    dimensions.

    Args:
        model: its parameters that require a gradient are trained.
        config: keys ``optim.*``.
        rates: shares of the learning rate by prefix of parameters' names; of all others it is 1. `set_rate` reads them.
    """
    spared = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = next((share for prefix, share in (rates or {}).items() if name.startswith(prefix)), 1.0)
            decays = config.weight_decay > 0 and parameter.ndim >= 2 and id(parameter) not in spared
            groups.setdefault((share, decays), []).append(parameter)
    given = [
        {"params": parameters, SHARE: share, "weight_decay": config.weight_decay if decays else 0.0}
        for (share, decays), parameters in sorted(groups.items(), key=lambda group: not group[0][1])
    ]
    kind = torch.optim.AdamW if config.weight_decay > 0 else torch.optim.Adam
    return _uncompiled(kind)(given, lr=config.learning_rate, fused=True)


@lru_cache
def _uncompiled(kind: type[torch.optim.Adam]) -> type[torch.optim.Adam]:
    """The same optimiser without what its methods do for torch.compile, which nobody calls on them: the first call of
    one imports the compiler, a second of processor time.
    """
    methods = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    plain = {name: unwrap(getattr(kind, name)) for name in methods}
    return type(kind.__name__, (kind,), plain | {"step": torch.no_grad()(unwrap(kind.step))})


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of a step, in every group by its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[SHARE]


class WeightAverage:
    """Weights and BatchNorm statistics averaged over steps, each older step counting ``decay`` times the next.

    After k steps it is Σ decay^(k−i)·w_i / Σ decay^(k−i), i = 1…k: without the first, random weights, unlike the usual
    recursion that starts from them. The step alone decides how much the newest counts, so nothing else need be saved.

    torch's `AveragedModel` differs in what matters here: it starts from the first weights, averages whole-number
    buffers, prefixes every name with ``module.``, and reads its counter back from the GPU twice a step.

    Args:
        model: what is averaged.
        decay: in (0, 1); about 1/(1 − decay) steps count.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.state: dict[str, Tensor] = {name: value.clone() for name, value in model.state_dict().items()}
        """By name, as in the model's own state; whole numbers (batches seen) are the last ones."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after ``step`` (counted from 0) into the mean."""
        newest = (1 - self.decay) / (1 - self.decay ** (step + 1))
        means: list[Tensor] = []
        values: list[Tensor] = []
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                means.append(self.state[name])
                values.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(means, values, newest)  # one kernel for all, as in AveragedModel

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved mean."""
        for name, value in self.state.items():
            value.copy_(state[name])
