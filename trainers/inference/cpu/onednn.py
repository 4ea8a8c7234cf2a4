"""Whether oneDNN's operators can be used here, most of which torch does not publish."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def agrees(computed: Callable[[bool], Tensor]) -> bool:
    """Whether torch was built with oneDNN, has the operators under their names and with their arguments, and they give
    what plain layers give. Otherwise plain layers are taken, as exact and slower.

    Args:
        computed: a small float32 result, of order 1, by oneDNN's operators (True) or by plain layers (False).

    >>> agrees(lambda by_onednn: torch.ops.mkldnn.no_such_operator(1) if by_onednn else torch.zeros(1))
    False
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        return torch.allclose(computed(True), computed(False), rtol=0, atol=1e-5)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # renamed, changed, or not of this processor
        return False


def ramp(*shape: int) -> Tensor:
    """Float32 numbers on a CPU, whatever torch's defaults are: from -1 to 1."""
    return torch.linspace(-1, 1, math.prod(shape), dtype=torch.float32, device="cpu").view(shape)
