"""A pretrained encoder as others use it: audio in, embeddings out, nothing that learns.

    >>> from trainers.frozen import load_encoder                      # doctest: +SKIP
    >>> encoder = load_encoder("outputs/quickstart")                  # doctest: +SKIP
    >>> h_NE = encoder(wave_NT)                                       # doctest: +SKIP

Shape suffixes: N clips or chunks, T samples, E encoder width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.settings import UserError, validate
from data_shards.records import SAMPLE_RATE
from trainers.config import ExperimentConfig
from trainers.frontend import build_frontend
from trainers.model import build_model
from trainers.snapshot import Snapshot, open_snapshot


class FrozenEncoder(nn.Module):
    """Front-end and encoder in evaluation mode; the projection head is dropped.

    Args:
        config: of the run.
        state: weights by name, or None for the first weights of ``config.seed``.
        hash: name of these weights in caches and reports.
        provenance: plain JSON types.
    """

    def __init__(
        self, config: ExperimentConfig, state: dict[str, Tensor] | None, *, hash: str, provenance: dict[str, Any]
    ) -> None:
        super().__init__()
        model = build_model(config.encoder, config.head, config.loss, seed=config.seed)
        if state is not None:
            model.load_state_dict(state)
        self.frontend = build_frontend(config.frontend, SAMPLE_RATE)
        self.encoder = model.projector.encoder
        self.width = model.projector.encoder.width
        self.rate = SAMPLE_RATE
        self.samples = config.views.samples
        self.hash = hash
        self.provenance = provenance
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Refuses training mode: BatchNorm's statistics must not move while probes learn."""
        if mode:
            raise RuntimeError("a frozen encoder stays in evaluation mode")
        return self

    @torch.inference_mode()
    def forward(self, wave_NT: Tensor) -> Tensor:
        """Embed mono audio.

        Args:
            wave_NT: float32 at ``rate`` Hz in [-1, 1], T = ``samples``.

        Returns:
            h_NE, shape (N, ``width``), float32.
        """
        h_NE: Tensor = self.encoder(self.frontend(wave_NT)).float()
        return h_NE


def load_encoder(snapshot: Path | str, device: str = "cpu") -> FrozenEncoder:
    """The encoder of a snapshot, verified.

    Args:
        snapshot: a step-N folder, the link last, or a run's folder.
        device: torch device it shall run on.

    Raises:
        UserError: if the snapshot is missing, damaged or does not fit this release.
    """
    found = open_snapshot(snapshot)
    config = _config(found)
    about = {**found.provenance, "snapshot": str(found.path), "step": found.step, "config": found.config}
    try:
        encoder = FrozenEncoder(config, found.model_state(), hash=found.hash, provenance=about)
    except RuntimeError as error:
        raise UserError(f"{found.path}: its weights do not fit its configuration ({error})") from None
    return encoder.to(device)


def untrained_encoder(snapshot: Path | str, device: str = "cpu") -> FrozenEncoder:
    """The same network at the first weights of its run, BatchNorm at its initial statistics: the baseline row."""
    found = open_snapshot(snapshot)
    about = {"untrained": True, "config": found.config}
    return FrozenEncoder(_config(found), None, hash=f"untrained-{found.hash}", provenance=about).to(device)


def _config(snapshot: Snapshot) -> ExperimentConfig:
    return validate(ExperimentConfig, snapshot.config, str(snapshot.path))
