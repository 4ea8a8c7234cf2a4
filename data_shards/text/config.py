"""Which text of a clip a step reads: keys of Augment, Drop and Swap (arXiv:2409.11498).

The paper's ideas are p_cap, views from partial tags, ten of them a track, and swaps whose share rises over training;
all other values here are ours.
"""

from dataclasses import dataclass, field
from typing import Literal

from cluster.settings import Config

Captions = Literal["stored", "templates", "both"]
CaptionViews = Literal["full", "partial", "mixed"]
Scope = Literal["all", "own"]


@dataclass(frozen=True, kw_only=True)
class PartialConfig(Config):
    """Texts that show only some of a clip's tags: Augmented View Dropout."""

    each: int = 10
    """Partial views of a clip, ≥ 1; one is drawn a step. Ten in the paper."""
    least: int = 2
    """Tags that a view shows at least, ≥ 1; a clip with fewer shows all it has."""
    balanced: bool = True
    """Draw over the categories of tags evenly, not over the tags."""

    def __post_init__(self) -> None:
        self.require(">= 1", "each", "least")


@dataclass(frozen=True, kw_only=True)
class SwapConfig(Config):
    """Hard negatives: the clip's own text with one attribute swapped for another."""

    each: int = 1
    """Swapped texts a clip, ≥ 0; 0 for none."""
    share: float = 1.0
    """Share of the clips that have them at the end of the rise, in [0, 1]."""
    start: float = 0.0
    """Share at the first step, in [0, 1]."""
    ramp: float = 0.5
    """Part of the steps over which the share rises in a line, in [0, 1]."""
    dictionary: str = "music"
    """A file of conf/swaps, or the path of another: categories, groups of words, synonyms, exclusions."""
    scope: Scope = "all"
    """all: every clip of the batch has a swapped text as a negative, unless all it says holds for that clip; own: only
    the clip whose text was swapped."""

    def __post_init__(self) -> None:
        self.require(">= 0", "each")
        self.require("in [0, 1]", "share", "start", "ramp")
        if not self.dictionary.strip():
            raise ValueError("dictionary must name a file of conf/swaps or a path, got an empty name")

    def share_at(self, step: int, steps: int) -> float:
        """Share of the clips with swapped texts at a step of a run of `steps`.

        >>> [SwapConfig(start=0.5).share_at(step, 100) for step in (0, 25, 50, 99)]
        [0.5, 0.75, 1.0, 1.0]
        """
        if not self.each:
            return 0.0
        rise = self.ramp * steps
        return self.share if step >= rise else self.start + (self.share - self.start) * (step / rise)


@dataclass(frozen=True, kw_only=True)
class TextViewsConfig(Config):
    """Which text of its clip a place of the batch reads at a step."""

    captions: Captions = "stored"
    """Where captions come from: those of the shards; sentences written from the clip's tags by templates; or both, all
    equally often."""
    p_cap: float = 0.5
    """Probability that a text is a caption instead of the tags, in [0, 1]. The paper's name."""
    views: CaptionViews = "partial"
    """full: texts show all tags of the clip; partial: some of them; mixed: both kinds, all equally often."""
    partial: PartialConfig = field(default_factory=PartialConfig)
    swap: SwapConfig = field(default_factory=SwapConfig)

    def __post_init__(self) -> None:
        self.require("in [0, 1]", "p_cap")
