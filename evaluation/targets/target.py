"""What a task is scored against: the known values of its column, clip by clip, with track, artist and split.

Shape suffixes: K clips whose target is known, C tags or classes.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_shards.format.index import ShardIndex

STOP_EVERY = 5
"""One train artist in so many, or track, is stopped on where the validation split is reported."""


@dataclass(frozen=True)
class Target:
    """The known targets of one task, over all splits."""

    rows_K: NDArray[np.int64]
    """Rows of the index, ascending."""
    split_K: NDArray[np.str_]
    track_K: NDArray[np.str_]
    artist_K: NDArray[np.str_]
    """Artist, or the track where no artist is known: what is drawn and excluded together."""
    values: NDArray[Any]
    """Tags (K, C), classes (K,) or numbers (K,)."""
    classes: tuple[str, ...]
    """Names of the C tags or classes; empty for numbers."""
    texts_K: tuple[tuple[str, ...], ...] = ()
    """Texts of each clip, for a task that reads texts; else none at all."""

    def only(self, split: str) -> "Target":
        """The part of one split."""
        return self.where(self.split_K == split)

    def where(self, here: NDArray[np.bool_]) -> "Target":
        """The clips that a mask (K,) picks."""
        return Target(
            rows_K=self.rows_K[here],
            split_K=self.split_K[here],
            track_K=self.track_K[here],
            artist_K=self.artist_K[here],
            values=self.values[here],
            classes=self.classes,
            texts_K=tuple(self.texts_K[k] for k in np.flatnonzero(here)) if self.texts_K else (),
        )

    def __len__(self) -> int:
        return len(self.rows_K)


def parts_of(target: Target, reported: Literal["test", "valid"]) -> dict[str, Target]:
    """What heads are trained on, what they stop on and what is reported, by the names ``train``, ``valid``, ``test``.

    Where the validation split is what is reported, heads stop on a fifth of the train split's artists, of its tracks
    where all are of one artist: choosing by a split that a head has also stopped on would flatter whatever stops by
    luck.
    """
    if reported == "test":
        return {split: target.only(split) for split in ("train", "valid", "test")}
    train = target.split_K == "train"
    unit_K = target.artist_K if len(np.unique(target.artist_K[train])) > 1 else target.track_K
    units = sorted(set(unit_K[train].tolist()), key=lambda name: hashlib.sha256(name.encode()).digest())
    stops = train & np.isin(unit_K, units[: -(-len(units) // STOP_EVERY)])
    return {"train": target.where(train & ~stops), "valid": target.where(stops), "test": target.only("valid")}


def artist_overlap(index: ShardIndex) -> float | None:
    """Share of test clips whose artist is also in train; None where no test clip's artist is known."""
    seen = {artist for artist, split in zip(index.artist, index.split, strict=True) if artist and split == "train"}
    known = [artist for artist, split in zip(index.artist, index.split, strict=True) if artist and split == "test"]
    return sum(artist in seen for artist in known) / len(known) if known else None
