"""Random draws that depend on a key alone: no numpy generator is built for each of thousands of texts."""

from collections.abc import Sequence
from typing import TypeVar

from data_shards.sampling.permutation import hash_key

Item = TypeVar("Item")
_MASK = (1 << 64) - 1


class Draws:
    """Numbers of splitmix64 (Steele et al., OOPSLA 2014), from a key of numbers and names."""

    def __init__(self, *key: int | str) -> None:
        self._state = hash_key(*key)

    def uniform(self) -> float:
        """The next number in [0, 1), a multiple of 2^-53."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        value = self._state
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((value ^ (value >> 31)) >> 11) * 2.0**-53

    def below(self, count: int) -> int:
        """A whole number in [0, count)."""
        return int(self.uniform() * count)

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items, all equally likely."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """The items in random order (Fisher and Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

    def weighted(self, items: Sequence[Item], weights: Sequence[float]) -> Item:
        """One of the items, each as likely as its weight; the weights' sum is > 0."""
        place = self.uniform() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            place -= weight
            if place < 0:
                return item
        return next(item for item, weight in zip(reversed(items), reversed(weights), strict=True) if weight > 0)
