"""Which encoders have an equivalent for a CPU without gradients, and when it is taken."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainers.encoders.branched import Branched
from trainers.encoders.mel_cnn import MelCnn
from trainers.encoders.sample_cnn import SHORTEST as SAMPLE_CNN_SHORTEST
from trainers.encoders.sample_cnn import SampleCnn
from trainers.encoders.tune_plus import SHORTEST as TUNE_PLUS_SHORTEST
from trainers.encoders.tune_plus import TunePlus
from trainers.inference.cpu.folding import Branches
from trainers.inference.cpu.mel_cnn import FoldedMelCnn
from trainers.inference.cpu.sample_cnn import FoldedSampleCnn
from trainers.inference.cpu.tune_plus import FoldedTunePlus

Network = Callable[[Tensor], Tensor]

FOLDED: dict[type[nn.Module], Callable[[Any, Branches | None, torch.dtype], Network]] = {
    SampleCnn: FoldedSampleCnn,
    TunePlus: FoldedTunePlus,
    MelCnn: FoldedMelCnn,
}
SHORTEST: dict[type[nn.Module], int] = {SampleCnn: SAMPLE_CNN_SHORTEST, TunePlus: TUNE_PLUS_SHORTEST}
"""Samples of the shortest view; for a shorter one the plain layers raise their error."""


def fold_encoder(encoder: nn.Module, dtype: torch.dtype = torch.float32) -> Network | None:
    """The same function of views by operations for a CPU; None for an encoder that has none.

    It holds copies of the weights, and later changes of the encoder do not reach it.
    """
    branches: Any = list(encoder.branches.values()) if isinstance(encoder, Branched) else None
    network = encoder.network if isinstance(encoder, Branched) else encoder
    make = FOLDED.get(type(network))
    return None if make is None else make(network, branches, dtype)


class CpuPath:
    """An encoder's equivalent, made when it is first needed and again after its weights changed."""

    def __init__(self, encoder: nn.Module) -> None:
        network = encoder.network if isinstance(encoder, Branched) else encoder
        self._encoder = encoder
        self._shortest = SHORTEST.get(type(network), 1)
        self._made: tuple[Any, Network | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # oneDNN's layout cannot be pickled; a worker makes it again

    def network(self, views: Tensor) -> Network:
        """What to call with these views: the equivalent for float32 on a CPU, otherwise the encoder itself."""
        is_plain = views.device.type != "cpu" or views.dtype != torch.float32 or torch.compiler.is_compiling()
        if is_plain or views.shape[-1] < self._shortest or torch.is_autocast_enabled("cpu"):
            return self._encoder
        state = [_state(tensor) for tensor in (*self._encoder.parameters(), *self._encoder.buffers())]
        if self._made is None or self._made[0] != state:
            self._made = (state, fold_encoder(self._encoder))
        return self._made[1] or self._encoder


def _state(tensor: Tensor) -> tuple[int, int]:
    """Changes with every change in place; inference tensors cannot be changed."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
