import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cluster.settings import UserError
from trainers.snapshot import CHECKSUMS, MODEL, OPTIMIZER, STATE, last_snapshot, open_snapshot, save_snapshot

ABOUT: dict[str, Any] = {"config": {"seed": 1}, "data_hash": "d" * 64, "provenance": {"python": "3"}}


def trained(steps: int, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    continue_training(model, optimizer, 0, steps)
    return model, optimizer


def continue_training(model: nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def saved(folder: Path, steps: int, keep: int = 3) -> Path:
    model, optimizer = trained(steps)
    return save_snapshot(folder, step=steps, model=model, optimizer=optimizer, state=ABOUT, keep=keep)


def test_resumed_training_equals_unbroken_training_bit_for_bit(tmp_path: Path) -> None:
    whole, _ = trained(10)
    snapshot = open_snapshot(saved(tmp_path, 6))
    model, optimizer = trained(0, seed=9)
    model.load_state_dict(snapshot.model_state())
    snapshot.load_optimizer(optimizer, model)
    continue_training(model, optimizer, snapshot.step, 10)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_last_is_the_newest_and_old_ones_go(tmp_path: Path) -> None:
    for steps in (2, 10, 9):
        saved(tmp_path, steps, keep=2)
    last = last_snapshot(tmp_path)
    assert last is not None
    assert last.step == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-10", "step-9"]
    assert (tmp_path / "last").is_symlink()


def test_the_newest_is_never_deleted_for_a_later_step_left_by_a_kill(tmp_path: Path) -> None:
    saved(tmp_path, 10, keep=1)
    saved(tmp_path, 9, keep=1)
    assert open_snapshot(tmp_path).step == 9


def test_a_run_folder_its_link_and_the_snapshot_itself_are_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path / "snapshots", 1)
    hashes = {open_snapshot(p).hash for p in (path, tmp_path, tmp_path / "snapshots", tmp_path / "snapshots" / "last")}
    assert len(hashes) == 1


def test_equal_weights_have_equal_hashes_and_others_have_not(tmp_path: Path) -> None:
    first, again, other = saved(tmp_path / "a", 3), saved(tmp_path / "b", 3), saved(tmp_path / "c", 4)
    assert open_snapshot(first).hash == open_snapshot(again).hash != open_snapshot(other).hash


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, STATE])
def test_a_flipped_byte_is_found_and_its_file_named(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path, 1) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*checksum disagrees"):
        open_snapshot(tmp_path)


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, STATE, CHECKSUMS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, 1)
    (path / name).unlink()
    with pytest.raises(UserError, match=name if name != STATE else "no snapshot here"):
        open_snapshot(path)


def test_a_pickle_in_place_of_the_weights_is_never_unpickled(tmp_path: Path) -> None:
    path, marker = saved(tmp_path, 1), tmp_path / "owned"
    (path / MODEL).write_bytes(b"cposix\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    sums = json.loads((path / CHECKSUMS).read_text())
    from cluster.storage import sha256

    (path / CHECKSUMS).write_text(json.dumps({**sums, MODEL: sha256(path / MODEL)}))
    with pytest.raises(Exception, match=r"[Hh]eader"):
        open_snapshot(path).model_state()
    assert not marker.exists()


def test_an_absurdly_large_state_is_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    (path / STATE).write_text(" " * (5 << 20))
    with pytest.raises(UserError, match="more than a snapshot's"):
        open_snapshot(path)


def test_no_snapshot_says_what_to_give(tmp_path: Path) -> None:
    assert last_snapshot(tmp_path) is None
    with pytest.raises(UserError, match="give a step-N folder"):
        open_snapshot(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match="no snapshot here"):
        open_snapshot(tmp_path)
