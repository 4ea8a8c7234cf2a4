"""Snapshots: a folder that is whole or absent, checksummed, and safe to load from anyone.

`step-N/` holds model.safetensors, optimizer.safetensors, state.json, checksums.json, and average.safetensors where a
running mean of the weights is kept. `last` links to the newest, `best` to the one with the highest quick score.
Every random draw of a run is keyed by (seed, step, slot), so the step replaces the state of all generators.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cluster.files.storage import atomic_folder, remove_partials, replace_link, sha256, write_atomic
from cluster.settings import UserError
from trainers.state.places import STATE, find_snapshot

SCHEMA_VERSION = 1
MODEL, OPTIMIZER, CHECKSUMS = "model.safetensors", "optimizer.safetensors", "checksums.json"
AVERAGE = "average.safetensors"
MAX_STATE_BYTES = 4 << 20
PART_BYTES = 1 << 20
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Names of the format; a tensor of another type is a KeyError that names it."""
_ANOTHER = "take another step-N beside it (a run goes on from the one that snapshots/last links to)"


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
    vocabulary: tuple[str, ...]
    """The C tags it learned from, in the order of a supervised head's outputs; empty without labels."""
    score: float | None
    """Its quick score, where one was taken."""
    hash: str
    """SHA-256 over the checksums: the snapshot's name in reports and caches."""

    def model_state(self) -> dict[str, Tensor]:
        """Weights and BatchNorm statistics of the last step by name: what training goes on from."""
        state: dict[str, Tensor] = load_file(self.path / MODEL)
        return state

    def evaluation_state(self) -> dict[str, Tensor]:
        """The running mean of the weights where one is kept, else the last ones: the weights that evaluation takes."""
        average = self.path / AVERAGE
        state: dict[str, Tensor] = load_file(average if average.is_file() else self.path / MODEL)
        return state

    def load_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Restore the optimiser's moments in place, parameter by parameter name."""
        saved: dict[str, Tensor] = load_file(self.path / OPTIMIZER)
        for name, parameter in model.named_parameters():
            moments = {key.rpartition("/")[2]: value for key, value in saved.items() if key.rpartition("/")[0] == name}
            # "step" stays where torch keeps it for the fused kernel: beside the parameter. Moments take the parameter's
            # order in memory too, channels last or not: the kernel reads all of them in step.
            optimizer.state[parameter] = {
                key: torch.empty_like(parameter).copy_(value) if value.ndim else value.to(parameter.device)
                for key, value in moments.items()
            }


def save_snapshot(
    folder: Path,
    *,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int,
    average: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write ``folder/step-N`` atomically, point ``last`` and ``best`` at it, and delete all but the newest ``keep``.

    The best is never deleted.

    Args:
        folder: the run's snapshots/.
        step: optimisation steps done.
        model: bare, not wrapped in DDP.
        optimizer: of ``model``.
        state: ``config``, ``data_hash``, ``provenance``, and where there are such ``vocabulary`` and ``score``; plain
            JSON types.
        keep: snapshots to keep, ≥ 1.
        average: the running mean of the model's state, by name.

    Raises:
        RunError: if the disk is full; earlier snapshots are untouched.
    """
    files = snapshot_files(model, optimizer, average)
    return write_snapshot(folder, files, step=step, state=state, keep=keep)


def snapshot_files(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor] | None = None
) -> dict[str, Mapping[str, Tensor]]:
    """The tensors of a snapshot by file and name: the live ones, no copies."""
    files: dict[str, Mapping[str, Tensor]] = {MODEL: model.state_dict()}
    files[OPTIMIZER] = _optimizer_tensors(optimizer, model)
    return files if average is None else files | {AVERAGE: average}


def write_snapshot(
    folder: Path, files: Mapping[str, Mapping[str, Tensor]], *, step: int, state: Mapping[str, Any], keep: int
) -> Path:
    """`save_snapshot` of tensors from `snapshot_files`.
    Raises RunError if the disk is full; earlier snapshots are untouched.
    """
    target = folder / f"step-{step}"
    with atomic_folder(target) as partial:
        sums = {name: save_tensors(tensors, partial / name) for name, tensors in files.items()}
        record = {"schema_version": SCHEMA_VERSION, "step": step, **state}
        write_atomic(partial / STATE, json.dumps(record, indent=1, sort_keys=True))
        sums[STATE] = sha256(partial / STATE)
        write_atomic(partial / CHECKSUMS, json.dumps(sums, indent=1, sort_keys=True))
    replace_link(folder / "last", target.name)
    link_best(folder, target)
    remove_partials(folder)
    others = [path for path in _in_order(folder) if path != target]
    for old in others[: max(0, len(others) - keep + 1)]:
        if old.name != (folder / "best").resolve().name:
            shutil.rmtree(old)
    return target


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> str:
    """Write a safetensors file, tensor by tensor; returns its SHA-256, so that no GB is read again for it.

    safetensors' own `save_file` copies every tensor to a Python object and holds the interpreter's lock while it
    writes: a second for each GB in which no other thread, such as the training loop's, can run.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # so all stay aligned
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with file.open("wb") as opened:
        for part in _parts(len(text).to_bytes(8, "little") + text, ordered):
            opened.write(part)
            digest.update(part)
    return digest.hexdigest()


def _parts(head: bytes, ordered: Iterable[tuple[str, Tensor]]) -> Iterator[bytes | memoryview]:
    """The bytes of a file, in parts that stay in a processor's cache between writing and hashing."""
    yield head
    for _, tensor in ordered:
        if tensor.numel():
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            for part in torch.split(flat, PART_BYTES):
                yield part.numpy().data


def link_best(folder: Path, candidate: Path) -> None:
    """Point ``folder/best`` at a snapshot if its score is higher than that of the best so far."""
    score, best = _score(candidate), _score(folder / "best")
    if score is not None and (best is None or score > best):
        replace_link(folder / "best", candidate.name)


def _score(snapshot: Path) -> float | None:
    state = snapshot / STATE
    score: float | None = read_small(state).get("score") if state.is_file() else None
    return score


def open_snapshot(path: Path | str, *verified: Snapshot) -> Snapshot:
    """Find and verify a snapshot.

    Args:
        path: a snapshot folder, the link ``last``, or a run's folder that holds ``snapshots/last``.
        verified: snapshots that this process has verified: one of them with these checksums is not hashed again.

    Raises:
        UserError: if there is none, a file is missing, or a checksum disagrees (docs/faults.md, 42).
    """
    folder = find_snapshot(Path(path)).resolve()
    try:
        sums = read_small(folder / CHECKSUMS)
        record = read_small(folder / STATE)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}: not a whole snapshot ({error}); {_ANOTHER}") from None
    digest = name_of(sums)
    for known in verified:
        if (known.path, known.hash) == (folder, digest):
            return known
    present = [AVERAGE] if (folder / AVERAGE).exists() else []
    for name in sorted({MODEL, OPTIMIZER, STATE, *present, *sums}):
        file = folder / name
        if Path(name).name != name or not file.is_file() or sha256(file) != sums.get(name):
            raise UserError(f"{file}: missing, or its checksum disagrees; {_ANOTHER}")
    if record.get("schema_version") != SCHEMA_VERSION:
        found = record.get("schema_version")
        raise UserError(f"{folder}: schema version {found}, this release reads {SCHEMA_VERSION}")
    return Snapshot(
        path=folder,
        step=record["step"],
        config=record["config"],
        data_hash=record["data_hash"],
        provenance=record["provenance"],
        vocabulary=tuple(record.get("vocabulary", ())),
        score=record.get("score"),
        hash=digest,
    )


def last_snapshot(folder: Path, *verified: Snapshot | None) -> Snapshot | None:
    """The snapshot that a run goes on from, or None before the first.
    Raises UserError if it is damaged, or ``last`` points at one that is gone: no other is taken instead.
    """
    last, there = folder / "last", _in_order(folder)
    known = [snapshot for snapshot in verified if snapshot]
    if last.exists():
        return open_snapshot(last, *known)
    if last.is_symlink():
        choice = f"choose one: ln -sfn {there[-1].name} {last}" if there else f"to start anew remove {folder}"
        left = ", ".join(path.name for path in there) or "none"
        raise UserError(f"{last} points at {last.readlink()}, which is gone; snapshots there: {left}; {choice}")
    return open_snapshot(there[-1], *known) if there else None  # a kill between the first snapshot and its link


def read_small(file: Path, owner: str = "a snapshot") -> Any:
    """A JSON file of a snapshot, or of another ``owner``; raises UserError for one that cannot be so large."""
    if file.stat().st_size > MAX_STATE_BYTES:
        raise UserError(f"{file}: {file.stat().st_size} bytes, more than {owner}'s {MAX_STATE_BYTES}")
    return json.loads(file.read_text(encoding="utf-8"))


def name_of(sums: Mapping[str, str]) -> str:
    """SHA-256 over checksums: what a snapshot or an export is called in reports and caches."""
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def _optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _in_order(folder: Path) -> list[Path]:
    """The snapshots of a folder, oldest first; names that a person gave to copies are left alone."""
    steps = {path: re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*")}
    return sorted((path for path, found in steps.items() if found), key=lambda path: int(path.name[5:]))
