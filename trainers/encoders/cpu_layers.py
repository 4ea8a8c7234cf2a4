"""Layers of a waveform encoder's training step on a CPU, where memory takes half of the time: frames before channels.

BatchNorm, ReLU and MaxPool written out read and write the activations of the full length seven times, and keep three
copies and int64 indices for backward. But ReLU and an increasing affine function commute with a maximum. So the pool
comes first, the affine function and ReLU work on a third of the data, and only the convolution's output is kept; the
gradient overwrites it. Convolutions are oneDNN's on channels last, but for the float32 gradient of a kernel, which is
three matrix products here and takes half the time. Values and gradients are those of the plain layers up to rounding.

Shape suffixes: N views, L frames, P = ⌊L / 3⌋ pooled frames, C channels, K numbers of a frame; p, l of a piece.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainers.distributed.batch_norm import GlobalNorm
from trainers.distributed.global_moments import pooled_moments

POOL = 3
PIECE = 243
"""Pooled frames at once: 373 kB of 128 channels in float32, which the second-level cache holds."""
LONG = POOL * PIECE
"""Frames at once."""


def rising(weight_C: Tensor) -> Tensor:
    """±1 a channel, to turn what comes in and the scale with, so that the scale is not negative."""
    return torch.where(weight_C < 0, -1.0, 1.0).detach()


def norm_relu_pool(y_NLC: Tensor, weight_C: Tensor, bias_C: Tensor, norm: GlobalNorm) -> tuple[Tensor, Tensor, Tensor]:
    """MaxPool(ReLU(BatchNorm(y))) over pieces of three frames, by the statistics of this batch.

    Args:
        y_NLC: contiguous, not used elsewhere: backward writes into it, and a second backward raises an error.
        weight_C: scale, ≥ 0.
        bias_C: shift.
        norm: whose constant is added to the variance, and whose ranks share it.

    Returns:
        Pooled (N, P, C) in the type of ``y``, mean and unbiased variance (C), not differentiable.
    """
    z_NPC, mean_C, variance_C = _NormReluPool.apply(y_NLC, weight_C, bias_C, norm)
    return z_NPC, mean_C, variance_C


def convolve(x_NLC: Tensor, kernel_DC3: Tensor, bias_D: Tensor) -> Tensor:
    """Convolution over three frames to (N, L, D), in front of a BatchNorm: its bias gets no gradient, for none acts."""
    y_NLD: Tensor = _Convolve.apply(x_NLC, kernel_DC3, bias_D)
    return y_NLD


def linear_relu(x_NLK: Tensor, map_KC: Tensor) -> Tensor:
    """ReLU(x · map) of rows that need no gradient, view by view; bfloat16 under autocast."""
    z_NLC: Tensor = _LinearRelu.apply(x_NLK, map_KC)
    return z_NLC


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NLC: Tensor, kernel_DC3: Tensor, bias_D: Tensor) -> Tensor:
        y = functional.conv2d(_image(x_NLC), _kernel(kernel_DC3), bias_D, padding=(0, 1))
        ctx.save_for_backward(x_NLC, kernel_DC3)
        return y.squeeze(2).mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above_NLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_NLC, kernel_DC3 = ctx.saved_tensors
        above_NLD = above_NLD.contiguous()
        x_NLC = x_NLC.to(above_NLD.dtype)
        by_products = above_NLD.dtype == torch.float32
        dx, kernel, _ = torch.ops.aten.convolution_backward(
            _image(above_NLD),
            _image(x_NLC),
            _kernel(kernel_DC3).to(above_NLD.dtype),
            *(None, [1, 1], [0, 1], [1, 1], False, [0, 0], 1),
            [True, not by_products, False],
        )
        gradient_DC3 = _kernel_gradient(above_NLD, x_NLC) if by_products else kernel.squeeze(2).to(kernel_DC3.dtype)
        return dx.squeeze(2).mT, gradient_DC3, kernel_DC3.new_zeros(len(kernel_DC3))


def _kernel_gradient(above_NLD: Tensor, x_NLC: Tensor) -> Tensor:
    """A product of the output's gradient and the input for each of the three taps of a kernel."""
    taps_3DC = x_NLC.new_zeros(3, above_NLD.shape[2], x_NLC.shape[2])
    for above_LD, x_LC in zip(above_NLD, x_NLC, strict=True):
        taps_3DC[0].addmm_(above_LD[1:].mT, x_LC[:-1])
        taps_3DC[1].addmm_(above_LD.mT, x_LC)
        taps_3DC[2].addmm_(above_LD[:-1].mT, x_LC[1:])
    return taps_3DC.permute(1, 2, 0)


def _image(x_NLC: Tensor) -> Tensor:
    """The same memory as (N, C, 1, L), channels last."""
    return x_NLC.mT[:, :, None]


def _kernel(kernel_DC3: Tensor) -> Tensor:
    return kernel_DC3[:, :, None].contiguous(memory_format=torch.channels_last)


class _LinearRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NLK: Tensor, map_KC: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_NLK.dtype
        z_NLC = x_NLK.new_empty(*x_NLK.shape[:2], map_KC.shape[1], dtype=dtype)
        with torch.autocast("cpu", enabled=False):
            for x_LK, z_LC in zip(x_NLK, z_NLC, strict=True):
                torch.mm(x_LK.to(dtype), map_KC.to(dtype), out=z_LC).relu_()
        ctx.save_for_backward(x_NLK, z_NLC)
        return z_NLC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above_NLC: Tensor) -> tuple[None, Tensor]:
        x_NLK, z_NLC = ctx.saved_tensors
        gradient_KC = x_NLK.new_zeros(x_NLK.shape[2], z_NLC.shape[2])
        for x_LK, z_LC, above_LC in zip(x_NLK, z_NLC, above_NLC, strict=True):
            for first in range(0, len(x_LK), LONG):
                piece = slice(first, first + LONG)
                live_lC = torch.ops.aten.threshold_backward(above_LC[piece], z_LC[piece], 0)
                gradient_KC.addmm_(x_LK[piece].mT, live_lC.float())
        return None, gradient_KC


class _NormReluPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y_NLC: Tensor, weight_C: Tensor, bias_C: Tensor, norm: GlobalNorm
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, mean_C, variance_C = _moments(y_NLC, norm)
        scale_C = (variance_C + norm.eps).rsqrt() * weight_C
        shift_C = bias_C - mean_C * scale_C
        z_NPC = y_NLC.new_empty(len(y_NLC), y_NLC.shape[1] // POOL, y_NLC.shape[2])
        for y_p3C, z_pC in _pieces(y_NLC, z_NPC):
            z_pC.copy_((_top(y_p3C) * scale_C).add_(shift_C).relu_())
        ctx.save_for_backward(y_NLC, z_NPC, weight_C, mean_C, variance_C)
        ctx.norm, ctx.count = norm, count
        unbiased_C = variance_C * (count / (count - 1))
        ctx.mark_non_differentiable(mean_C, unbiased_C)
        return z_NPC, mean_C, unbiased_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above_NPC: Tensor, _mean: Tensor, _variance: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        y_NLC, z_NPC, weight_C, mean_C, variance_C = ctx.saved_tensors
        inverse_C = (variance_C + ctx.norm.eps).rsqrt()
        live_NPC = torch.ops.aten.threshold_backward(above_NPC.contiguous(), z_NPC, 0)
        sum_C, product_C = torch.zeros(2, len(mean_C), dtype=torch.float64)
        for y_p3C, live_pC in _pieces(y_NLC, live_NPC):
            sum_C += live_pC.sum(0, dtype=torch.float32)
            product_C += (_top(y_p3C) - mean_C).mul_(live_pC).sum(0)
        product_C = product_C * inverse_C
        # Those of this rank are the gradients of shift and scale, which DDP adds up; only dy needs those of all.
        every_sum_C, every_product_C = ctx.norm.total(torch.stack([sum_C, product_C])) / ctx.count
        # dy = scale·(above − mean of above − ŷ·mean of above·ŷ): a line in y everywhere, above only at the maxima.
        scale_C = inverse_C * weight_C
        slope_C = (-scale_C * inverse_C * every_product_C).to(mean_C)
        offset_C = (-scale_C * every_sum_C - slope_C * mean_C).to(mean_C)
        for y_p3C, live_pC in _pieces(y_NLC, live_NPC):
            _gradient(y_p3C, live_pC * scale_C, slope_C, offset_C)
        left = y_NLC[:, POOL * z_NPC.shape[1] :]  # the frames after the last pool
        left.copy_(left * slope_C + offset_C)
        return y_NLC, product_C.to(weight_C), sum_C.to(weight_C), None


def _moments(y_NLC: Tensor, norm: GlobalNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Frames of all ranks; mean and biased variance of each channel, float32, from those of pieces.

    torch's kernel for channels last adds frame after frame; over millions of frames that costs three digits.
    """
    rows_KC = y_NLC.flatten(0, 1)
    pieces = [rows_KC[first : first + LONG] for first in range(0, len(rows_KC), LONG)]
    moments = [torch.batch_norm_update_stats(piece_kC, None, None, 0.0) for piece_kC in pieces]
    count_G1 = torch.tensor([[len(piece)] for piece in pieces])
    count, mean_C, variance_C = pooled_moments(count_G1, *(torch.stack(parts) for parts in zip(*moments, strict=True)))
    count, mean_C, variance_C = norm.moments(count, mean_C, variance_C)
    return count, mean_C.float(), variance_C.float()


def _gradient(y_p3C: Tensor, live_pC: Tensor, slope_C: Tensor, offset_C: Tensor) -> None:
    """Write dy over y: the line everywhere, and what comes from above at the first of the greatest."""
    first, second, _ = y_p3C.unbind(1)
    top_pC = _top(y_p3C)
    at_first = first == top_pC
    at_second = (second == top_pC).logical_and_(~at_first)
    parts = [live_pC * at_first, live_pC * at_second]
    line_p3C = y_p3C.float().mul_(slope_C).add_(offset_C)  # y itself where it is float32
    line_p3C[:, 0] += parts[0]
    line_p3C[:, 1] += parts[1]
    line_p3C[:, 2] += live_pC.sub_(parts[0]).sub_(parts[1])
    y_p3C.copy_(line_p3C)


def _top(y_p3C: Tensor) -> Tensor:
    first, second, third = y_p3C.unbind(1)
    return torch.maximum(torch.maximum(first, second), third)


def _pieces(y_NLC: Tensor, pooled_NPC: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of both that fit into a cache, (p, 3, C) and (p, C), views of what they are part of."""
    pooled = pooled_NPC.shape[1]
    for y_LC, pooled_PC in zip(y_NLC, pooled_NPC, strict=True):
        threes_P3C = y_LC[: POOL * pooled].view(pooled, POOL, -1)
        yield from zip(threes_P3C.split(PIECE), pooled_PC.split(PIECE), strict=True)
