"""Snapshots while training goes on: the state is copied to memory of the host, and a thread writes the copy.

At most one copy is written at a time: the next one waits for it. What a kill leaves is what it leaves of a snapshot
that is written in line, since the same code writes it. Copying takes the state's size once more in host memory, which
is taken beside the first steps and kept, page-locked where the state is on a GPU. The thread gives way to training:
its priority is lower.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.settings import RunError
from trainers.state.snapshot import save_snapshot, snapshot_files, write_snapshot

_log = logging.getLogger(__name__)
GIB = 1 << 30
NICE = 10
"""Of the thread that writes: training goes first where they share a core."""
Files = dict[str, dict[str, Tensor]]
Average = Mapping[str, Tensor] | None


class SnapshotWriter:
    """Writes a run's snapshots, in a thread or in line."""

    def __init__(self, folder: Path, *, keep: int, background: bool) -> None:
        """Snapshots go into a run's snapshots/, and the last ``keep`` ≥ 1 of them stay. Where ``background`` is false,
        `save` returns when the snapshot is on disk.
        """
        self._folder, self._keep, self._background = folder, keep, background
        self._copies: Files = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._row: dict[str, float] = {}

    def reserve(self, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average = None) -> None:
        """Take the memory of the copies beside the next steps: fresh pages cost more than the copying itself.

        Call it once the optimiser has its state.
        """
        if self._background and not self._copies and not self._thread:
            files = snapshot_files(model, optimizer, average)
            self._thread = threading.Thread(target=self._take, args=(files,), name="snapshot", daemon=True)
            self._thread.start()

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        average: Average = None,
    ) -> None:
        """Save what these are now; they may change as soon as this returns. Arguments as of `save_snapshot`.
        Raises RunError if this snapshot, or the one before it, could not be written.
        """
        began = time.perf_counter()
        self.wait()
        waited = time.perf_counter()
        if not self._background:
            save_snapshot(
                self._folder, step=step, model=model, optimizer=optimizer, state=state, keep=self._keep, average=average
            )
            self._row = {"snapshot/wait_s": time.perf_counter() - began}
            return
        num_bytes = self._copy(snapshot_files(model, optimizer, average))
        self._row = {
            "snapshot/wait_s": waited - began,
            "snapshot/copy_s": time.perf_counter() - waited,
            "snapshot/memory_gib": num_bytes / GIB,
        }
        self._thread = threading.Thread(target=self._write, args=(step, dict(state)), name="snapshot")
        self._thread.start()

    def check(self) -> None:
        """Raise the RunError of a write that failed, earlier snapshots being untouched; returns at once while one goes
        on.
        """
        if self._thread and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait for the snapshot that is being written. Raises RunError if it fails; earlier ones are untouched."""
        if self._thread:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error:
            raise error

    def take_metrics(self) -> dict[str, float]:
        """Of the last snapshot, once: seconds that the step waited for an earlier one and for the copy, and its size.

        In line, ``snapshot/wait_s`` is the time of writing.
        """
        row, self._row = self._row, {}
        return row

    def close(self) -> None:
        """Wait, and log instead of raising: another error is on its way up."""
        try:
            self.wait()
        except RunError as error:
            _log.warning("%s", error)

    def _copy(self, files: Mapping[str, Mapping[str, Tensor]]) -> int:
        """The state in memory of the host, in the place of the last copy; returns its bytes."""
        copies = self._places(files)
        for file, tensors in files.items():
            for name, tensor in tensors.items():
                copies[file][name].copy_(tensor.detach(), non_blocking=True)
        if any(tensor.device.type == "cuda" for tensors in files.values() for tensor in tensors.values()):
            torch.cuda.current_stream().synchronize()  # the next step may change the state
        self._copies = copies
        return sum(copy.nbytes for tensors in copies.values() for copy in tensors.values())

    def _places(self, files: Mapping[str, Mapping[str, Tensor]]) -> Files:
        """Where each tensor is copied to: the place of its last copy, or a new one."""
        copies: Files = {}
        for file, tensors in files.items():
            before, copies[file] = self._copies.get(file, {}), {}
            for name, tensor in tensors.items():
                copy = before.get(name)
                if copy is None or (copy.shape, copy.dtype) != (tensor.shape, tensor.dtype):
                    pinned = tensor.device.type == "cuda"
                    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
                copies[file][name] = copy
        return copies

    def _take(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        _give_way()
        try:
            copies = self._places(files)
            for tensors in copies.values():
                for copy in tensors.values():
                    copy.zero_()  # touches every page
        except RuntimeError as error:  # torch's, where there is no memory
            _log.warning("no memory for copies of snapshots (%s); run.background_snapshots=false needs none", error)
            return
        self._copies = copies

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        _give_way()
        try:
            write_snapshot(self._folder, self._copies, step=step, state=state, keep=self._keep)
        except BaseException as error:  # the training thread raises it
            self._error = error


def _give_way() -> None:
    """Lower the priority of this thread alone, where the system has one for each (Linux)."""
    with suppress(OSError):  # a container may forbid it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
