"""What the chain in tensor operations (`chain`) and the chain in kernels (`fused`) share: rows, sizes, and passes.

Shape suffixes: n rows, B clips, W samples of a window.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from trainers.augment.parameters import Stage

CHUNK_ROWS = {"cpu": 4, "cuda": 512}
"""Rows at once: on a CPU what its cache holds, on a GPU what its memory holds."""
FRAME = {"training": 1024, "evaluation": 2048}
HOP = 256


class Rows(NamedTuple):
    """Where the rows of a batch are read; all but the wave on the host."""

    wave_BW: Tensor
    """int16 or float32."""
    row_n: Tensor
    """Row of the wave, int64."""
    start_n: Tensor
    """First sample, int64."""
    frames_n: Tensor
    """Samples after which the row repeats, int64 ≥ 1."""
    length: int
    """L, samples that a row may read."""
    scale: float = 1.0
    """Factor, a power of two."""


def passes(order: tuple[Stage, ...]) -> Iterator[tuple[Stage, ...]]:
    """The order as passes: noise directly before the filter shares the filter's transform."""
    stages = list(order)
    while stages:
        width = 2 if stages[:2] == ["noise", "filter"] else 1
        yield tuple(stages[:width])
        stages = stages[width:]
