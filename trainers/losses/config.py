"""Keys ``loss.*``: what is learned. No torch here: a wrong key is refused before torch is imported."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from cluster.entry_points import check_name
from cluster.settings import Config
from trainers.losses.contrastive.settings import (
    ContrastSettings,
    ExchangeName,
    KernelName,
    Normaliser,
    Positives,
    VariantAnchors,
    VariantPositives,
    check_temperature,
)

Outputs = Literal["projections", "tags"]
OUTPUTS: dict[str, Outputs] = {"contrastive": "projections", "bce": "tags", "cross_entropy": "tags"}
"""What the head ends in under each objective: projections to compare, or an output a tag."""


@dataclass(frozen=True, kw_only=True)
class LossConfig(Config):
    """What is learned, and which pairs are positives; the defaults are the paper's (arXiv:2407.13840, Eq. 3)."""

    objective: str = "contrastive"
    """contrastive; an end-to-end baseline: bce (tags by binary cross-entropy) or cross_entropy (one class), which take
    the labelled stream alone (``data.b_s=1``) and one output a tag; or ``module:factory``, a loss of your own
    (docs/extending.md). All but contrastive take none of the settings below."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of a loss of your own, checked against its factory's signature."""
    temperature: float = 0.1
    """Softmax temperature, no unit, > 0; where a learnable one starts."""
    learnable: bool = False
    """Train the temperature, as the exponential of a parameter."""
    positives: Positives = "criterion"
    """Besides the views of a clip: pairs that share enough tags, or every pair by its share of common tags."""
    criterion: int = 1
    """Tags that two rows must share to be positives (the paper's C)."""
    normaliser: Normaliser = "mass"
    """Divide an anchor's terms by the sum of its positive weights, or by the number of its positives."""
    epsilon: float = 0.0
    """Added to each probability inside its logarithm; the released code has 1e-6, the paper none."""
    tile: int = 512
    """Rows of a square tile of the pair matrix: 256–512 suit a CPU's cache, thousands a GPU."""
    exchange: ExchangeName = "gather"
    """How ranks exchange rows: all rows in every rank's memory, or blocks sent around a ring."""
    kernel: KernelName = "auto"
    """What computes the pairs: tiles of tensor operations, or Triton kernels that choose tiles of their own; auto
    takes the kernels for bfloat16 products on a GPU where their first batch is that of the tiles up to rounding."""
    variant_positives: VariantPositives = "untreated"
    """Pairs of a clip that are positives in a head of ``head.variant``: both views without its effect
    (arXiv:2412.18955); ``alike``: both with or both without; ``all``: as in the first head."""
    variant_anchors: VariantAnchors = "all"
    """Rows that the loss of a head of ``head.variant`` is the mean over: all, as the released code has it, or those
    that have a positive there, so that a head with few of them weighs as much as the first."""

    def __post_init__(self) -> None:
        check_name("objective", self.objective, OUTPUTS, self.settings)
        check_temperature(self.temperature)
        _ = self.contrast  # checks its ranges
        if self.kernel == "fused" and self.epsilon > 0:
            raise ValueError("kernel=fused cannot compute epsilon > 0; set kernel to auto or tiles")
        if self.kernel == "fused" and self.tile != type(self).tile:
            raise ValueError("tile is a setting of kernel=tiles; kernel=fused chooses tiles of its own")
        if self.objective == "contrastive":
            return
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        for name in given:
            if name in ("objective", "settings"):
                continue
            raise ValueError(f"{name} is a setting of objective=contrastive; leave it out for {self.objective}")

    @property
    def contrast(self) -> ContrastSettings:
        """The settings of the contrastive loss, in range."""
        return ContrastSettings(**{field.name: getattr(self, field.name) for field in fields(ContrastSettings)})
