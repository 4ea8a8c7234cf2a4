"""Settings of the contrastive loss: one record from its caller down to the tiles.

No torch here: a wrong key ``loss.*`` is refused before torch is imported.
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from trainers.kernel_choice import KernelChoice

Positives = Literal["criterion", "weighing"]
Normaliser = Literal["mass", "count"]
ExchangeName = Literal["gather", "ring"]
KernelName = Literal["auto", "tiles", "fused"]
VariantPositives = Literal["untreated", "alike", "all"]
VariantAnchors = Literal["all", "positive"]
_CHOICES: dict[str, Any] = {
    "positives": Positives,
    "normaliser": Normaliser,
    "exchange": ExchangeName,
    "kernel": KernelName,
}


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """The settings of `contrastive_loss`, where they are documented, in range."""

    positives: Positives = "criterion"
    criterion: int = 1
    normaliser: Normaliser = "mass"
    epsilon: float = 0.0
    tile: int = 512
    exchange: ExchangeName = "gather"
    kernel: KernelName = "auto"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in ("criterion", "tile"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        check_number("epsilon", self.epsilon)
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"epsilon must be >= 0, got {self.epsilon:g}")

    @property
    def weighing(self) -> bool:
        """Positives weigh α_ij = 2·C_ij / (C_i + C_j); otherwise 1 from ``criterion`` shared tags on."""
        return self.positives == "weighing"

    @property
    def count(self) -> bool:
        """Normalise by the number of positives instead of by the sum of their weights."""
        return self.normaliser == "count"


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings(ContrastSettings):
    """The settings, and what follows from them for one batch."""

    online: bool = False
    """Keep a running maximum: exp(1/τ) may overflow otherwise."""
    half: bool = False
    """Multiply rows as bfloat16 and add the products up in float32."""
    fused: bool = False
    """Compute by the Triton kernels of `fused`."""
    choice: KernelChoice | None = None
    """Compares the kernels with the tiles, and falls back on those; None trusts the kernels."""

    @property
    def careful(self) -> bool:
        """True when the gradient needs exp(s − lse) rather than exp(s)."""
        return self.online or self.epsilon > 0


@dataclass(frozen=True, kw_only=True)
class VariantSettings:
    """Which pairs of a clip are positives in a variant head, and over which anchors its loss is the mean, in range."""

    positives: VariantPositives = "untreated"
    anchors: VariantAnchors = "all"

    def __post_init__(self) -> None:
        check_choice("positives", self.positives, VariantPositives)
        check_choice("anchors", self.anchors, VariantAnchors)


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is none of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")


def whole_number(name: str, value: Any) -> int:
    """A count of at least 1, of Python or NumPy, as Python's; the ValueError names it."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
    return int(value)


def check_number(name: str, value: object) -> None:
    """Refuse what is no number, of Python or NumPy."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a number, got {value!r}")


def check_temperature(value: float) -> None:
    """Refuse a temperature that is not a positive number."""
    check_number("temperature", value)
    if not 0 < value < math.inf:
        raise ValueError(f"temperature must be > 0, got {value:g}")
