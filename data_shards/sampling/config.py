"""What is trained on: two sets of shards, and the shares in which a batch draws from them."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from cluster.files.storage import without_credentials
from cluster.settings import Config


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Where clips come from and in which shares."""

    labelled: str | None = None
    """Folder or URI of the shards whose tags are used; needed when b_s > 0."""
    unlabelled: str | None = None
    """Folder or URI of the shards that are drawn from without their tags; needed when b_s < 1."""
    vocabulary: str = "tags"
    """Multi-label column whose tags make a clip labelled, or categorical column whose classes do. For loss.objective=
    music_text a set without a column tags will do: clips with a tag of any column, or a caption, are labelled then."""
    batch: int = 96
    """Clips a step over all ranks, before views are made of them."""
    b_s: float = 0.05
    """Share of a batch that is labelled, in [0, 1]."""
    p_s: float = 1.0
    """Share of the labelled training clips that is used, in (0, 1]; those left out are not used at all."""
    short: Literal["pad", "drop", "refuse"] = "pad"
    """Clips shorter than the window of all views (5.4 s for two of 2.7 s): taken as they are, so that views overlap and
    a clip shorter than a view is repeated; left out and counted; or an error."""
    max_replaced: float = 0.01
    """Share of the clips a rank has drawn since it started that may be damaged and replaced before the run stops, in
    [0, 1]."""
    checksums: bool = True
    """Check every block that is read."""
    block_shards: int = 0
    """Shuffle within blocks of so many shards, for sets larger than the cache; 0 shuffles the whole set."""
    stripes: int = 1
    """Slot s of a batch draws only from the shards of stripe s mod stripes, so that machines fetch different shards;
    take the largest number of ranks that the run will have. 1 draws from all. Two clips of one stripe meet in a batch
    about 1 − stripes/batch times as often as others."""
    cache: str | None = None
    """Folder for copies of remote shards, shared by the processes of a machine; needed for URIs."""
    cache_gb: float = 50.0
    """Size that the cache is kept below, 1e9 bytes."""

    def __post_init__(self) -> None:
        self.require("> 0", "batch", "cache_gb")
        self.require("in [0, 1]", "b_s", "max_replaced")
        self.require("in (0, 1]", "p_s")
        self.require(">= 0", "block_shards")
        self.require(">= 1", "stripes")
        self._check_stripes()
        for name, uri in (("labelled", self.labelled), ("unlabelled", self.unlabelled)):
            if uri and (shown := without_credentials(uri)) != uri:  # a configuration is logged with every run
                raise ValueError(f"{name} must hold no credentials, got {shown}; give them by the environment")
        self._check_share()

    @property
    def drawn_from(self) -> tuple[str, ...]:
        """The keys of the sets that a batch draws from."""
        return ("labelled",) * (self.b_s > 0) + ("unlabelled",) * (self.b_s < 1)

    @property
    def num_labelled(self) -> int:
        """B_l, labelled clips in every global batch: b_s·B to the nearest whole, halves up."""
        return num_labelled(self.b_s, self.batch)

    def _check_stripes(self) -> None:
        counts = {"labelled": self.num_labelled, "unlabelled": self.batch - self.num_labelled}
        for name, count in counts.items():
            if 0 < count < self.stripes:
                raise ValueError(
                    f"stripes = {self.stripes}: a batch of {self.batch} with b_s = {self.b_s:g} has {count} {name} "
                    f"clips, and every stripe needs one; take stripes <= {count}, or a larger batch"
                )

    def _check_share(self) -> None:
        """Refuse a share that rounds to nothing: the experiment would be another one."""
        asked = f"b_s = {self.b_s:g} of a batch of {self.batch} is {self.b_s * self.batch:.3g} clips"
        if self.b_s > 0 and self.num_labelled == 0:
            batch = next(size for size in itertools.count(self.batch) if num_labelled(self.b_s, size) > 0)
            share = 1 / self.batch
            raise ValueError(f"{asked}, no labelled one; take batch >= {batch} or b_s >= {share:.3g}, or b_s = 0")
        if self.b_s < 1 and self.num_labelled == self.batch:
            batch = next(size for size in itertools.count(self.batch) if num_labelled(self.b_s, size) < size)
            share = 1 - 1 / self.batch
            raise ValueError(f"{asked}, no unlabelled one; take batch >= {batch} or b_s <= {share:.3g}, or b_s = 1")


def num_labelled(share: float, batch: int) -> int:
    """B_l: a share of a batch to the nearest whole clip, halves up.

    >>> num_labelled(0.05, 96), num_labelled(0.05, 10)
    (5, 1)
    """
    return math.floor(share * batch + 0.5)
