"""The log-mel front-end without gradients on a CPU: products of the bins alone that a few neighbouring bands read.

The plain front-end multiplies every bin by every band, of which all but 3% are zeros, and its log1p takes eight times
as long as a logarithm. log(1 + x) differs from log1p(x) by no more than float32's rounding of 1 + x, 6e-8.

Shape suffixes: N rows, n rows of a part, T samples, F bands, S frames, K bins.
"""

import torch
from torch import Tensor

from trainers.frontends.frontend import LogMel
from trainers.inference.cpu.folding import constant

BANDS = 16
"""Neighbouring bands of a product."""


class FoldedLogMel:
    """The same views up to rounding.

    Args:
        mel: whose spectra and bands are read.
        dtype: of the waves.
    """

    def __init__(self, mel: LogMel, dtype: torch.dtype) -> None:
        self.mel = mel
        filters_FK = mel.config.compression * mel.filters_FK.double()
        self.num_mels = len(filters_FK)
        self.products: list[tuple[slice, slice, Tensor]] = []
        for first in range(0, self.num_mels, BANDS):
            bands = slice(first, first + BANDS)
            (read,) = filters_FK[bands].any(0).nonzero(as_tuple=True)
            bins = slice(int(read[0]), int(read[-1]) + 1) if len(read) else slice(0, 0)
            self.products.append((bands, bins, constant(filters_FK[bands, bins], dtype)))

    def __call__(self, wave_NT: Tensor) -> Tensor:
        """Log-mel spectrogram (N, F, S) of waves (N, T), S = 1 + T // hop."""
        frames = 1 + wave_NT.shape[1] // self.mel.config.hop
        out_NFS = wave_NT.new_empty(len(wave_NT), self.num_mels, frames)
        rows = torch.get_num_threads()  # a row's spectra each: what the network holds in the cache stays there
        for part_nT, out_nFS in zip(torch.split(wave_NT, rows), torch.split(out_NFS, rows), strict=True):
            power_nKS = self.mel.power(part_nT)
            for bands, bins, filters in self.products:
                torch.matmul(filters, power_nKS[:, bins], out=out_nFS[:, bands])
        return out_NFS.add_(1).log_()
