"""One endless shuffled stream of rows: every epoch draws each row exactly once."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data_shards.sampling.permutation import hash_key, permute


class Stream:
    """Rows of one set, permuted anew in every epoch, without state."""

    def __init__(
        self, name: str, rows: NDArray[np.int64], shards: NDArray[np.int32], *, seed: int, block_shards: int = 0
    ) -> None:
        """A stream over some rows.

        Args:
            name: part of the key of every draw.
            rows: (n,) ascending, n > 0.
            shards: (n,) the shard of each row, ascending.
            seed: of the run.
            block_shards: shards of a block; 0 shuffles all rows with all.
        """
        self.name, self.rows, self.seed = name, rows, seed
        self.block_shards = block_shards
        self._shard_start = np.concatenate([[0], np.flatnonzero(shards[1:] != shards[:-1]) + 1])
        self._shard_size = np.diff(np.append(self._shard_start, len(shards)))

    def __len__(self) -> int:
        return len(self.rows)

    def rows_at(self, epochs: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows at places of epochs."""
        rows = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order = self._in_blocks if self.block_shards else self._in_whole
            rows[here] = self.rows[order(int(epoch), positions[here])]
        return rows

    def substitute(self, epoch: int, position: int, attempt: int) -> int:
        """A row drawn anew for a place, for the attempt-th time."""
        return int(self.rows[hash_key("substitute", self.seed, self.name, epoch, position, attempt) % len(self)])

    def _in_whole(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return permute(positions, len(self), hash_key(self.seed, self.name, epoch))

    def _in_blocks(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Shards in random order, cut into blocks within which all rows are shuffled: few shards are needed at once."""
        order, shard_end, block_end = self._layout(epoch)
        block = np.searchsorted(block_end, positions, side="right")
        places = np.empty_like(positions)
        for number in np.unique(block):
            here = block == number
            start = int(block_end[number - 1]) if number else 0
            size = int(block_end[number]) - start
            key = hash_key(self.seed, self.name, epoch, int(number))
            places[here] = start + permute(positions[here] - start, size, key)
        slot = np.searchsorted(shard_end, places, side="right")
        within = places - (shard_end[slot] - self._shard_size[order[slot]])
        return np.asarray(self._shard_start[order[slot]] + within)

    @lru_cache(maxsize=4)  # noqa: B019 a stream lives as long as its run
    def _layout(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        num_shards = len(self._shard_start)
        order = permute(np.arange(num_shards), num_shards, hash_key("shards", self.seed, self.name, epoch))
        shard_end = np.cumsum(self._shard_size[order])
        last = np.append(np.arange(self.block_shards, num_shards, self.block_shards), num_shards) - 1
        return order, shard_end, shard_end[last]
