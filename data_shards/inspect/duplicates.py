"""Clips of a set that hold the same audio under different keys: in two splits they flatter every score.

What is compared are the checksums that the index has, so no audio is read. K clips take 8 K bytes beside the index.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_shards.format.index import ShardIndex

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)
CLIPS_AT_ONCE = 1 << 16
"""As many are digested at once, so that memory does not grow with their blocks."""


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
    digests_K = np.empty(len(index), np.uint64)
    is_pcm_K = index.codec == "pcm16"
    for begin in range(0, len(index), CLIPS_AT_ONCE):
        rows = slice(begin, begin + CLIPS_AT_ONCE)
        ends = index.crc_end[begin : begin + CLIPS_AT_ONCE + 1]
        crc = index.crc[ends[0] : ends[-1]].astype(np.uint64)
        starts = ends[:-1] - ends[0]
        place = np.arange(len(crc)) - np.repeat(starts, np.diff(ends))
        mixed = _mixed(crc + (place.astype(np.uint64) + np.uint64(1)) * _STEP)
        sums = np.add.reduceat(mixed, starts)  # modulo 2^64; every clip has a block
        length = index.frames[rows].astype(np.uint64) * np.uint64(2) + is_pcm_K[rows].astype(np.uint64)
        digests_K[rows] = _mixed(sums + _mixed(length))
    return digests_K


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input decides half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
