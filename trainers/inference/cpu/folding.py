"""BatchNorm in evaluation mode folded into the convolution before it.

With its running statistics BatchNorm is an affine function of each channel, y = s·x + t: the convolution's kernel takes
the factor and its bias the shift. Both are made in float64.

Shape suffixes: C channels in, D channels out, K taps.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainers.distributed.batch_norm import GlobalNorm

Branches = Sequence[Iterable[nn.Module]]
"""Last blocks of an encoder, once for each of its spaces."""


def fold(block: nn.Module) -> tuple[Tensor, Tensor]:
    """Kernel (D, C, K…) and bias (D) of a convolution with the BatchNorm after it, float64.

    Args:
        block: a Sequential that begins with Conv1d or Conv2d, with or without a bias, and a BatchNorm with running
            statistics, affine or not, which is read as in evaluation mode.
    """
    assert isinstance(block, nn.Sequential)
    conv, norm = block[0], block[1]
    assert isinstance(conv, nn.Conv1d | nn.Conv2d)
    assert isinstance(norm, _BatchNorm | GlobalNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale_D = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale_D = scale_D * norm.weight.double()
    bias_D = -norm.running_mean.double()
    if conv.bias is not None:
        bias_D = bias_D + conv.bias.double()
    bias_D = bias_D * scale_D
    if norm.bias is not None:
        bias_D = bias_D + norm.bias.double()
    shape = (-1, *[1] * (conv.weight.ndim - 1))
    return (conv.weight.double() * scale_D.view(shape)).detach(), bias_D.detach()


def constant(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy of what a network multiplies or adds."""
    return value.detach().to(dtype, copy=True).contiguous()
