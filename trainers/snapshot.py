"""Snapshots: a folder that is whole or absent, checksummed, and safe to load from anyone.

`step-N/` holds model.safetensors, optimizer.safetensors, state.json and checksums.json; `last` links to the newest.
Every random draw of a run is keyed by (seed, step, slot), so the step stands for all generators and none is stored.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cluster.settings import UserError
from cluster.storage import atomic_folder, remove_partials, replace_link, sha256, write_atomic

SCHEMA_VERSION = 1
MODEL, OPTIMIZER, STATE, CHECKSUMS = "model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"
MAX_STATE_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A verified snapshot on disk; tensors are read when asked for."""

    path: Path
    """The folder, links resolved."""
    step: int
    """Optimisation steps that were done."""
    config: dict[str, Any]
    """The whole configuration as a plain tree."""
    data_hash: str
    """Manifest hash of the shards it learned from."""
    provenance: dict[str, Any]
    """Versions, git revision and world size of the run that wrote it."""
    hash: str
    """SHA-256 over the checksums: the snapshot's name in reports and caches."""

    def model_state(self) -> dict[str, Tensor]:
        """Weights and BatchNorm statistics by name."""
        state: dict[str, Tensor] = load_file(self.path / MODEL)
        return state

    def load_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Restore the optimiser's moments in place, parameter by parameter name."""
        saved: dict[str, Tensor] = load_file(self.path / OPTIMIZER)
        for name, parameter in model.named_parameters():
            moments = {key.rpartition("/")[2]: value for key, value in saved.items() if key.rpartition("/")[0] == name}
            # "step" stays where torch keeps it for the fused kernel: beside the parameter.
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in moments.items()}


def save_snapshot(
    folder: Path,
    *,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write ``folder/step-N`` atomically, point ``folder/last`` at it, and delete all but the newest ``keep``.

    Args:
        folder: the run's snapshots/.
        step: optimisation steps done.
        model: bare, not wrapped in DDP.
        optimizer: of ``model``.
        state: ``config``, ``data_hash`` and ``provenance``, plain JSON types.
        keep: snapshots to keep, ≥ 1.

    Raises:
        RunError: if the disk is full; earlier snapshots are untouched.
    """
    target = folder / f"step-{step}"
    with atomic_folder(target) as partial:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, partial / MODEL)
        save_file(_optimizer_tensors(optimizer, model), partial / OPTIMIZER)
        record = {"schema_version": SCHEMA_VERSION, "step": step, **state}
        write_atomic(partial / STATE, json.dumps(record, indent=1, sort_keys=True))
        sums = {name: sha256(partial / name) for name in (MODEL, OPTIMIZER, STATE)}
        write_atomic(partial / CHECKSUMS, json.dumps(sums, indent=1))
    replace_link(folder / "last", target.name)
    remove_partials(folder)
    others = sorted((path for path in folder.glob("step-*") if path != target), key=_step_of, reverse=True)
    for old in others[keep - 1 :]:
        shutil.rmtree(old)
    return target


def open_snapshot(path: Path | str) -> Snapshot:
    """Find and verify a snapshot.

    Args:
        path: a snapshot folder, the link ``last``, or a run's folder that holds ``snapshots/last``.

    Raises:
        UserError: if there is none, a file is missing, or a checksum disagrees (FAULTS 42).
    """
    folder = _find(Path(path)).resolve()
    try:
        sums = json.loads(_small(folder / CHECKSUMS))
        record = json.loads(_small(folder / STATE))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}: not a whole snapshot ({error}); take another step-N beside it") from None
    for name in (MODEL, OPTIMIZER, STATE):
        file = folder / name
        if not file.is_file() or sha256(file) != sums.get(name):
            raise UserError(f"{file}: missing, or its checksum disagrees; take another step-N beside it")
    if record.get("schema_version") != SCHEMA_VERSION:
        found = record.get("schema_version")
        raise UserError(f"{folder}: schema version {found}, this release reads {SCHEMA_VERSION}")
    digest = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
    return Snapshot(
        path=folder,
        step=record["step"],
        config=record["config"],
        data_hash=record["data_hash"],
        provenance=record["provenance"],
        hash=digest,
    )


def last_snapshot(folder: Path) -> Snapshot | None:
    """The newest snapshot under a run's snapshots/, or None before the first."""
    return open_snapshot(folder / "last") if (folder / "last").exists() else None


def _find(path: Path) -> Path:
    for candidate in (path, path / "last", path / "snapshots" / "last"):
        if (candidate / STATE).is_file():
            return candidate
    raise UserError(f"{path}: no snapshot here; give a step-N folder, the link last, or a run's folder")


def _small(file: Path) -> str:
    if file.stat().st_size > MAX_STATE_BYTES:
        raise UserError(f"{file}: {file.stat().st_size} bytes, more than a snapshot's {MAX_STATE_BYTES}")
    return file.read_text(encoding="utf-8")


def _optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
