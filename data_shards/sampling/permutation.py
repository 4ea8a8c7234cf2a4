"""Stateless shuffling: a bijection of 0…n−1 that is computed for the places that are asked for, never stored.

A Feistel network with cycle walking (Black and Rogaway 2002). All functions are pure; all arithmetic is modulo 2**64.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_U64 = np.uint64


def scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value (Steele et al. 2014)."""
    values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
    return values ^ (values >> _U64(31))


def hash_key(*parts: int | str) -> int:
    """64 bits that depend on all parts and on their order, the same on every machine.

    >>> hash_key("labelled", 7, 0) == hash_key("labelled", 7, 0) != hash_key("labelled", 70)
    True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def permute(positions: NDArray[np.int64], n: int, key: int) -> NDArray[np.int64]:
    """Where a pseudo-random permutation of 0…n−1 sends the given positions.

    Args:
        positions: in [0, n).
        n: size of the domain, > 0.
        key: selects the permutation.

    Returns:
        As many distinct numbers in [0, n) as there are distinct positions.

    Raises:
        ValueError: for a position outside the domain.

    >>> sorted(permute(np.arange(5), 5, key=1).tolist())
    [0, 1, 2, 3, 4]
    """
    if n < 1 or (len(positions) and not 0 <= positions.min() <= positions.max() < n):
        raise ValueError(f"positions must lie in [0, {n})")
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    shift, mask = _U64(half), _U64((1 << half) - 1)
    out = positions.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):  # the domain has at most 4n places: each cycle is left after at most four steps on average
        left, right = out[todo] >> shift, out[todo] & mask
        for round_key in _round_keys(key):
            left, right = right, left ^ (scramble(right + round_key) & mask)
        out[todo] = (left << shift) | right
        todo = todo[out[todo] >= _U64(n)]
    return out.astype(np.int64)


@lru_cache(maxsize=4096)
def _round_keys(key: int) -> tuple[np.uint64, ...]:
    return tuple(_U64(hash_key("round", key, number)) for number in range(_ROUNDS))
