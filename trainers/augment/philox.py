"""Random numbers that depend on nothing but (seed, step, slot, view): no rank, no worker, no order of calls.

Counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
vectorised over slots with numpy on the host.

Shape suffixes: n slots, K numbers a slot.
"""

import numpy as np
from numpy.typing import NDArray

UInts = NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

PURPOSES = {"augmentation": 0, "position": 1, "corruption": 2, "own augmentation": 3}
"""Who draws: two purposes never share a number."""
SHARED_VIEW = -1
"""The view of a draw that all views of a clip share."""


def philox(counter: tuple[UInts, UInts, UInts, UInts], key: tuple[int, int]) -> tuple[UInts, UInts, UInts, UInts]:
    """Ten rounds of Philox4x32 on arrays of 32-bit counters kept in uint64.

    >>> zero = np.zeros(1, np.uint64)
    >>> [f"{int(word[0]):08x}" for word in philox((zero, zero, zero, zero), (0, 0))]  # Random123's known answer
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    a, b, c, d = counter
    key_a, key_b = key
    for _ in range(_ROUNDS):
        product_a, product_c = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (product_c >> _HALF) ^ b ^ np.uint64(key_a),
            product_c & _LOW,
            (product_a >> _HALF) ^ d ^ np.uint64(key_b),
            product_a & _LOW,
        )
        key_a, key_b = (key_a + _WEYL[0]) & 0xFFFFFFFF, (key_b + _WEYL[1]) & 0xFFFFFFFF
    return a, b, c, d


def uniforms(
    slots: NDArray[np.int64], *, seed: int, step: int, view: int, count: int, purpose: str
) -> NDArray[np.float64]:
    """Numbers in the open interval (0, 1), the same for a slot whatever else is drawn.

    Args:
        slots: places in the global batch, shape (n,), in [0, 2^32).
        seed: of the run, in [0, 2^64).
        step: in [0, 2^32).
        view: of the clip, or ``SHARED_VIEW``.
        count: K numbers a slot.
        purpose: a key of ``PURPOSES``.

    Returns:
        float64 of shape (n, K).

    Raises:
        ValueError: if seed, step, view or a slot is out of range.
    """
    if not 0 <= seed < 1 << 64 or not 0 <= step < 1 << 32 or not SHARED_VIEW <= view < 1 << 16:
        raise ValueError(f"seed, step, view must be in [0, 2^64), [0, 2^32), [-1, 2^16), got {seed}, {step}, {view}")
    if slots.size and (slots.min() < 0 or slots.max() >= 1 << 32):
        raise ValueError(f"slots must be in [0, 2^32), got {slots.min()} to {slots.max()}")
    num_blocks = -(-count // 4)
    block = np.arange(num_blocks, dtype=np.uint64)[None, :] | np.uint64(PURPOSES[purpose] << 16)
    slot = slots.astype(np.uint64)[:, None] + np.zeros_like(block)
    constant = [np.full_like(slot, value) for value in (step, view - SHARED_VIEW)]
    words = philox((slot, constant[0], constant[1], block + np.zeros_like(slot)), (seed & 0xFFFFFFFF, seed >> 32))
    return ((np.stack(words, axis=-1).reshape(len(slots), 4 * num_blocks)[:, :count] + 0.5) * 2.0**-32).astype(
        np.float64
    )
