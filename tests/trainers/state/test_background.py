"""Laws of snapshots that are written while training goes on: what was, is saved; one at a time; nothing torn."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cluster.files.storage import sha256
from cluster.settings import ROOT, RunError
from tests.trainers.state.full_disk import check_full_disk
from trainers.state import background, snapshot
from trainers.state.background import SnapshotWriter
from trainers.state.snapshot import MODEL, open_snapshot, save_snapshot, save_tensors, write_snapshot

ABOUT: dict[str, Any] = {"config": {}, "data_hash": "", "provenance": {}}


def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(3, 5) + torch.arange(3)[:, None]).square().sum().backward()
    optimizer.step()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits for this event."""
    event = threading.Event()
    plain = write_snapshot

    def write(*args: Any, **kwargs: Any) -> Path:
        assert event.wait(60)
        return plain(*args, **kwargs)

    monkeypatch.setattr(background, "write_snapshot", write)
    return event


def test_what_is_saved_is_the_state_when_save_was_called(tmp_path: Path, held: threading.Event) -> None:
    model, optimizer = trained(3)
    expected = save_snapshot(tmp_path / "plain", step=3, model=model, optimizer=optimizer, state=ABOUT, keep=1)
    writer = SnapshotWriter(tmp_path / "background", keep=1, background=True)
    writer.save(3, model, optimizer, ABOUT)
    for _ in range(4):
        step(model, optimizer)
    assert not (tmp_path / "background").exists()
    held.set()
    writer.wait()
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"):
        assert (tmp_path / "background/step-3" / name).read_bytes() == (expected / name).read_bytes()


def test_a_second_snapshot_waits_for_the_first_and_says_how_long(tmp_path: Path, held: threading.Event) -> None:
    model, optimizer = trained(1)
    writer = SnapshotWriter(tmp_path, keep=2, background=True)
    writer.save(1, model, optimizer, ABOUT)
    first = writer.take_metrics()
    assert first["snapshot/memory_gib"] > 0
    assert writer.take_metrics() == {}
    second = threading.Thread(target=writer.save, args=(2, model, optimizer, ABOUT))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    held.set()
    second.join(60)
    writer.wait()
    assert writer.take_metrics()["snapshot/wait_s"] >= 0.2 > first["snapshot/wait_s"]
    assert open_snapshot(tmp_path).step == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-1", "step-2"]


def test_memory_of_a_copy_is_used_again(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    writer = SnapshotWriter(tmp_path, keep=2, background=True)
    places = []
    for number in range(3):
        writer.save(number, model, optimizer, ABOUT)
        writer.wait()
        places.append({copy.data_ptr() for copies in writer._copies.values() for copy in copies.values()})
    assert places[0] == places[1] == places[2]


def test_memory_that_was_reserved_is_what_the_first_copy_takes(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    for background_ in (True, False):
        writer = SnapshotWriter(tmp_path / str(background_), keep=1, background=background_)
        writer.reserve(model, optimizer)
        writer.wait()
        reserved = {copy.data_ptr() for copies in writer._copies.values() for copy in copies.values()}
        writer.save(1, model, optimizer, ABOUT)
        writer.wait()
        assert reserved == {copy.data_ptr() for copies in writer._copies.values() for copy in copies.values()}
        assert bool(reserved) == background_
        saved = open_snapshot(tmp_path / str(background_)).model_state()
        assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_the_checksum_of_a_file_is_that_of_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PART_BYTES", 64)  # parts end within a tensor
    tensors = {"weight": torch.arange(100.0), "bias": torch.ones(3)}
    assert save_tensors(tensors, tmp_path / MODEL) == sha256(tmp_path / MODEL)
    assert torch.equal(load_file(tmp_path / MODEL)["weight"], tensors["weight"])


def test_a_failed_write_is_raised_at_the_next_look_and_the_last_snapshot_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained(1)
    writer = SnapshotWriter(tmp_path, keep=2, background=True)
    writer.save(1, model, optimizer, ABOUT)
    writer.wait()

    def full(*_: Any, **__: Any) -> Path:
        raise RunError("the disk is full")

    monkeypatch.setattr(background, "write_snapshot", full)
    writer.save(2, model, optimizer, ABOUT)
    assert writer._thread is not None
    writer._thread.join()
    with pytest.raises(RunError, match="the disk is full"):
        writer.check()
    writer.check()  # told once
    writer.save(3, model, optimizer, ABOUT)
    with pytest.raises(RunError, match="the disk is full"):
        writer.save(4, model, optimizer, ABOUT)
    assert open_snapshot(tmp_path).step == 1


def test_in_line_a_snapshot_is_there_when_save_returns(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    writer = SnapshotWriter(tmp_path, keep=2, background=False)
    writer.save(1, model, optimizer, ABOUT)
    assert open_snapshot(tmp_path).step == 1
    assert writer.take_metrics().keys() == {"snapshot/wait_s"}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8]
)
def test_safetensors_reads_what_is_written(tmp_path: Path, dtype: torch.dtype) -> None:
    numbers = torch.arange(24).to(dtype)
    tensors = {
        "scalar": numbers[3],
        "turned": numbers.reshape(4, 6).T,
        "a/bool": torch.tensor([True, False, True]),
        "none": numbers[:0],
        "every second": numbers[::2],
        "channels last": numbers[:16].reshape(1, 4, 2, 2).contiguous(memory_format=torch.channels_last),
        "ü": torch.zeros(1, dtype=torch.float64),
    }
    save_tensors(tensors, tmp_path / MODEL)
    found = load_file(tmp_path / MODEL)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from cluster.files.storage import remove_partials
from trainers.state.background import SnapshotWriter
from trainers.state.snapshot import open_snapshot, save_snapshot

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
model = torch.nn.Linear(100, 100)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
model(torch.ones(1, 100)).sum().backward()
optimizer.step()
about = {"config": {}, "data_hash": "", "provenance": {}}
save_snapshot(folder, step=1, model=model, optimizer=optimizer, state=about, keep=2)
for kill in range(kills):
    before, (receiver, sender) = open_snapshot(folder).step, os.pipe()
    child = os.fork()
    if child == 0:
        writer = SnapshotWriter(folder, keep=2, background=True)
        for step in range(before + 1, 10**9):
            with torch.no_grad():
                model.weight.fill_(step)
            writer.save(step, model, optimizer, about)
            with torch.no_grad():
                model.weight.fill_(-1)  # training goes on
            os.write(sender, b".")
    for _ in range(1 + kill % 3):
        os.read(receiver, 1)
    for _ in range(397 * kill % 4001):
        os.stat(folder)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(receiver), os.close(sender)
    found = open_snapshot(folder)
    assert found.step >= before
    if found.step > 1:
        assert (found.model_state()["weight"] == found.step).all()
    remove_partials(folder)
    assert all(path.name == "last" or path.name.startswith("step-") for path in folder.iterdir())
print("whole")
"""


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_9_while_a_copy_is_written_leaves_a_whole_snapshot(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "snapshots"), str(kills)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "whole", done.stderr


FULL_DISK = """
import sys
from pathlib import Path
import torch
from cluster.settings import RunError
from trainers.state.background import SnapshotWriter
from trainers.state.snapshot import open_snapshot

folder = Path(sys.argv[1])
model = torch.nn.Linear(200, 200)
about = {"config": {}, "data_hash": "", "provenance": {}}
writer = SnapshotWriter(folder, keep=2, background=True)
for step, size in ((1, 1), (2, 1000)):
    model = torch.nn.Linear(200, 200 * size)
    writer.save(step, model, torch.optim.Adam(model.parameters()), about)
    try:
        writer.wait()
    except RunError as error:
        print(error)
print(open_snapshot(folder).step, sorted(path.name for path in folder.iterdir()))
"""


def test_a_disk_that_fills_up_while_a_copy_is_written_is_named(tmp_path: Path) -> None:
    check_full_disk(FULL_DISK, tmp_path)
