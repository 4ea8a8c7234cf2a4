"""Mean and variance of the rows of all ranks, and the normalisation by them, differentiable.

Neither memory nor messages of a rank grow with the ranks: sums are added up over them, nothing is gathered.

Shape suffixes: C channels, G parts of the global batch.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainers.distributed import collectives


class SyncNormalise(torch.autograd.Function):
    """Normalise by the moments of the global batch: one all-reduce forward, one backward.

    Local sums and the normalisation itself are torch's own fused kernels: written out tensor by tensor they cost four
    times as much on a CPU, more than the convolutions between them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The normalised rows, and mean and unbiased variance of the global batch."""
        wide = torch.promote_types(x.dtype, torch.float32)
        mean_C, variance_C = torch.batch_norm_update_stats(x.to(wide), None, None, 0.0)
        count = mean_C.new_tensor(x.numel() // x.shape[1])
        count, mean_C, variance_C = moments_of_ranks(count, mean_C, variance_C)
        unbiased_C = variance_C * count / (count - 1).clamp(min=1)
        mean_C, variance_C, unbiased_C = mean_C.to(wide), variance_C.to(wide), unbiased_C.to(wide)
        y = functional.batch_norm(x, mean_C, variance_C, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean_C, variance_C, count.to(wide))
        ctx.eps, ctx.has_bias = eps, bias is not None
        ctx.mark_non_differentiable(mean_C, unbiased_C)
        return y, mean_C, unbiased_C

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, above: Tensor, _mean: Tensor, _variance: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        """Gradients of the rows, and this rank's part of those of scale and shift."""
        x, weight, mean_C, variance_C, count = ctx.saved_tensors
        # With given statistics the kernel's gradients of scale and shift are the local sums Σ above·x̂ and Σ above.
        _, product_C, sum_C = torch.ops.aten.native_batch_norm_backward(
            above, x, weight, mean_C, variance_C, None, None, False, ctx.eps, [False, True, True]
        )
        sums = torch.stack([sum_C, product_C]).to(mean_C)
        # They are the gradients of shift and scale, which DDP will add up over ranks; only dx needs global ones.
        weight_gradient = None if weight is None else product_C.to(weight)
        bias_gradient = sum_C.clone() if ctx.has_bias else None
        mean_sum_C, mean_product_C = collectives.all_reduce(sums, "sum") / count
        scale_C = (variance_C + ctx.eps).rsqrt()
        factor_C = scale_C if weight is None else scale_C * weight
        # dx = factor·(above − mean of above − x̂·mean of above·x̂)
        gradient = x - _channels(mean_C, x).to(x.dtype)
        gradient.mul_(_channels(-factor_C * scale_C * mean_product_C, x)).sub_(_channels(factor_C * mean_sum_C, x))
        return gradient.addcmul_(above, _channels(factor_C, x).to(x.dtype)), weight_gradient, bias_gradient, None


def moments_of_ranks(count: Tensor, mean_C: Tensor, variance_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and biased variance of the values of all ranks, float64, from those of this one.

    2·C + 1 numbers are summed. The squares of the means are taken away again at the end. In float64 that costs a
    float32 result nothing until the mean is some 10,000 times the spread, where float32 values have lost more.
    """
    count, mean_C = count.double(), mean_C.double()
    sums = torch.cat([count[None], count * mean_C, count * (variance_C.double() + mean_C**2)])
    sums = collectives.all_reduce(sums, "sum")
    mean_C, square_C = (sums[1:] / sums[0]).chunk(2)
    return sums[0], mean_C, (square_C - mean_C**2).clamp(min=0)


def pooled_moments(count_G1: Tensor, mean_GC: Tensor, variance_GC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and biased variance of all values of G parts, float64, from those of each, by Chan's formula."""
    count = count_G1.double().sum()
    share_G1, mean_GC = count_G1.double() / count, mean_GC.double()
    mean_C = (share_G1 * mean_GC).sum(0)
    return count, mean_C, (share_G1 * (variance_GC.double() + (mean_GC - mean_C) ** 2)).sum(0)


def _channels(vector_C: Tensor, x: Tensor) -> Tensor:
    return vector_C.view(1, -1, *(1,) * (x.ndim - 2))
