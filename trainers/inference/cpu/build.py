"""Which encoders and front-ends have an equivalent for a CPU without gradients, and when it is taken."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainers.encoders.branched import Branched
from trainers.encoders.mel_cnn import MelCnn
from trainers.encoders.sample_cnn import SHORTEST as SAMPLE_CNN_SHORTEST
from trainers.encoders.sample_cnn import SampleCnn
from trainers.encoders.tune_plus import SHORTEST as TUNE_PLUS_SHORTEST
from trainers.encoders.tune_plus import TunePlus
from trainers.frontends.frontend import LogMel
from trainers.inference.cpu.chunks import PLAIN_ROWS
from trainers.inference.cpu.folding import Branches
from trainers.inference.cpu.log_mel import FoldedLogMel
from trainers.inference.cpu.mel_cnn import FoldedMelCnn
from trainers.inference.cpu.sample_cnn import FoldedSampleCnn
from trainers.inference.cpu.tune_plus import FoldedTunePlus

Network = Callable[[Tensor], Tensor]


class Equivalent(NamedTuple):
    """What takes an encoder's place."""

    make: Callable[[Any, Branches | None, torch.dtype], Network]
    rows: int
    """Views at once, as many as it is fastest with. 8 against 4: Mel-CNN takes .93 of the time, SampleCNN .98. 16
    against 8: TUNe+ takes .98, for the weights of its tail are read once for all."""
    shortest: int
    """Samples of the shortest view; for a shorter one the plain layers raise their error."""


FOLDED: dict[type[nn.Module], Equivalent] = {
    SampleCnn: Equivalent(FoldedSampleCnn, 8, SAMPLE_CNN_SHORTEST),
    TunePlus: Equivalent(FoldedTunePlus, 16, TUNE_PLUS_SHORTEST),
    MelCnn: Equivalent(FoldedMelCnn, 8, 1),
}


def fold_encoder(encoder: nn.Module, dtype: torch.dtype = torch.float32) -> Network | None:
    """The same function of views by operations for a CPU; None for an encoder that has none.

    It holds copies of the weights, and later changes of the encoder do not reach it.
    """
    branches: Any = list(encoder.branches.values()) if isinstance(encoder, Branched) else None
    network = encoder.network if isinstance(encoder, Branched) else encoder
    found = FOLDED.get(type(network))
    return None if found is None else found.make(network, branches, dtype)


class CpuPath:
    """Equivalents of a front-end and an encoder, made when needed; the encoder's again after its weights changed."""

    def __init__(self, encoder: nn.Module, frontend: nn.Module) -> None:
        network = encoder.network if isinstance(encoder, Branched) else encoder
        self._encoder = encoder
        found = FOLDED.get(type(network))
        self.rows, self._shortest = (found.rows, found.shortest) if found else (PLAIN_ROWS, 1)
        self._made: tuple[Any, Network | None] | None = None
        self._frontend = frontend
        self._mel = FoldedLogMel(frontend, torch.float32) if type(frontend) is LogMel else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # oneDNN's layout cannot be pickled; a worker makes it again

    def frontend(self, wave_NT: Tensor) -> Network:
        """What to call with these waves: the equivalent for float32 on a CPU, otherwise the front-end itself."""
        return self._frontend if self._mel is None or _is_plain(wave_NT) else self._mel

    def network(self, views: Tensor) -> Network:
        """What to call with these views: the equivalent for float32 on a CPU, otherwise the encoder itself.

        The encoder too where a weight or a view is not finite: oneDNN's ReLU makes zeros of NaN, and nobody would see
        that an encoder or a clip is broken.
        """
        if _is_plain(views) or views.shape[-1] < self._shortest or not views.sum().isfinite():
            return self._encoder
        tensors = [*self._encoder.parameters(), *self._encoder.buffers()]
        state = [_state(tensor) for tensor in tensors]
        if self._made is None or self._made[0] != state:
            is_sound = all(bool(tensor.isfinite().all()) for tensor in tensors)
            self._made = (state, fold_encoder(self._encoder) if is_sound else None)
        return self._made[1] or self._encoder


def _is_plain(views: Tensor) -> bool:
    """Whether plain layers take them."""
    is_other = views.device.type != "cpu" or views.dtype != torch.float32
    return is_other or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")


def _state(tensor: Tensor) -> tuple[int, int]:
    """Changes with every change in place; inference tensors cannot be changed."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
