"""SlowFast NFNet-F0 on log-mel slices, the encoder of MULE: a wide path that looks at every fourth frame and a narrow
one that looks at all, with a lateral connection from the fast to the slow one before every stage.

Published (Wang et al. 2022, arXiv:2111.12124, and its released implementation): channels, depths, kernels, strides,
groups, the fusion's 7-frame convolution of stride 4 and its widths, time ratio 4, channel ratio 1/8, scaled GELU,
squeeze-excitation, α = 0.2, stochastic depth up to 0.1. The 1,728 = 1,536 + 192 of MULE (McCallum et al. 2022,
arXiv:2210.03799) is published too. Our reading: the last convolution keeps its width (the release doubles it, which
would give 3,456), padding is symmetric, and the branches of stochastic depth are chosen by the view's content.

Shape suffixes: N views, F bands, S frames, E encoder width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from trainers.encoders.config import check_nfnet_channels
from trainers.encoders.encoder import Encoder
from trainers.encoders.normalizer_free import (
    ALPHA,
    BlockShape,
    NormalizerFreeBlock,
    Pair,
    StandardConv2d,
    activate,
    view_keys,
)

WIDTHS = (1, 2, 6, 6)
"""Channels of the four stages, in units of the first's."""
DEPTHS = (1, 2, 6, 3)
STRIDES: tuple[Pair, ...] = ((1, 1), (2, 1), (2, 1), (2, 1))
"""Of the first block of a stage: stages halve frequency, never time."""
TIME_RATIO = 4
"""Frames of the fast path for one of the slow."""
CHANNEL_RATIO = 8
"""Channels of the slow path for one of the fast."""
FUSED = (2, 8, 16, 32)
"""Channels of the lateral connection before each stage, in units of its first stage's."""
FUSION_KERNEL: Pair = (1, 7)
DROP = 0.1
"""Stochastic depth grows from 0 towards this from the first block to the last."""


@dataclass(frozen=True)
class _Kernels:
    """Kernels of one path, (frequency, time)."""

    stem: tuple[Pair, Pair, Pair, Pair]
    stages: tuple[Pair, Pair, Pair, Pair]


SLOW = _Kernels(((3, 1), (3, 1), (3, 1), (3, 3)), ((1, 1), (1, 1), (1, 3), (1, 3)))
FAST = _Kernels(((3, 3), (3, 1), (3, 1), (3, 3)), ((1, 3), (1, 3), (1, 3), (1, 3)))


class SlowFastNfnet(Encoder):
    """Two normalizer-free ResNets side by side; the mean over time and frequency of each, put together.

    Args:
        channels: of the slow path's first stage, a multiple of 16, ≥ 48; 256 is F0, the width 6.75 times this.
        drop: greatest probability of stochastic depth, in [0, 1).

    Raises:
        ValueError: if ``channels`` or ``drop`` cannot be.
    """

    def __init__(self, channels: int = 256, drop: float = DROP) -> None:
        super().__init__()
        check_nfnet_channels(channels)
        if not 0 <= drop < 1:
            raise ValueError(f"drop must be in [0, 1), got {drop}")
        narrow = channels // CHANNEL_RATIO
        self.slow_stem = _stem(channels // 2, SLOW.stem)
        self.fast_stem = _stem(narrow // 2, FAST.stem)
        self.stages = nn.ModuleList(_Stage(stage, channels, narrow, drop) for stage in range(len(DEPTHS)))
        self.slow_last, self.fast_last = (StandardConv2d(w * WIDTHS[-1], w * WIDTHS[-1]) for w in (channels, narrow))
        self.width = self.slow_last.out_channels + self.fast_last.out_channels

    def forward(self, mel_NFS: Tensor) -> Tensor:
        """Embed log-mel slices (N, F, S) as (N, width), the fast path's part first.

        MULE's slices are (N, 96, 300). Any F and S will do, since both are averaged.
        """
        slow, fast, _ = self.trunk(mel_NFS)
        return _averaged(self.slow_last(slow), self.fast_last(fast))

    def split(self, own_blocks: int) -> nn.Module:
        """Take off the last blocks of the fourth stage in both paths, and the last convolutions; see `Encoder.split`.

        The fourth stage's lateral connection stays.
        """
        stage = self.stages[-1]
        assert isinstance(stage, _Stage)
        end = _End(stage.slow[-own_blocks:], stage.fast[-own_blocks:], self.slow_last, self.fast_last)
        stage.slow, stage.fast = stage.slow[:-own_blocks], stage.fast[:-own_blocks]
        del self.slow_last, self.fast_last
        return end

    def trunk(self, mel_NFS: Tensor) -> tuple[Tensor, Tensor, "Keys"]:
        """Activations of the slow and of the fast path, (N, C, F', S'), and the keys of the last stage."""
        # Evaluation has no stochastic depth, so that it needs no keys.
        keys: Keys = view_keys(mel_NFS, 2 * sum(DEPTHS)).unbind() if self.training else [None] * 2 * sum(DEPTHS)
        x = mel_NFS[:, None]
        slow = self.slow_stem(max_pool2d(x, (1, TIME_RATIO), ceil_mode=True))
        fast = self.fast_stem(x)
        for place, (stage, depth) in enumerate(zip(self.stages, DEPTHS, strict=True)):
            done = 2 * sum(DEPTHS[:place])
            slow, fast = stage(slow, fast, keys[done : done + 2 * depth])
        return slow, fast, keys[-2 * DEPTHS[-1] :]


Keys = Sequence[Tensor | None]
"""Of stochastic depth: of the slow path's blocks, then of the fast one's; None in evaluation."""


class _End(nn.Module):
    """Last blocks of both paths and the last convolutions, then the means."""

    def __init__(self, slow: nn.ModuleList, fast: nn.ModuleList, slow_last: nn.Module, fast_last: nn.Module) -> None:
        super().__init__()
        self.slow, self.fast, self.slow_last, self.fast_last = slow, fast, slow_last, fast_last

    def forward(self, trunk: tuple[Tensor, Tensor, Keys]) -> Tensor:
        """The keys of a block are those that it had in the stage: equal branches leave out the same."""
        slow, fast, keys = trunk
        slow = _path(self.slow, slow, keys[DEPTHS[-1] - len(self.slow) : DEPTHS[-1]])
        fast = _path(self.fast, fast, keys[2 * DEPTHS[-1] - len(self.fast) :])
        return _averaged(self.slow_last(slow), self.fast_last(fast))


def _path(blocks: nn.ModuleList, x: Tensor, keys: Keys) -> Tensor:
    for block, key_N in zip(blocks, keys, strict=True):
        x = block(x, key_N)
    return x


def _averaged(slow: Tensor, fast: Tensor) -> Tensor:
    return torch.cat([activate(end).mean((2, 3)) for end in (fast, slow)], dim=1)


class _Stage(nn.Module):
    """The lateral connection from the fast to the slow path; then the blocks of both, side by side."""

    def __init__(self, stage: int, channels: int, narrow: int, drop: float) -> None:
        super().__init__()
        before, joined = (WIDTHS[stage - 1] if stage else 0.5), narrow * FUSED[stage]
        self.fuse = StandardConv2d(int(narrow * before), joined, FUSION_KERNEL, stride=(1, TIME_RATIO))
        self.slow = nn.ModuleList(_blocks(stage, channels, int(channels * before) + joined, SLOW, drop))
        self.fast = nn.ModuleList(_blocks(stage, narrow, int(narrow * before), FAST, drop))

    def forward(self, slow: Tensor, fast: Tensor, keys: Keys) -> tuple[Tensor, Tensor]:
        """``keys`` are those of all blocks of the stage, also of ones that were taken off."""
        slow = torch.cat([slow, activate(self.fuse(fast))], dim=1)
        depth = len(keys) // 2
        return (
            _path(self.slow, slow, keys[: len(self.slow)]),
            _path(self.fast, fast, keys[depth : depth + len(self.fast)]),
        )


def _blocks(stage: int, channels: int, inside: int, kernels: _Kernels, drop: float) -> Iterator[NormalizerFreeBlock]:
    """A path's blocks of one stage; ``channels`` are those of its first stage."""
    outside = channels * WIDTHS[stage]
    # What arrives left a stage whose first shortcut started from variance 1 and whose every branch added α².
    variance = 1 + ALPHA**2 * DEPTHS[stage - 1] if stage else 1.0
    for place in range(DEPTHS[stage]):
        shape = BlockShape(
            inside=outside if place else inside,
            outside=outside,
            group=channels // 2,
            kernel=kernels.stages[stage],
            stride=(1, 1) if place else STRIDES[stage],
            beta=variance**-0.5,
            drop=drop * (sum(DEPTHS[:stage]) + place) / sum(DEPTHS),
        )
        yield NormalizerFreeBlock(shape)
        variance = (variance if place else 1.0) + ALPHA**2


def _stem(channels: int, kernels: Sequence[Pair]) -> nn.Sequential:
    """Four convolutions from 1 to ``channels`` channels; the first and the last halve frequency and time."""
    widths = [1, *(max(1, channels // share) for share in (8, 4, 2, 1))]
    layers: list[nn.Module] = []
    for place, ((inside, outside), kernel) in enumerate(zip(pairwise(widths), kernels, strict=True)):
        if place:
            layers.append(_Activation())
        layers.append(StandardConv2d(inside, outside, kernel, stride=(2, 2) if place in (0, 3) else (1, 1)))
    return nn.Sequential(*layers)


class _Activation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """The scaled activation as a layer."""
        return activate(x)
