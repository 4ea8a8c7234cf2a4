"""Convolutions over three frames with five products for nine: Winograd's minimal filtering F(3, 3).

Frame l of a row lies in plane l mod 3. Three neighbouring outputs, which a pool of three takes together, need five
neighbouring inputs, and those are five shifted planes: both transforms are sums of contiguous memory. Between them
are five matrix products; the plain convolution takes nine. Pieces are small enough for the second-level cache.

Source: Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308); the points are 0, 1,
-1, 2 and infinity, for which float32 stays as near to float64 as the plain convolution.

Shape suffixes: N rows, L frames, P = ⌈L / 3⌉, R = P + 2, C channels in, D channels out; k rows and p places of a piece.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainers.inference.cpu.folding import constant, fold

PIECE_BYTES = 2_500_000
"""Of inputs and products of a piece, for each thread."""
KERNEL = torch.tensor([[3, 0, 0], [-3, -3, -3], [-1, 1, -1], [1, 2, 4], [0, 0, 6]], dtype=torch.float64) / 6
"""From a kernel's three taps to the five factors."""


class Frames(NamedTuple):
    """Rows of frames in planes."""

    planes_N3RC: Tensor
    """Frame 3p + j at ``[:, j, 1 + p]``; frame -1 and whatever lies behind the last are zeros."""
    length: int
    """L."""

    def linear(self) -> Tensor:
        """The frames in their order, (N, L, C), copied."""
        planes_N3PC = self.planes_N3RC[:, :, 1:-1]
        return planes_N3PC.transpose(1, 2).flatten(1, 2)[:, : self.length]

    def fill(self, frames_NLC: Tensor) -> "Frames":
        """Take frames in their order."""
        whole = self.length // 3
        thirds_NP3C = frames_NLC[:, : 3 * whole].view(len(frames_NLC), whole, 3, frames_NLC.shape[2])
        self.planes_N3RC[:, :, 1 : 1 + whole].transpose(1, 2).copy_(thirds_NP3C)
        for last in range(3 * whole, self.length):
            self.planes_N3RC[:, last % 3, 1 + whole] = frames_NLC[:, last]
        return self


def empty_frames(rows: int, length: int, channels: int, like: Tensor) -> Frames:
    """Room for frames; those that are outside of the row are zeros."""
    places = -(-length // 3)
    planes_N3RC = like.new_empty(rows, 3, places + 2, channels)
    planes_N3RC[:, :, 0] = 0
    planes_N3RC[:, :, -2:] = 0
    return Frames(planes_N3RC, length)


class Scratch(NamedTuple):
    """Memory of a piece, used again by the next: what stays in the cache need not be fetched."""

    inputs: Tensor
    """Of the five transformed inputs."""
    products: Tensor
    one: Tensor
    """Of one sum."""


def pieces(rows: int, places: int, channels: int) -> Iterator[tuple[slice, int, int]]:
    """Rows, first place (a multiple of 3) and number of places of pieces that a cache holds; several rows if short."""
    most = max(12, PIECE_BYTES * torch.get_num_threads() // (4 * 5 * channels) // 3 * 3)
    if places < most:
        together = most // max(1, places)
        for first in range(0, rows, together):
            yield slice(first, min(rows, first + together)), 0, places
        return
    for row in range(rows):
        for first in range(0, places, most):
            yield slice(row, row + 1), first, min(most, places - first)


class WinogradConv:
    """ReLU(convolution over three frames with zeros around), of every frame or of the greatest of three.

    Args:
        kernel_DC3: float64.
        bias_D: float64.
        dtype: of the frames.
    """

    def __init__(self, kernel_DC3: Tensor, bias_D: Tensor, dtype: torch.dtype) -> None:
        self.factors_5CD = constant(torch.einsum("fk,dck->fcd", KERNEL, kernel_DC3), dtype)
        self.bias_D = constant(bias_D, dtype)
        self.width, self.channels = kernel_DC3.shape[:2]

    def pieces(self, rows: int, places: int) -> tuple[list[tuple[slice, int, int]], Scratch]:
        """The pieces of ``rows`` rows of ``places`` places, and memory for the largest."""
        found = list(pieces(rows, places, self.channels + self.width))
        most = max(((some.stop - some.start) * count for some, _, count in found), default=0)
        room = self.bias_D.new_empty
        return found, Scratch(
            room(5 * most * self.channels), room(5 * most * self.width), room(most * max(self.channels, self.width))
        )

    def pooled(self, frames: Frames) -> Frames:
        """MaxPool of three after the ReLU: L to ⌊L / 3⌋ frames."""
        rows, places = len(frames.planes_N3RC), frames.length // 3
        out = empty_frames(rows, places, self.width, self.bias_D)
        found, scratch = self.pieces(rows, places)
        for some, first, count in found:
            inside_k3RC = frames.planes_N3RC[some, :, first : first + count + 2]
            self.pool_piece(inside_k3RC, out.planes_N3RC[some, :, 1 + first // 3 :], scratch)
        return out

    def full(self, frames: Frames) -> Frames:
        """L frames from L frames."""
        rows = len(frames.planes_N3RC)
        out = empty_frames(rows, frames.length, self.width, self.bias_D)
        places = out.planes_N3RC.shape[2] - 2
        found, scratch = self.pieces(rows, places)
        for some, first, count in found:
            m0, m1, m2, m3, m4 = self._products(frames.planes_N3RC[some, :, first : first + count + 2], scratch)
            sum_kpD = torch.add(m1, m2, out=scratch.one[: m1.numel()].view(m1.shape))
            m0.add_(m3).add_(sum_kpD)
            m1.sub_(m2).add_(m3, alpha=2)
            m4.add_(sum_kpD).add_(m3, alpha=4)
            to_3kpD = out.planes_N3RC[some, :, 1 + first : 1 + first + count].transpose(0, 1)
            for y_kpD, to_kpD in zip((m0, m1, m4), to_3kpD, strict=True):
                torch.clamp_min(y_kpD.add_(self.bias_D), 0, out=to_kpD)
        for outside in range(frames.length, 3 * places):
            out.planes_N3RC[:, outside % 3, 1 + outside // 3] = 0
        return out

    def pool_piece(self, inside_k3RC: Tensor, out_k3RD: Tensor, scratch: Scratch) -> None:
        """Pooled frames of R - 2 places, written to the first ⌈(R - 2) / 3⌉ places of ``out``, zeros behind them."""
        m0, m1, m2, m3, m4 = self._products(inside_k3RC, scratch)
        # The outputs are m0 + s + m3, m1 - m2 + 2 m3 and s + 4 m3 + m4 with s = m1 + m2.
        sum_kpD = torch.add(m1, m2, out=scratch.one[: m1.numel()].view(m1.shape))
        m4.add_(m3, alpha=3)
        torch.maximum(m0, m4, out=m0).add_(sum_kpD).add_(m3)
        m1.sub_(m2).add_(m3, alpha=2)
        torch.maximum(m0, m1, out=m0).add_(self.bias_D)
        rows, count, width = m0.shape
        thirds = -(-count // 3)
        to_kp3D = out_k3RD[:, :, :thirds].transpose(1, 2)
        if count == 3 * thirds:
            torch.clamp_min(m0.view(rows, thirds, 3, width), 0, out=to_kp3D)
            return
        padded_kpD = m0.new_zeros(rows, 3 * thirds, width)
        torch.clamp_min(m0, 0, out=padded_kpD[:, :count])
        to_kp3D.copy_(padded_kpD.view(rows, thirds, 3, width))

    def _products(self, inside_k3RC: Tensor, scratch: Scratch) -> Tensor:
        """The five products of R - 2 places, (5, k, p, D)."""
        rows, count = len(inside_k3RC), inside_k3RC.shape[2] - 2
        first, second, third = inside_k3RC.unbind(1)
        # The five inputs are frames 3p - 1 to 3p + 3.
        d0, d1, d2, d3, d4 = third[:, :-2], first[:, 1:-1], second[:, 1:-1], third[:, 1:-1], first[:, 2:]
        size = rows * count
        v = scratch.inputs[: 5 * size * self.channels].view(5, rows, count, self.channels)
        t = scratch.one[: size * self.channels].view(rows, count, self.channels)
        v0, v1, v2, difference, v4 = v.unbind()
        torch.sub(d3, d1, out=difference)
        torch.sub(d0, d2, out=t)
        torch.add(difference, t, alpha=2, out=v0)
        torch.add(d1, d2, out=t)
        torch.sub(difference, t, out=v1)
        torch.sub(d1, d2, out=t)
        torch.add(difference, t, alpha=3, out=v2)
        torch.sub(d4, d2, out=t)
        torch.sub(t, difference, alpha=2, out=v4)
        m = scratch.products[: 5 * size * self.width].view(5, size, self.width)
        torch.bmm(v.view(5, size, self.channels), self.factors_5CD, out=m)
        return m.view(5, rows, count, self.width)


def folded(blocks: Iterable[nn.Module], dtype: torch.dtype) -> list[WinogradConv]:
    """Blocks that begin with a convolution over three frames, a BatchNorm and ReLU."""
    return [WinogradConv(*fold(block), dtype) for block in blocks]


def pool_through(blocks: Iterable[WinogradConv], frames: Frames) -> Frames:
    """Frames after all blocks, each with a pool of three behind it."""
    for block in blocks:
        frames = block.pooled(frames)
    return frames


def end_through(ends: Iterable[Sequence[WinogradConv]], frames: Frames) -> Tensor:
    """Mean over time of what every end gives, side by side; the last block of an end has no pool behind it."""
    return torch.cat([last.full(pool_through(blocks, frames)).linear().mean(1) for *blocks, last in ends], 1)
