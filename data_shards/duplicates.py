"""Clips of a set that hold the same audio under different keys: in two splits they flatter every score.

What is compared are the checksums that the index has, so no audio is read. K clips take 8 K bytes beside the index.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_shards.index import ShardIndex

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class SameAudio:
    """The groups of clips whose samples are the same; clips that hold zeros only are in none."""

    across: tuple[tuple[int, ...], ...]
    """Rows of each group that has clips in more than one split."""
    within: tuple[tuple[int, ...], ...]
    """Rows of each group that lies in one split."""


def find_same_audio(index: ShardIndex) -> SameAudio:
    """Group the clips whose audio members are the same byte for byte: length, codec and every block's CRC32.

    The same samples give the same bytes, since a build writes one codec at one rate. Two different clips that fit into
    one block (1.5 s at 22,050 Hz) share their CRC32 with a chance of 2^-32, longer ones never in practice.
    """
    digest_K = _digests(index)
    order = np.argsort(digest_K, kind="stable")
    sorted_K = digest_K[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_K[1:] != sorted_K[:-1]]))
    sizes = np.diff(np.concatenate([starts, [len(order)]]))
    silent = set(index.manifest.get("silent", ()))
    groups = [
        tuple(sorted(int(row) for row in order[start : start + size] if index.key[row] not in silent))
        for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True)
    ]
    groups = sorted(group for group in groups if len(group) > 1)
    across = [group for group in groups if len({index.split[row] for row in group}) > 1]
    within = [group for group in groups if len({index.split[row] for row in group}) == 1]
    return SameAudio(tuple(across), tuple(within))


def _digests(index: ShardIndex) -> NDArray[np.uint64]:
    """64 bits a clip of its length and its blocks' checksums in their order."""
    blocks_K = np.diff(index.crc_end)
    place = np.arange(len(index.crc)) - np.repeat(index.crc_end[:-1], blocks_K)
    mixed = _mixed(index.crc.astype(np.uint64) + (place.astype(np.uint64) + np.uint64(1)) * _STEP)
    sums_K: NDArray[np.uint64] = np.add.reduceat(mixed, index.crc_end[:-1])  # modulo 2^64; every clip has a block
    is_pcm_K = (index.codec == "pcm16").astype(np.uint64)
    return _mixed(sums_K + _mixed(index.frames.astype(np.uint64) * np.uint64(2) + is_pcm_K))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input decides half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
