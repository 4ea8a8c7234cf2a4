"""What an encoder must offer to be evaluated."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

SUBJECT = "trained"
"""The encoder that is reported; all others are its baselines."""
ENCODER = "encoder"
"""An encoder's name in a pool of one."""


class Encoder(Protocol):
    """That of `trainers.inference.frozen.load_encoder`, or anyone's."""

    width: int
    rate: int
    """Hz of its input."""
    samples: int
    """Length of a chunk."""
    hash: str
    """Changes with the weights."""

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        """(N, T) float32 in [-1, 1] to (N, E)."""
        ...


def alike(encoders: Mapping[str, Encoder]) -> list[list[str]]:
    """Names of the encoders that read the same chunks: those of one rate and one length."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, encoder in encoders.items():
        groups.setdefault((encoder.rate, encoder.samples), []).append(name)
    return list(groups.values())
