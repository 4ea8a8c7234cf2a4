"""Keys ``loss.*``: what is learned. No torch here: a wrong key is refused before torch is imported."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from cluster.settings import Config


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
        check_temperature(self.temperature)
        check_numbers(self.criterion, self.epsilon, self.tile)
        if self.kernel == "fused" and self.epsilon > 0:
            raise ValueError("kernel=fused has no walk for epsilon > 0; set kernel to auto or tiles")
        if self.kernel == "fused" and self.tile != type(self).tile:
            raise ValueError("tile is a setting of kernel=tiles; kernel=fused chooses tiles of its own")
        if self.objective == "contrastive":
            return
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        for name in given[1:]:
            raise ValueError(f"{name} is a setting of objective=contrastive; leave it out for {self.objective}")


def check_temperature(value: float) -> None:
    """Refuse one that is not a positive number."""
    if not 0 < value < math.inf:
        raise ValueError(f"temperature must be > 0, got {value:g}")


def check_numbers(criterion: int, epsilon: float, tile: int) -> None:
    """Refuse numbers out of range with a ValueError that names them."""
    if criterion < 1:
        raise ValueError(f"criterion must be >= 1, got {criterion}")
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be >= 0, got {epsilon:g}")
    if tile < 1:
        raise ValueError(f"tile must be >= 1, got {tile}")
