"""Frames before channels in memory, with zeros around them: of one row, or of a few behind each other like one.

A frame of zeros lies before them and two behind, so that no convolution over three frames needs to know where they end.
Convolutions write over the zeros; whoever goes on writes them again.

Shape suffixes: N rows, L frames, R = L + 3, C channels.
"""

from typing import NamedTuple

from torch import Tensor


def padded(length: int, channels: int, like: Tensor) -> Tensor:
    """Room for frames, (R, C): frame l in row 1 + l; what lies around them is zeros."""
    return close(like.new_empty(length + 3, channels))


def inside(x_RC: Tensor) -> Tensor:
    """The frames, (L, C)."""
    return x_RC[1:-2]


def close(x_RC: Tensor) -> Tensor:
    """Write the zeros around frames."""
    x_RC[:1].zero_()
    x_RC[-2:].zero_()
    return x_RC


class Rows(NamedTuple):
    """Rows of frames behind each other, zeros behind each: one frame at the bottom of the U."""

    number: int
    length: int
    """Frames of a row at the bottom, without the zeros."""

    def split(self, x_RC: Tensor) -> Tensor:
        """The rows at any level without the zeros, (number, frames, C)."""
        return self._split(x_RC)[0]

    def filled(self, frames_NLC: Tensor) -> Tensor:
        """Frames of every row behind each other, (R, C)."""
        places = frames_NLC.shape[1] // self.length * (self.length + 1)
        x_RC = padded(self.number * places, frames_NLC.shape[2], frames_NLC)
        frames, zeros = self._split(x_RC)
        frames.copy_(frames_NLC)
        zeros.zero_()
        return x_RC

    def cleared(self, x_RC: Tensor) -> Tensor:
        """The same frames, all zeros around them written again."""
        self._split(close(x_RC))[1].zero_()
        return x_RC

    def _split(self, x_RC: Tensor) -> tuple[Tensor, Tensor]:
        each = inside(x_RC).view(self.number, -1, x_RC.shape[1])
        length = each.shape[1] // (self.length + 1) * self.length
        return each[:, :length], each[:, length:]
