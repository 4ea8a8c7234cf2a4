"""A running mean of the weights: steadier than the last step's, for a copy of the model's size."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


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
