"""Layers of normalizer-free networks: variance is kept by construction, so no row of a batch depends on another.

Shape suffixes: N views, C channels, F bands, S frames.
Source: Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization" (arXiv:2102.06171)
and "Characterizing signal propagation …" (arXiv:2101.08692).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

GAIN = 1.7015043497085571
"""1 / √Var[GELU(z)] for z ~ N(0, 1) (tanh form): the scaled activation has variance 1."""
ALPHA = 0.2
"""Weight of a residual branch: each block adds α² to the variance of the stream."""
SQUEEZE = 0.5
"""Hidden share of the channels in squeeze-excitation."""
Pair = tuple[int, int]
"""Of the axes (frequency, time)."""


def activate(x: Tensor) -> Tensor:
    """GELU scaled to keep unit variance."""
    active: Tensor = functional.gelu(x, approximate="tanh")
    scaled: Tensor = GAIN * active
    return scaled


class StandardConv2d(nn.Conv2d):
    """Convolution by standardised weights: Ŵ = gain · (W − mean) / √(fan-in · variance), per output channel.

    With rows of mean zero and norm 1 an input of unit variance leaves with unit variance, and its mean is taken away.
    """

    EPS = 1e-4

    def __init__(
        self, inside: int, outside: int, kernel: Pair = (1, 1), *, stride: Pair = (1, 1), groups: int = 1
    ) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2)
        super().__init__(inside, outside, kernel, stride=stride, padding=padding, groups=groups)
        self.gain = nn.Parameter(torch.ones(outside))
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, F, S) to (N, C', ⌈F/stride⌉, ⌈S/stride⌉)."""
        flat = self.weight.flatten(1)
        variance, mean = torch.var_mean(flat, 1, correction=0, keepdim=True)
        scale = (variance * flat.shape[1]).clamp(min=self.EPS).rsqrt() * self.gain[:, None]
        weight: Tensor = ((flat - mean) * scale).view_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class SqueezeExcite(nn.Module):
    """A factor in (0, 2) for each channel from the means of all; 1 on average at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, int(channels * SQUEEZE))
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh (N, C, F, S) by channel."""
        factor_NC = 2 * torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean((2, 3))))))
        return x * factor_NC[:, :, None, None]


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """What distinguishes a block from its neighbours."""

    inside: int
    """Channels that come in."""
    outside: int
    """Channels that go out; the bottleneck has half as many."""
    group: int
    """Channels of a group in the two wide convolutions."""
    kernel: Pair
    """Of the first wide convolution; the second is 3 × 1, along frequency."""
    stride: Pair = (1, 1)
    """Of the first wide convolution."""
    beta: float
    """1 / expected standard deviation of what comes in."""
    drop: float
    """Probability that training leaves out the branch for a view (stochastic depth)."""


class NormalizerFreeBlock(nn.Module):
    """h + α · skip gain · branch(activate(h) / expected std), the branch a grouped bottleneck with squeeze-excitation.

    Where shape changes, the shortcut is a 1 × 1 convolution of the (average-pooled) activated input instead of h: that
    sets the variance back to 1. The skip gain starts at 0 (skip-init), so a fresh network is its shortcuts alone.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        middle = shape.outside // 2
        groups = middle // shape.group
        self.narrow = StandardConv2d(shape.inside, middle)
        self.first = StandardConv2d(middle, middle, shape.kernel, stride=shape.stride, groups=groups)
        self.second = StandardConv2d(middle, middle, (3, 1), groups=groups)
        self.widen = StandardConv2d(middle, shape.outside)
        self.excite = SqueezeExcite(shape.outside)
        self.skip_gain = nn.Parameter(torch.zeros(()))
        changes = shape.inside != shape.outside or shape.stride != (1, 1)
        self.shortcut = StandardConv2d(shape.inside, shape.outside) if changes else None
        self.pool = nn.AvgPool2d(shape.stride, ceil_mode=True, count_include_pad=False)

    def forward(self, x: Tensor, key_N: Tensor | None = None) -> Tensor:
        """(N, C, F, S) to (N, C', F', S); in training a key for each view decides whether it takes the branch."""
        active = activate(x) * self.shape.beta
        short = x if self.shortcut is None else self.shortcut(self.pool(active))
        branch = self.second(activate(self.first(activate(self.narrow(active)))))
        branch = self.excite(self.widen(activate(branch)))
        if key_N is not None and self.shape.drop:
            kept_N = uniform(key_N) >= self.shape.drop
            branch = branch * kept_N.to(branch.dtype)[:, None, None, None]
        out: Tensor = short + ALPHA * self.skip_gain * branch
        return out


def view_keys(mel_NFS: Tensor, num_blocks: int) -> Tensor:
    """int64 of shape (num_blocks, N): a key for every block and view, a function of what the view holds.

    Stochastic depth draws from these and from no generator: both passes of gradient caching, a resumed run and any
    split over ranks leave out the same branches. The key sees a view's mean to 2^-16, not its last bits.
    """
    key_N = (mel_NFS.detach().double().mean((1, 2)) * 2.0**16).round().to(torch.int64)
    block_K = torch.arange(1, num_blocks + 1, device=key_N.device, dtype=torch.int64)
    return key_N[None] * _ODD + block_K[:, None] * _WEYL


def uniform(key: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, spread evenly by the finaliser of SplitMix64.

    >>> found = uniform(torch.arange(100_000))
    >>> abs(found.mean().item() - 0.5) < 0.01, abs(found.var().item() - 1 / 12) < 0.001
    (True, True)
    """
    mixed = (key ^ (key >> 30)) * _MIX_A
    mixed = (mixed ^ (mixed >> 27)) * _MIX_B
    bits: Tensor = (mixed ^ (mixed >> 31)) & (2**53 - 1)
    value: Tensor = bits.double() * 2.0**-53
    return value


def _signed(value: int) -> int:
    """The two's complement that torch's int64 arithmetic wraps around to."""
    return value - 2**64 if value >= 2**63 else value


_ODD, _WEYL = _signed(0xD1342543DE82EF95), _signed(0x9E3779B97F4A7C15)
_MIX_A, _MIX_B = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)
