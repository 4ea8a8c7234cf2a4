"""Keys ``encoder.*`` and ``head.*``: the networks. No torch here: a wrong key is refused before torch is imported."""

from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.entry_points import check_name, is_entry_point
from cluster.settings import Config

_NNAUDIO = ("nnaudio_mel", "nnaudio_stft", "nnaudio_cqt")
FRONTENDS: dict[str, tuple[str, ...]] = {
    "sample_cnn": ("wave",),
    "tune_plus": ("wave",),
    "mel_cnn": ("mel", "mule", *_NNAUDIO),
    "nfnet": ("mule", "mel", *_NNAUDIO),
}
"""The front-ends that an encoder can read, its own first."""
SIZED = ("mel_cnn", "nfnet")
"""Encoders whose channels may be chosen."""
SHORTEST: dict[str, tuple[int, ...]] = {
    "sample_cnn": (3**10,),
    "tune_plus": (3**10,),
    "mel_cnn": (64, 16),
    "nfnet": (1, 1),
}
"""Least size of a view that an encoder does not pool down to nothing: its samples, or its bands and frames."""
OWN_BLOCKS = {"sample_cnn": 3, "tune_plus": 3, "mel_cnn": 3, "nfnet": 3}
"""Last blocks that every head may have of its own, at most (docs/loev.md)."""
INVARIANT = "invariant"
"""What spaces and metrics call the first head, beside those of ``head.variant``."""
NFNET_UNIT, NFNET_FEWEST = 16, 48
"""An NFNet's channels are a multiple of the first, so that the narrow path has whole groups, and at least the second:
three inputs a group, for standardising two weights leaves nothing but their signs."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Config):
    """Which network embeds a view."""

    name: str = "sample_cnn"
    """sample_cnn and tune_plus read the waveform, mel_cnn and nfnet a log-mel spectrogram (docs/encoders.md); or
    ``module:factory``, a network of your own (docs/extending.md)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of a network of your own, checked against its factory's signature."""
    channels: int | None = None
    """Channels of the first block (mel_cnn: 16 unless given, width 32 times this) or stage (nfnet: 256, a multiple of
    16 and at least 48, width 6.75 times this); the other encoders have one size."""
    batch_norm: Literal["sync", "micro"] = "sync"
    """Statistics of the global batch, or of fixed-size micro-batches (docs/training.md)."""
    own_blocks: int = 0
    """Last blocks that every head of ``head.variant`` has of its own (LOEV++, docs/loev.md): the embedding is then one
    part a head, ``invariant`` first. 0: heads alone differ (LOEV)."""
    locked: bool = False
    """Of loss.objective=music_text: keep the encoder of ``init_from`` as it is, in evaluation mode, and train the text
    tower and both projections towards it."""

    def __post_init__(self) -> None:
        check_name("name", self.name, FRONTENDS, self.settings)
        self.require(">= 1", "channels")
        if self.channels is not None and self.name not in SIZED:
            raise ValueError(f"channels is a setting of {' and '.join(SIZED)}; leave it out for {self.name}")
        if self.channels is not None and self.name == "nfnet":
            check_nfnet_channels(self.channels)
        self.require(">= 0", "own_blocks")
        most = OWN_BLOCKS.get(self.name)  # a network of the user's own says so when it is built
        if most is not None and self.own_blocks > most:
            raise ValueError(f"own_blocks must be <= {most} for {self.name}, got {self.own_blocks}")

    @property
    def is_own(self) -> bool:
        """Whether the network is the user's; what it reads is then known when it is built."""
        return is_entry_point(self.name)

    @property
    def shortest(self) -> tuple[int, ...]:
        """Least size of a view: its samples, or its bands and frames."""
        return SHORTEST.get(self.name, (1,))

    @property
    def frontends(self) -> tuple[str, ...]:
        """The front-ends that a built-in network can read, its own first."""
        return FRONTENDS.get(self.name, ())


PROJECTION_WIDTH = 128
"""D of the paper's head."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Config):
    """The head: Linear, ReLU, Linear, no bias (arXiv:2407.13840). A supervised one ends in an output a tag."""

    hidden: int = 512
    """Width of the hidden layer."""
    width: int | None = None
    """Contrastive only: width D of the projections that the loss compares, 128 unless given."""
    variant: tuple[str, ...] = ()
    """Contrastive only: effects of the chain that get a head of their own, whose loss leaves them out (LOEV,
    arXiv:2412.18955): pitch, stretch, gain, noise, filter, delay, or one of ``augment.extra``. Their order is that of
    the heads and spaces."""

    def __post_init__(self) -> None:
        double = next((name for name in self.variant if self.variant.count(name) > 1), None)
        if double:
            raise ValueError(f"variant names {double} more than once; an effect has one head")
        self.require(">= 1", "hidden", "width")


def check_nfnet_channels(channels: int) -> None:
    """Refuse a size that a SlowFast NFNet cannot have."""
    if channels < NFNET_FEWEST or channels % NFNET_UNIT:
        raise ValueError(
            f"channels of an NFNet must be a multiple of {NFNET_UNIT}, at least {NFNET_FEWEST}, got {channels}"
        )
