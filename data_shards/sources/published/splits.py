"""Splits of published datasets: their counts, and splits by group where none were published."""

import hashlib
from collections.abc import Mapping, Sequence

from data_shards.format.records import SPLITS, Clip, Split


def count_note(name: str, found: Mapping[str, int], published: Mapping[str, int]) -> tuple[str, ...]:
    """A note when the clips per split are not those that the papers report."""
    if dict(found) == dict(published):
        return ()
    both = ", ".join(f"{split} {found.get(split, 0):,} (published {count:,})" for split, count in published.items())
    return (f"{name}: the counts are not the published ones: {both}",)


def split_counts(clips: Sequence[Clip]) -> dict[str, int]:
    """Clips of each split."""
    return {split: sum(clip.split == split for clip in clips) for split in SPLITS}


def split_by_group(groups: Sequence[str], *, valid: float, test: float) -> list[Split]:
    """Splits for a dataset that was published without: whole groups, taken in the order of a hash of their names.

    Args:
        groups: what each clip may not be parted from, e.g. its artist.
        valid: share of the clips, in [0, 1]; reached by the first group that reaches it.
        test: the same, filled first.

    >>> split_by_group(["ann", "bob", "bob", "cid"], valid=0.25, test=0.25)
    ['test', 'train', 'train', 'valid']
    """
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    split_of: dict[str, Split] = {}
    num_test, num_valid = round(test * len(groups)), round(valid * len(groups))
    taken = {"test": 0, "valid": 0, "train": 0}
    for group in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        split: Split = "test" if taken["test"] < num_test else "valid" if taken["valid"] < num_valid else "train"
        split_of[group] = split
        taken[split] += sizes[group]
    return [split_of[group] for group in groups]
