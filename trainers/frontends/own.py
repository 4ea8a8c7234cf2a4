"""A front-end of the user's own: waves (N, T) to spectrograms (N, F, S), with its output checked.

Shape suffixes: N rows, T samples, F bands, S frames.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cluster.entry_points import create, failures_named
from cluster.settings import UserError
from trainers.frontends.config import FrontendConfig


class OwnFrontend(nn.Module):
    """A user's transform.

    Args:
        name: ``module:factory``, for messages.
        transform: waves (N, T) float32 to (N, F, S) float32, any module or function.
    """

    def __init__(self, name: str, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.transform = name, transform

    def forward(self, wave_NT: Tensor) -> Tensor:
        """Spectrograms (N, F, S). Raises UserError if the transform returns anything else."""
        out_NFS = self.transform(wave_NT)
        if not isinstance(out_NFS, Tensor) or out_NFS.ndim != 3 or len(out_NFS) != len(wave_NT) or not out_NFS.numel():
            got = f"shape {tuple(out_NFS.shape)}" if isinstance(out_NFS, Tensor) else f"a {type(out_NFS).__name__}"
            raise UserError(
                f"frontend.kind={self.name}: it returned {got} for waves of shape {tuple(wave_NT.shape)}; a front-end "
                f"returns ({len(wave_NT)}, bands, frames)"
            )
        return out_NFS


def build_own(config: FrontendConfig, rate: int) -> OwnFrontend:
    """The transform that ``frontend.kind=module:factory`` names; a factory that names ``rate`` gets it in Hz.
    Raises UserError if it cannot be imported or made.
    """
    transform = create(config.kind, config.settings, "frontend.kind", rate=rate)
    if not callable(transform):
        raise UserError(f"frontend.kind={config.kind}: the factory returned a {type(transform).__name__}, no transform")
    return OwnFrontend(config.kind, transform)


@torch.no_grad()
def try_frontend(frontend: OwnFrontend, wave_NT: Tensor) -> Tensor:
    """Transform two waves before a run takes any resources: (2, F, S). Raises UserError if the transform raises,
    changes its waves, draws at random, or gives another type or what is not finite.
    """
    given = wave_NT.clone()
    with failures_named(f"frontend.kind={frontend.name}: it failed on waves of shape {tuple(wave_NT.shape)}"):
        out_NFS: Tensor = frontend(given)
        again_NFS = frontend(wave_NT.clone())
    if not torch.equal(given, wave_NT):
        raise UserError(f"frontend.kind={frontend.name}: it changes its waves in place; work on a copy")
    if out_NFS.dtype != wave_NT.dtype or out_NFS.device != wave_NT.device:
        raise UserError(
            f"frontend.kind={frontend.name}: it returned {out_NFS.dtype} on {out_NFS.device} for waves of "
            f"{wave_NT.dtype} on {wave_NT.device}; return what it was given"
        )
    if not torch.equal(out_NFS, again_NFS) and torch.isfinite(out_NFS).all():
        raise UserError(
            f"frontend.kind={frontend.name}: two calls with the same waves differ; what is drawn at random belongs in "
            "an augmentation (augment.extra)"
        )
    if not torch.isfinite(out_NFS).all():
        raise UserError(f"frontend.kind={frontend.name}: its spectrogram of quiet noise is not finite")
    return out_NFS
