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
from trainers.losses.two_tower.settings import PairsName, SameText, TowerSettings

Outputs = Literal["projections", "tags"]
LARGEST_SCALE = 1e4
"""1/τ above which the rounding of a float32 cosine, 1e-7, moves a score by a thousandth."""
OF_MUSIC_TEXT = ("max_scale", "pairs", "same_text", "audio_share")
OF_BOTH = ("temperature", "learnable", "tile", "exchange")
"""Settings that the contrastive and the two-tower loss share."""
OUTPUTS: dict[str, Outputs] = {
    "contrastive": "projections",
    "music_text": "projections",
    "bce": "tags",
    "cross_entropy": "tags",
}
"""What the head ends in under each objective: projections to compare, or an output a tag."""


def owners_of(name: str) -> tuple[str, ...]:
    """Built-in objectives that a key ``loss.NAME`` is a setting of; none for what every objective has.

    >>> owners_of("epsilon"), owners_of("tile"), owners_of("objective")
    (('contrastive',), ('contrastive', 'music_text'), ())
    """
    if name in ("objective", "settings"):
        return ()
    if name in OF_MUSIC_TEXT:
        return ("music_text",)
    return ("contrastive", "music_text") if name in OF_BOTH else ("contrastive",)


@dataclass(frozen=True, kw_only=True)
class LossConfig(Config):
    """What is learned, and which pairs are positives; the defaults are the paper's (arXiv:2407.13840, Eq. 3)."""

    objective: str = "contrastive"
    """contrastive; music_text, an audio and a text tower (docs/music_and_text.md); an end-to-end baseline: bce (tags by
    binary cross-entropy) or cross_entropy (one class), which take the labelled stream alone (``data.b_s=1``) and one
    output a tag; or ``module:factory``, a loss of your own (docs/extending.md). The settings below are those of
    contrastive; music_text takes temperature, learnable, tile and exchange of them, and the last four; the others take
    none."""
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
    max_scale: float = 100.0
    """music_text: the largest 1/τ. A learnable temperature is clamped after each update, never inside the loss."""
    pairs: PairsName = "softmax"
    """music_text: softmax over all pairs of a row (CLIP), or sigmoid of each pair (SigLIP), with a bias that is
    learnable where the temperature is."""
    same_text: SameText = "positive"
    """music_text: what the audio of a clip and a text are to each other that belongs to another clip and says the same
    as its own: positive, ignored (left out), or negative."""
    audio_share: float = 0.5
    """music_text: weight of the audio side, which looks for texts, in [0, 1]; the text side has the rest."""

    def __post_init__(self) -> None:
        check_name("objective", self.objective, OUTPUTS, self.settings)
        check_temperature(self.temperature)
        _ = self.contrast  # checks its ranges
        if self.kernel == "fused" and self.epsilon > 0:
            raise ValueError("kernel=fused cannot compute epsilon > 0; set kernel to auto or tiles")
        if self.kernel == "fused" and self.tile != type(self).tile:
            raise ValueError("tile is a setting of kernel=tiles; kernel=fused chooses tiles of its own")
        for key in fields(self):
            owners = owners_of(key.name)
            if owners and self.objective not in owners and getattr(self, key.name) != key.default:
                raise ValueError(f"{key.name} is a setting of objective={owners[0]}; leave it out for {self.objective}")
        if self.objective == "music_text":
            _ = self.towers  # checks its ranges
            self._check_scale()

    def _check_scale(self) -> None:
        """The largest 1/τ is one at which float32 scores mean something, and the first is not above it."""
        if not 1 <= self.max_scale <= LARGEST_SCALE:
            raise ValueError(f"max_scale must be from 1 to {LARGEST_SCALE:g}, got {self.max_scale:g}")
        if 1 / self.temperature > self.max_scale * (1 + 1e-6):
            raise ValueError(
                f"temperature={self.temperature:g} starts at a scale 1/τ of {1 / self.temperature:g}, above "
                f"max_scale={self.max_scale:g}; take temperature >= {1 / self.max_scale:g}"
            )

    @property
    def towers(self) -> TowerSettings:
        """The settings of the two-tower loss, in range; the scope of hard texts is a key of theirs."""
        own = (field.name for field in fields(TowerSettings) if field.name != "scope")
        return TowerSettings(**{name: getattr(self, name) for name in own})

    @property
    def contrast(self) -> ContrastSettings:
        """The settings of the contrastive loss, in range."""
        return ContrastSettings(**{field.name: getattr(self, field.name) for field in fields(ContrastSettings)})
