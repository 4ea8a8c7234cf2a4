"""SampleCNN: a convolutional network on the raw waveform, the main encoder of the paper.

On a CPU a training step computes the same numbers by `cpu_layers`: frames before channels in memory (N, L, C), which
suits the convolutions' kernels; the stem and its BatchNorm as one product; BatchNorm, ReLU and MaxPool as one
operation. The statistics of BatchNorm are sums over all ranks.

Shape suffixes: N views, T samples, L frames, C channels, E encoder width.
Source: Lee et al. 2017 (arXiv:1703.01789), as in Guinot et al. 2024 (arXiv:2407.13840).
"""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.distributed.batch_norm import GlobalNorm, MicroBatchNorm
from trainers.encoders.cpu_layers import convolve, linear_relu, norm_relu_pool, rising
from trainers.encoders.encoder import Encoder

STEM = 128
CHANNELS = (128, 128, 256, 256, 256, 256, 256, 256, 512)
"""Of the nine blocks; each divides the length by three."""
SHORTEST = 3 ** (len(CHANNELS) + 1)
"""Samples that the blocks bring down to one frame: 3^10."""


class SampleCnn(Encoder):
    """Stem of stride 3, nine blocks [Conv k3, BatchNorm, ReLU, MaxPool 3], one last convolution; the mean over time.

    59,049 = 3^10 samples end in one frame, 59,535 (the released code's crop) too; longer views are averaged.
    """

    width = 512
    has_cpu_kernels = True

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Stem(nn.Conv1d(1, STEM, kernel_size=3, stride=3), nn.BatchNorm1d(STEM), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(
            *(
                _Block(*_convolution(inside, outside), nn.MaxPool1d(3))
                for inside, outside in zip((STEM, *CHANNELS), CHANNELS, strict=False)
            )
        )
        self.last = nn.Sequential(*_convolution(CHANNELS[-1], self.width))

    def forward(self, wave_NT: Tensor) -> Tensor:
        """Embed waveforms (N, T), T ≥ 59,049, as (N, 512). Raises ValueError if they are too short."""
        return torch.mean(self.last(self.trunk(wave_NT)), dim=2)

    def split(self, own_blocks: int) -> nn.Module:
        """Take off the last convolution, which counts as one, and blocks before it; see `Encoder.split`."""
        kept = len(self.blocks) - (own_blocks - 1)
        end = _End(*self.blocks[kept:], self.last)
        self.blocks = self.blocks[:kept]
        del self.last
        return end

    def trunk(self, wave_NT: Tensor) -> Tensor:
        """Frames of the blocks, (N, C, L). Raises ValueError if the views are too short."""
        if wave_NT.ndim != 2 or wave_NT.shape[1] < SHORTEST:
            raise ValueError(f"SampleCNN needs views (N, T ≥ {SHORTEST}), got {tuple(wave_NT.shape)}")
        frames: Tensor = self.blocks(self.stem(wave_NT[:, None]))
        return frames


class _End(nn.Sequential):
    """Last blocks, then the mean over time."""

    def forward(self, x_NCL: Tensor) -> Tensor:
        return torch.mean(_plain(self, x_NCL), dim=2)


def _convolution(inside: int, outside: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Conv1d(inside, outside, kernel_size=3, padding=1), nn.BatchNorm1d(outside), nn.ReLU(inplace=True)


class _Stem(nn.Sequential):
    """Convolution of stride 3, BatchNorm, ReLU."""

    def forward(self, wave_N1T: Tensor) -> Tensor:
        """(N, 1, T) to (N, C, L).

        Three samples make a frame and no frame shares any, so the layer is linear in three numbers. Mean and
        covariance of those give its BatchNorm's statistics, and what is normalised is never written down.
        """
        conv, norm = self[0], self[1]
        assert isinstance(conv, nn.Conv1d)
        assert conv.bias is not None
        if not _has_cpu_kernels(norm, wave_N1T) or wave_N1T.requires_grad:
            return _plain(self, wave_N1T)
        assert norm.weight is not None
        assert norm.bias is not None
        num_frames = wave_N1T.shape[2] // 3
        frames_NL3 = wave_N1T[:, 0, : 3 * num_frames].reshape(-1, num_frames, 3)
        with torch.autocast("cpu", enabled=False):
            # Neighbouring samples are nearly equal, so a filter's variance is a small difference: float64.
            taps_C3 = conv.weight[:, 0].double()
            sum_3 = frames_NL3.sum((0, 1), dtype=torch.float64)
            *total, count = norm.total(torch.cat([sum_3, sum_3.new_tensor([len(frames_NL3) * num_frames])]))
            mean_3 = torch.stack(total) / count
            centred_NL3 = frames_NL3 - mean_3
            rows_K3 = centred_NL3.flatten(0, 1)
            covariance_33 = norm.total(rows_K3.mT @ rows_K3) / count
            variance_C = (taps_C3 @ covariance_33 * taps_C3).sum(1)
            unbiased_C = variance_C * (count / (count - 1))
            norm.collect((taps_C3 @ mean_3 + conv.bias).float()[None], unbiased_C.float()[None])
            scale_C = (variance_C + norm.eps).rsqrt() * norm.weight
            shift_C = norm.bias + 0 * conv.bias  # BatchNorm takes that bias away again: a gradient of zeros
            map_4C = torch.cat([taps_C3.mT * scale_C, shift_C[None]]).float()
        return linear_relu(functional.pad(centred_NL3.float(), (0, 1), value=1.0), map_4C).mT


class _Block(nn.Sequential):
    """Convolution, BatchNorm, ReLU, MaxPool 3."""

    def forward(self, x_NCL: Tensor) -> Tensor:
        """(N, C, L) to (N, C', ⌊L / 3⌋), channels last in memory where `cpu_layers` computes it."""
        conv, norm = self[0], self[1]
        assert isinstance(conv, nn.Conv1d)
        assert conv.bias is not None
        if not _has_cpu_kernels(norm, x_NCL):
            return _plain(self, x_NCL)
        assert norm.weight is not None
        assert norm.bias is not None
        sign_C = rising(norm.weight)
        y_NLC = convolve(x_NCL.mT.contiguous(), conv.weight * sign_C[:, None, None], conv.bias * sign_C)
        z_NPC, mean_C, variance_C = norm_relu_pool(y_NLC, norm.weight * sign_C, norm.bias, norm)
        norm.collect((mean_C * sign_C)[None], variance_C[None])
        return z_NPC.mT


def _plain(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _has_cpu_kernels(norm: nn.Module, x: Tensor) -> TypeGuard[GlobalNorm]:
    """Whether this is a training step on a CPU whose BatchNorm has these rows in one batch."""
    if not (isinstance(norm, GlobalNorm) and norm.training and x.device.type == "cpu" and norm.weight is not None):
        return False
    if torch.compiler.is_compiling() or x.dtype == torch.float64:
        return False
    return not isinstance(norm, MicroBatchNorm) or norm.rows in (None, len(x))
