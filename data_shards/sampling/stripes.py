"""Stripes: which shards a slot of the batch may draw from, fixed by the seed whatever the number of ranks.

A slot s draws from stripe s mod S alone, and rank r of W takes slots r::W. Where W divides S, or S divides W, a rank so
needs the shards of S/W stripes, or of one: machines fetch different shards, and the batches are the same for every W.

Shape suffixes: n rows of a stream; S stripes; B clips of this rank's part of a batch.
"""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.sampling.permutation import hash_key
from data_shards.sampling.stream import Stream


class Stripes:
    """The stripes of one stream; each is a `Stream` of its own, with its own epochs."""

    def __init__(
        self, name: str, rows: NDArray[np.int64], shards: NDArray[np.int32], slots: range, count: int, *,
        seed: int, block_shards: int = 0,
    ) -> None:  # fmt: skip
        """Deal the shards to ``count`` stripes, in proportion to the ``slots`` of the global batch that draw from each;
        other arguments are those of `Stream`. Raises UserError if there are fewer shards than stripes.
        """
        self.count = count
        self._first = np.array([slots.start + (number - slots.start) % count for number in range(count)])
        self.slots_each = np.array([len(range(first, slots.stop, count)) for first in self._first.tolist()])
        there, sizes = np.unique(shards, return_counts=True)
        if len(there) < count:
            raise UserError(
                f"data.stripes={count}: the {name} set has {len(there)} shards with clips to draw from, and a stripe "
                f"needs one; take data.stripes <= {len(there)}, or build smaller shards with build.clips_per_shard"
            )
        stripe_of = np.zeros(int(there[-1]) + 1, np.int32)
        stripe_of[there] = deal(there.tolist(), sizes.tolist(), self.slots_each.tolist(), hash_key("deal", seed, name))
        stripe_n = stripe_of[shards]
        self.streams = [
            Stream(f"{name}/{number}", rows[here], shards[here], seed=seed, block_shards=block_shards)
            for number in range(count)
            for here in [np.flatnonzero(stripe_n == number)]
        ]

    def stream_of(self, slot: int) -> Stream:
        """The stripe that a slot draws from."""
        return self.streams[slot % self.count]

    def draw(
        self, step: int, slot_B: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Rows, epochs and positions of some slots of a step; epochs and positions count within a slot's stripe."""
        row_B, epoch_B, position_B = (np.empty(len(slot_B), np.int64) for _ in range(3))
        stripe_B = slot_B % self.count
        for number in np.unique(stripe_B).tolist():
            here, stream = stripe_B == number, self.streams[number]
            place = step * self.slots_each[number] + (slot_B[here] - self._first[number]) // self.count
            epoch_B[here], position_B[here] = np.divmod(place, len(stream))
            row_B[here] = stream.rows_at(epoch_B[here], position_B[here])
        return row_B, epoch_B, position_B


def deal(shards: Sequence[int], sizes: Sequence[int], shares: Sequence[int], key: int) -> list[int]:
    """The stripe of each shard: the largest, by its clips, first, each to the stripe that has least for its share of
    slots; ``key`` decides among shards of one size.

    >>> sorted(deal([0, 1, 2, 3], [5, 5, 5, 5], [1, 1], key=0))
    [0, 0, 1, 1]
    """
    order = sorted(range(len(shards)), key=lambda at: (-sizes[at], hash_key(key, shards[at])))
    filled = [(0.0, number) for number in range(len(shares))]
    found = [0] * len(shards)
    for at in order:
        level, number = heapq.heappop(filled)
        found[at] = number
        heapq.heappush(filled, (level + sizes[at] / shares[number], number))
    return found


def check_stripes(stripes: int, world: int) -> None:
    """Refuse a number of ranks with which stripes do not divide."""
    if max(stripes, world) % min(stripes, world) == 0:
        return
    ranks = [count for count in range(1, stripes + 1) if stripes % count == 0]
    near = sorted({max(c for c in ranks if c <= world), -(-world // stripes) * stripes})
    raise UserError(
        f"data.stripes={stripes} and {world} ranks: one must be a multiple of the other, or a rank would need the "
        f"shards of all stripes; take {' or '.join(map(str, near))} ranks (data.stripes stays as it is within a run)"
    )
