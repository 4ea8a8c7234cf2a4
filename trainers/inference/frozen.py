"""A pretrained encoder for inference: audio in, embeddings out, no trainable weight.

    >>> from trainers.inference.frozen import load_encoder                      # doctest: +SKIP
    >>> encoder = load_encoder("outputs/quickstart")                  # doctest: +SKIP
    >>> h_NE = encoder(wave_NT)                                       # doctest: +SKIP

It comes from a snapshot, from the folder that `counterpoint export` wrote, or by name: a model that ships.

Shape suffixes: N clips or chunks, T samples, E encoder width.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cluster.entry_points import require_trust
from cluster.files.storage import sha256
from cluster.machine.resources import torch_device
from cluster.settings import UserError, validate
from data_shards.format.records import SAMPLE_RATE
from trainers.config import ExperimentConfig
from trainers.frontends.frontend import build_frontend
from trainers.inference.cpu.build import CpuPath
from trainers.inference.heads import EncoderWithHeads, heads_of_snapshot
from trainers.inference.spaces import TOWERS, head_names
from trainers.model import build_encoder
from trainers.models.shipped import REMEDY
from trainers.state.places import ABOUT, locate, shipped_model
from trainers.state.snapshot import CHECKSUMS, name_of, open_snapshot, read_small

WEIGHTS, HEADS = "encoder.safetensors", "heads.safetensors"
"""What an exported folder is loaded from beside all else there is to know of it: weights of the encoder alone, and of
the heads of LOEV, whose outputs are spaces."""
SCHEMA_VERSION = 1
PREFIX = "projector.encoder."
"""Of an encoder's weights in a snapshot."""


@dataclass(frozen=True, kw_only=True)
class EncoderFiles:
    """An encoder on disk, verified: that of a snapshot or of an exported folder."""

    path: Path
    config: dict[str, Any]
    """Of the run, as a plain tree."""
    step: int
    data_hash: str
    """Manifest hashes of its shards, ``labelled:unlabelled``, ``-`` for one that was not used."""
    provenance: dict[str, Any]
    """Versions and git revision of the run; an exported encoder's also names its snapshot."""
    hash: str
    """Of the checksums: its name in reports and caches."""
    state: dict[str, Tensor]
    """Weights and BatchNorm statistics of the encoder by name."""
    heads: dict[str, Tensor] = field(default_factory=dict)
    """Weights of LOEV's heads by ``NAME.PLACE.weight``; none for any other encoder."""
    towers: dict[str, Tensor] = field(default_factory=dict)
    """Weights of a text tower and of both projections, as a snapshot names them behind ``projector.``."""

    @property
    def experiment(self) -> ExperimentConfig:
        """The configuration, validated. Raises UserError if this release cannot read it."""
        return validate(ExperimentConfig, self.config, str(self.path))

    def own_parts(self, *, texts: bool = False) -> dict[str, dict[str, Any]]:
        """The user's own code that the encoder needs, or both towers: ``entry_point`` and ``settings`` by its key."""
        experiment = self.experiment
        settings = {"encoder.name": experiment.encoder.settings, "frontend.kind": experiment.frontend.settings}
        if texts:
            settings["text.encoder"] = experiment.text.settings
        named = experiment.own_parts()
        return {key: {"entry_point": named[key], "settings": dict(settings[key])} for key in settings if key in named}


class FrozenEncoder(nn.Module):
    """Front-end and encoder in evaluation mode; the projection head is dropped.

    On a CPU a built-in encoder takes the operations of `trainers.inference.cpu`: the same numbers up to rounding.

    Args:
        config: of the run.
        state: weights of the encoder by name, or None for the first weights of ``config.seed``.
        hash: name of these weights in caches and reports.
        provenance: plain JSON types.
        heads: weights of LOEV's heads, for `with_heads`; they are no part of the encoder.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        state: dict[str, Tensor] | None,
        *,
        hash: str,
        provenance: dict[str, Any],
        heads: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # the encoder's first weights are drawn before the head's
            self.encoder = build_encoder(config.encoder, frontend=config.frontend, variant=config.head.variant)
        if state is not None:
            self.encoder.load_state_dict(state)
        self.frontend = build_frontend(config.frontend, SAMPLE_RATE)
        self.width = self.encoder.width
        self.spaces: Mapping[str, slice] = dict(self.encoder.spaces)
        self._heads = (head_names(config), heads) if heads else None
        self.rate = SAMPLE_RATE
        self.samples = config.views.samples
        self.hash = hash
        self.provenance = provenance
        self.requires_grad_(False)
        super().train(False)
        self.cpu_path = CpuPath(self.encoder, self.frontend)
        self.cpu_rows = self.cpu_path.rows
        self.may_be_shared = not config.own_parts()
        # Encoders with the same key make the same views of a wave, and one may embed those of another.
        self.frontend_key = repr(config.frontend)

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Refuses training mode: BatchNorm's statistics must not move while probes learn."""
        if mode:
            raise RuntimeError("a frozen encoder stays in evaluation mode")
        return self

    def with_heads(self) -> nn.Module:
        """The same encoder with the outputs of LOEV's heads behind its embedding, as further spaces; else itself."""
        if self._heads is None:
            return self
        names, state = self._heads
        device = next(self.encoder.parameters()).device
        return EncoderWithHeads(self, state, names).to(device)

    @torch.inference_mode()
    def forward(self, wave_NT: Tensor) -> Tensor:
        """Embed mono audio.

        Args:
            wave_NT: float32 at ``rate`` Hz in [-1, 1], T = ``samples``.

        Returns:
            h_NE, shape (N, ``width``), float32.

        Raises:
            ValueError: for waves of another type or shape.
        """
        self._check(wave_NT)
        return self.embed_views(self.make_views(wave_NT))

    def _check(self, wave_NT: Tensor) -> None:
        if not isinstance(wave_NT, Tensor) or wave_NT.ndim != 2 or wave_NT.dtype != torch.float32:
            got = f"{wave_NT.dtype} of shape {tuple(wave_NT.shape)}" if isinstance(wave_NT, Tensor) else type(wave_NT)
            raise ValueError(f"waves must be a float32 tensor of shape (rows, {self.samples}), got {got}")
        if not torch.compiler.is_exporting() and wave_NT.numel() == 0:
            raise ValueError(f"waves must be of shape (rows, {self.samples}), neither of them 0, got {wave_NT.shape}")

    @torch.inference_mode()
    def make_views(self, wave_NT: Tensor) -> Tensor:
        """What ``frontend`` makes of audio."""
        return self.cpu_path.frontend(wave_NT)(wave_NT)

    @torch.inference_mode()
    def embed_views(self, views: Tensor) -> Tensor:
        """Embed what `make_views` made of audio; shape (N, ``width``), float32."""
        h_NE: Tensor = self.cpu_path.network(views)(views).float()
        return h_NE


def load_encoder(source: Path | str, device: str = "cpu", *, trust_code: bool = False) -> FrozenEncoder:
    """The encoder of a snapshot or of an exported folder, verified. No pickle is read.

    Args:
        source: a step-N folder, the link last, a run's folder, what `counterpoint export` wrote, or the name of a model
            that ships, such as open-mel.
        device: torch device that it runs on.
        trust_code: import the user's own code that it names.

    Raises:
        UserError: if it is missing, damaged, does not fit this release, or needs code that is not trusted.
    """
    found = open_encoder(source, trust_code=trust_code)
    about = {**found.provenance, "snapshot": str(found.path), "step": found.step, "config": found.config}
    try:
        encoder = FrozenEncoder(found.experiment, found.state, hash=found.hash, provenance=about, heads=found.heads)
    except RuntimeError as error:
        raise UserError(does_not_fit(found, error)) from None
    return encoder.to(torch_device(device))


def untrained_encoder(source: Path | str, device: str = "cpu", *, trust_code: bool = False) -> FrozenEncoder:
    """The same network at the first weights of its run, BatchNorm at its initial statistics: the baseline row."""
    found = open_encoder(source, trust_code=trust_code)
    about = {"untrained": True, "config": found.config}
    return FrozenEncoder(found.experiment, None, hash=f"untrained-{found.hash}", provenance=about).to(device)


def does_not_fit(found: EncoderFiles, error: RuntimeError) -> str:
    """The message for weights that a network built from their configuration does not take."""
    why = " ".join(str(error).split())
    own = ", ".join(f"{key}={name}" for key, name in found.experiment.own_parts().items())
    remedy = f"; it needs the code that it was trained with: {own} has changed, or is another module of that name"
    return f"{found.path}: its weights do not fit its configuration ({why}){remedy if own else ''}"


def open_encoder(source: Path | str, *, trust_code: bool = False, texts: bool = False) -> EncoderFiles:
    """Find and verify an encoder on disk.

    Args:
        source: as for `load_encoder`.
        trust_code: the user's own code that it names may be imported.
        texts: that of its text tower too, where it has one.

    Raises:
        UserError: if there is none, a file is missing, a checksum disagrees, or it needs code that is not trusted.
    """
    model, place = shipped_model(source), locate(source)
    if model:
        files = _open_exported(model.folder.resolve(), REMEDY, whole=True)
        if files.hash != model.hash:
            raise UserError(
                f"{model.folder / CHECKSUMS}: not the checksums of {model.name}, which is damaged; {REMEDY}"
            )
    else:
        files = _open_exported(place.resolve()) if (place / ABOUT).is_file() else _from_snapshot(place)
    parts = files.own_parts(texts=texts and bool(files.towers))
    needed = {key: part["entry_point"] for key, part in parts.items()}
    require_trust(needed, source, trust_code=trust_code)
    return files


def _from_snapshot(source: Path | str) -> EncoderFiles:
    found = open_snapshot(source)
    state = found.evaluation_state()
    files = EncoderFiles(
        path=found.path,
        config=found.config,
        step=found.step,
        data_hash=found.data_hash,
        provenance=found.provenance,
        hash=found.hash,
        state={name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)},
    )
    heads = heads_of_snapshot(state, head_names(files.experiment))
    return replace(files, heads=heads, towers=_towers_of_snapshot(state))


def _towers_of_snapshot(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All but the audio encoder, of a snapshot with a text tower."""
    if not any(name.startswith("projector.text_projection.") for name in state):
        return {}
    rest = {name for name in state if name.startswith("projector.") and not name.startswith(PREFIX)}
    return {name.removeprefix("projector."): state[name] for name in sorted(rest)}


def _open_exported(folder: Path, remedy: str = "export the snapshot again", *, whole: bool = False) -> EncoderFiles:
    """An exported encoder, its files verified; ``whole``: its card and attributions too."""
    try:
        listed = read_small(folder / CHECKSUMS, "an encoder")
        sums = {name: str(listed[name]) for name in (WEIGHTS, ABOUT, *(x for x in (HEADS, TOWERS) if x in listed))}
        for name, digest in (listed if whole else sums).items():
            if sha256(folder / name) != digest:
                raise UserError(f"{folder / name}: its checksum disagrees; {remedy}")
        about = read_small(folder / ABOUT, "an encoder")
        if about["schema_version"] != SCHEMA_VERSION:
            found = about["schema_version"]
            raise UserError(f"{folder}: schema version {found}, this release reads {SCHEMA_VERSION}")
        state = _read_weights(folder / WEIGHTS)
        heads, towers = (_read_weights(folder / name) if name in sums else {} for name in (HEADS, TOWERS))
        fields = {name: about[name] for name in ("config", "step", "data_hash", "provenance")}
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: not a whole exported encoder ({error!r}); {remedy}") from None
    return EncoderFiles(path=folder, hash=name_of(sums), state=state, heads=heads, towers=towers, **fields)


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Weights as float32, also those that are stored at half precision."""
    return {name: one.float() if one.dtype == torch.float16 else one for name, one in load_file(file).items()}
