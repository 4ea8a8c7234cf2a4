"""What the augmentation chain draws: an effect's probability and ranges, presets by name, and severity.

Table 1 of Guinot et al. 2024 (arXiv:2407.13840) is the default, which is also the preset ``paper``. In a tree
(YAML, command line, search space) ``preset: NAME`` stands for all values of that preset, and what is written
beside it differs from it. A configuration, once built, holds values only: it goes through a plain dict unchanged.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from cluster.entry_points import is_entry_point
from cluster.settings import Config
from trainers.augment.effects import (
    DelayConfig,
    FilterConfig,
    GainConfig,
    NoiseConfig,
    PitchConfig,
    PolarityConfig,
    StretchConfig,
    check_p,
)


@dataclass(frozen=True, kw_only=True)
class ExtraConfig(Config):
    """An augmentation of your own, after the chain (docs/extending.md)."""

    name: str
    """``module:factory``."""
    p: float = 0.5
    """Probability that a view receives it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Checked against the factory's signature."""

    def __post_init__(self) -> None:
        if not is_entry_point(self.name):
            raise ValueError(f"name must be module:factory, got {self.name!r}")
        check_p("extra", self.p)

    @property
    def effect(self) -> str:
        """What metrics and losses call it: the factory's name."""
        return self.name.partition(":")[2]


Stage = Literal["noise", "filter", "pitch", "delay"]
STAGES: tuple[Stage, ...] = get_args(Stage)
CORRUPTION_NAMES = ("chorus", "distortion", "splice_out", "reverb", "time_stretch", "compression", "bitcrush")
"""The corruptions of `trainers.augment.corruptions`; here, because a configuration must not import torch."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Config):
    """The whole chain, gain and polarity first: they commute with everything else in it."""

    p: float = 1.0
    """Probability of the whole chain: one coin for all views of a clip."""
    gain: GainConfig = field(default_factory=GainConfig)
    polarity: PolarityConfig = field(default_factory=PolarityConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    pitch: PitchConfig = field(default_factory=PitchConfig)
    stretch: StretchConfig = field(default_factory=StretchConfig)
    delay: DelayConfig = field(default_factory=DelayConfig)
    order: tuple[Stage, ...] = STAGES
    """A permutation of noise, filter, pitch (with stretch) and delay."""
    extra: tuple[ExtraConfig, ...] = ()
    """Augmentations of your own, applied in this order after the chain: a list of ``name`` (``module:factory``), ``p``
    and ``settings``."""
    identity_through_vocoder: bool = False
    """Also send views without pitch shift and stretch through the phase vocoder, at ratio 1: a head that leaves one of
    them out (``head.variant``) then cannot go by whether a view was vocoded (docs/loev.md)."""
    quality: Literal["training", "evaluation"] = "training"
    """Phase vocoder with 1,024-point frames, or 2,048-point frames and a longer reading kernel."""
    kernel: Literal["auto", "torch", "fused"] = "auto"
    """Tensor operations, Triton kernels, or ``auto``: the kernels on a GPU where their first batch is that of the
    tensor operations up to rounding."""

    def __post_init__(self) -> None:
        check_p("augment", self.p)
        if sorted(self.order) != sorted(STAGES):
            raise ValueError(
                f"order must be a permutation of {', '.join(STAGES)}, got {', '.join(self.order) or 'none'}"
            )

    @property
    def chances(self) -> dict[str, float]:
        """Probability that a view receives each tracked effect, by the names of `ViewParameters.received` and of the
        own augmentations.
        """
        still = {
            "pitch": self.pitch.min_transpose_semitones == self.pitch.max_transpose_semitones == 0,
            "stretch": self.stretch.min_rate == self.stretch.max_rate == 1,
        }
        chances = {name: getattr(self, name).p for name in EFFECTS}
        chances["gain"] = 1 - (1 - self.gain.p) * (1 - chances.pop("polarity"))
        chances = {name: self.p * p * (not still.get(name, False)) for name, p in chances.items()}
        return chances | {extra.effect: extra.p for extra in self.extra}

    @property
    def max_tempo(self) -> float:
        """Most that a view reads of its clip, in view lengths; 1 without stretch."""
        return max(1.0, self.stretch.max_rate) if self.stretch.p > 0 else 1.0

    def scaled(self, severity: float) -> "AugmentConfig":
        """The chain at a severity s of the paper's robustness study (§5.3): 2 is this configuration, 0 the identity.

        Raises:
            ValueError: if ``severity`` is negative.
        """
        if severity < 0:
            raise ValueError(f"severity must be >= 0, got {severity}")
        m = severity / 2
        if m == 1:
            return self
        effects = {name: getattr(self, name) for name in EFFECTS}
        if m == 0:  # ranges that divide by m have no limit, and nothing is drawn from them
            still = {name: replace(effect, p=0.0) for name, effect in effects.items()}
            return replace(self, **still, identity_through_vocoder=False)
        return replace(self, **{name: effect.scaled(m) for name, effect in effects.items()})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        # A core schema is a plain dict, so that `preset` works in every tree while this module imports no pydantic.
        expand = {"type": "no-info", "function": expand_preset}
        return {"type": "function-before", "function": expand, "schema": handler(source)}


EFFECTS = ("gain", "polarity", "noise", "filter", "pitch", "stretch", "delay")

NONE = AugmentConfig().scaled(0)
PRESETS: dict[str, AugmentConfig] = {
    "paper": AugmentConfig(),
    # The released code of arXiv:2407.13840, as measured (attenuations 0.3 and 0.7 are amplitudes).
    "as_released": AugmentConfig(
        p=0.8,
        noise=NoiseConfig(f_decay_unit="amplitude_exponent"),
        filter=FilterConfig(shared_kind=True),
        pitch=PitchConfig(ratios="rational"),
        delay=DelayConfig(
            min_attenuation_in_db=-10.457574905606752,
            max_attenuation_in_db=-3.098039199714863,
            min_wet=0.3,
            max_wet=0.7,
            ends_only=True,
            first_tap=0,
            output_gain=0.5,
        ),
    ),
    # arXiv:2401.08889 studies one transformation at a time.
    "mule_stretch": replace(NONE, stretch=StretchConfig(p=0.6)),
    "mule_pitch": replace(NONE, pitch=PitchConfig(p=0.6)),
    "mule_both": replace(NONE, stretch=StretchConfig(p=0.6), pitch=PitchConfig(p=0.6)),
    "mule_eq": replace(NONE, filter=FilterConfig(p=0.6)),
    # arXiv:2412.18955, the defaults of its released code; half of the views stay untouched by each.
    "loev": replace(
        NONE,
        pitch=PitchConfig(p=0.5, min_transpose_semitones=-4, max_transpose_semitones=4),
        stretch=StretchConfig(p=0.5, min_rate=0.7, max_rate=1.3),
    ),
    "none": NONE,
}


def expand_preset(tree: Any) -> Any:
    """That preset's tree with the rest of ``tree`` laid over it; a tree without ``preset`` as it is.
    Raises ValueError for a name that is no preset.

    >>> expand_preset({"preset": "none", "pitch": {"p": 0.5}})["pitch"]["p"]
    0.5
    """
    if not isinstance(tree, Mapping):
        return tree
    own = dict(tree)
    if isinstance(own.get("order"), list):  # strict validation of a Python tree wants the tuple itself
        own["order"] = tuple(own["order"])
    if isinstance(own.get("extra"), list):
        own["extra"] = tuple(own["extra"])
    if "preset" not in own:
        return own
    name = own.pop("preset")
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1) or PRESETS
        raise ValueError(f"no preset {name!r} of augmentation; known are {', '.join(PRESETS)}; try {next(iter(near))}")
    return _laid_over(asdict(PRESETS[name]), own)


def _laid_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with every leaf of ``top`` in its place."""
    merged = dict(base)
    for name, value in top.items():
        below = merged.get(name)
        merged[name] = _laid_over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
