"""Bytes of device memory that the augmentation chain moves a clip, before anything is measured: what to fuse.

The eager chain is counted by running it on tensors without data: every operation reads its inputs and writes its
results. The fused one is counted from its kernels. A transform longer than 4,096 samples is taken to go through memory
twice; torch copies a spectrum that it inverts to real samples, and scales the result in a pass of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainers.augment.chain import AugmentChain
from trainers.augment.drawing import ViewParameters
from trainers.augment.dsp.resampling import SPLINE_REACH
from trainers.augment.dsp.spectral import transform_length
from trainers.augment.parameters import AugmentConfig
from trainers.augment.passes import FRAME, HOP

CACHED_TRANSFORM = 4096
"""Samples of the longest transform that goes through memory once."""


class ByteCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts what operations on tensors of a device read and write; views of a tensor cost nothing."""

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.bytes = device, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        written = self._tensors(out)
        if written and not func.is_view:
            moved = self._tensors((args, kwargs))
            size = sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in [*moved, *written])
            if "fft" in func.__name__:
                size *= 1 + (max(t.shape[-1] for t in [*moved, *written]) > CACHED_TRANSFORM)
            if "fft_c2r" in func.__name__:
                size += 2 * sum(t.nbytes for t in moved) + 2 * sum(t.nbytes for t in written)
            if "index_select" in func.__name__ or "gather" in func.__name__:
                size = sum(2 * t.nbytes for t in written) + moved[-1].nbytes  # only what was chosen is read
            self.bytes += size
        return out

    def _tensors(self, tree: Any) -> list[Tensor]:
        return [x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.device.type == self.device]


@contextmanager
def no_tables() -> Iterator[None]:
    """Tables are made once, not a batch: leave none on the device without data behind."""
    from trainers.augment.dsp import spectral

    caches = (spectral.edge_table, spectral._four_phases, spectral.log_frequencies)
    try:
        yield
    finally:
        for cache in caches:
            cache.cache_clear()


def eager_bytes(config: AugmentConfig, drawn: ViewParameters, num_samples: int, sample_rate: int) -> float:
    """A clip's share of what `AugmentChain.apply` moves in torch's own operations."""
    wave = torch.empty(len(drawn.gain), num_samples, device="meta")
    chain = AugmentChain(config, sample_rate, fused=False)
    with no_tables():
        chain.apply(wave, drawn)  # makes the tables
        with ByteCounter("meta") as counter:
            chain.apply(wave, drawn)
    return float(counter.bytes / len(wave))


def fused_bytes(config: AugmentConfig, drawn: ViewParameters, num_samples: int, *, bytes_a_sample: int = 4) -> float:
    """A clip's share of what the kernels of `trainers.augment.fused` move, from ``bytes_a_sample`` of input."""
    n, wave = len(drawn.gain), 4 * num_samples
    noisy, filtered = drawn.snr_db < torch.inf, drawn.filter_kind > 0
    moved = (drawn.pitch_ratio != 1) | (drawn.tempo != 1)
    ratios = drawn.pitch_ratio[moved].tolist()
    pitch = sum(_vocoder_bytes(ratio, num_samples, FRAME[config.quality]) for ratio in ratios)
    spectrum = 4 * transform_length(num_samples)
    alone, both = int((noisy & ~filtered).sum()), int(filtered.sum())
    shaping = int(noisy.sum()) * wave + alone * (5 * spectrum + 3 * wave) + both * (11 * spectrum + 3 * wave)
    read, write = num_samples * bytes_a_sample + wave, 2 * wave
    return (pitch + shaping) / n + read + write


def _vocoder_bytes(ratio: float, num_samples: int, n_fft: int) -> int:
    """Frames, transform, turning, inverse, overlap, reading of one row."""
    analysed = (num_samples + n_fft // 2 + n_fft) // HOP + 1
    moved = ceil((num_samples * ratio + SPLINE_REACH) / HOP) + 2
    frames_in, frames_out = 4 * n_fft * analysed, 4 * n_fft * moved
    return 2 * 4 * num_samples + 4 * frames_in + 4 * frames_out + 2 * 4 * HOP * moved
