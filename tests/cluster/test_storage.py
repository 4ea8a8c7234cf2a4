"""Laws of atomic writing: whole or absent, whatever happens in between."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cluster import storage
from cluster.settings import RunError, UserError
from cluster.storage import (
    atomic_file,
    atomic_folder,
    remove_partials,
    replace_link,
    retry,
    without_credentials,
    write_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_failed_half_way_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_atomic(target, "old")

    def save() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save()

    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_folder_replaces_another_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "step-1") as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / content).write_text(content)

    assert names(tmp_path) == ["step-1"]
    assert names(tmp_path / "step-1" / "deep") == ["new"]


def test_a_folder_that_failed_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "step-1") as temporary:
        (temporary / "weights").write_text("old")

    def save() -> None:
        with atomic_folder(tmp_path / "step-1") as temporary:
            (temporary / "weights").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save()

    assert (tmp_path / "step-1" / "weights").read_text() == "old"
    assert names(tmp_path) == ["step-1"]


def test_folders_are_replaced_where_the_file_system_cannot_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoSwap:
        def __init__(self, *_: object, **__: object) -> None: ...
        def renameat2(self, *_: object) -> int:
            return -1

    monkeypatch.setattr("cluster.storage.ctypes.CDLL", NoSwap)
    monkeypatch.setattr("cluster.storage.ctypes.get_errno", lambda: errno.EINVAL)
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "step-1") as temporary:
            (temporary / "weights").write_text(content)

    assert (tmp_path / "step-1" / "weights").read_text() == "new"
    assert names(tmp_path) == ["step-1"]


@pytest.mark.parametrize("writer", ["atomic_file", "atomic_folder"])
def test_a_full_disk_is_named_and_the_old_content_survives(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "snapshot"
    write = getattr(storage, writer)
    with write(target) as temporary:
        (temporary / "weights" if writer == "atomic_folder" else temporary).write_text("old")

    with pytest.raises(RunError, match=r"snapshot: the disk is full"), write(target) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert (target / "weights" if writer == "atomic_folder" else target).read_text() == "old"
    assert names(tmp_path) == ["snapshot"]


def test_a_link_changes_its_target_without_ever_missing(tmp_path: Path) -> None:
    for step in ("step-1", "step-2"):
        (tmp_path / step).mkdir()
        replace_link(tmp_path / "last", step)
        assert (tmp_path / "last").readlink() == Path(step)
    assert names(tmp_path) == ["last", "step-1", "step-2"]


SAVE_FOREVER = """
import sys
from pathlib import Path
from cluster.storage import atomic_folder, replace_link, write_atomic
home = Path(sys.argv[1])
print("saving", flush=True)
for count in range(10**9):
    with atomic_folder(home / "snapshot") as temporary:
        for part in range(3):
            (temporary / f"part-{part}").write_bytes(str(count).zfill(8).encode() * 20_000)
    write_atomic(home / "file", str(count).zfill(8).encode() * 20_000)
    replace_link(home / "last", "snapshot")
"""


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_9_during_a_save_never_leaves_a_broken_target(tmp_path: Path, kills: int) -> None:
    """Faults 41: every file of a folder is of one save, the single file too, the link leads to it."""
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        _busy_wait(kill, tmp_path)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

        parts = {(tmp_path / "last" / f"part-{part}").read_bytes() for part in range(3)}
        assert len(parts) == 1
        for content in (*parts, (tmp_path / "file").read_bytes()):
            assert content == content[:8] * 20_000
    remove_partials(tmp_path)
    assert names(tmp_path) == ["file", "last", "snapshot"]


def _busy_wait(kill: int, home: Path) -> None:
    """Let the saver come to another point of a save each time: so many saves after its first, and a little."""
    file, seen = home / "file", set[int]()
    while len(seen) < 2 + kill % 3 or not (home / "last").is_symlink():
        seen |= {file.stat().st_ino} if file.exists() else set()
    for _ in range(97 * kill % 4001):
        file.exists()


WRITE = """
import sys
from pathlib import Path
from cluster.storage import atomic_file, atomic_folder
with atomic_file(Path(sys.argv[1], "file")) as file, atomic_folder(Path(sys.argv[1], "folder")) as folder:
    file.write_text("half")
    (folder / "part").write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_partials_of_living_writers_stay_and_those_of_killed_ones_go(tmp_path: Path) -> None:
    """Whatever host name and process number the writer has: containers share both."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdout.readline()
    written = [name for name in names(tmp_path) if name.endswith(".partial")]
    assert len(written) == 2
    assert remove_partials(tmp_path) == []
    assert set(written) < set(names(tmp_path))
    writer.kill()
    writer.wait()
    writer.stdin.close()
    writer.stdout.close()
    assert sorted(remove_partials(tmp_path)) == written
    assert names(tmp_path) == []


def test_storage_that_recovers_in_time_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("cluster.storage.time.sleep", waits.append)
    troubles = [OSError("away"), TimeoutError("slow")]

    def action() -> bytes:
        if troubles:
            raise troubles.pop(0)
        return b"here"

    assert retry(action, "read", "s3://bucket/shard-00000.tar") == b"here"
    assert waits == [0.5, 1.0]


def test_what_no_waiting_mends_is_not_tried_again() -> None:
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        raise UserError("no such key")

    with pytest.raises(UserError, match="no such key"):
        retry(action, "read", "s3://bucket/x", hopeless=(UserError,))
    assert calls == [1]


@pytest.mark.parametrize(
    ("shown", "uri"),
    [
        ("postgresql://[redacted]@db/mlflow", "postgresql://ann:pa55@db/mlflow"),
        ("https://h/x?sig=[redacted]&sv=1", "https://h/x?sig=abc%3D&sv=1"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("http://[redacted]@h/x", "http://ann:pa@55@h/x"),  # an @ that was not quoted
        ("postgresql://[redacted]@db/runs", "postgresql://ann:p/a?5@5@db/runs"),
        ("http://h/x?mail=a@b", "http://h/x?mail=a@b"),
    ],
)
def test_credentials_never_show(shown: str, uri: str) -> None:
    assert without_credentials(uri) == shown


def _write(kind: str, path: Path) -> None:
    if kind == "link":
        replace_link(path, "elsewhere")
    elif kind == "table":
        with atomic_file(path) as temporary:
            parquet.write_table(pa.table({"a": [1]}), temporary)
    elif kind == "folder":
        with atomic_folder(path) as temporary:
            (temporary / "weights").write_text("new")
    else:
        write_atomic(path, "new")


def _places(home: Path) -> dict[str, Path]:
    (home / "file").write_text("old")
    (home / "taken" / "deep").mkdir(parents=True)
    return {
        "a parent is a file": home / "file" / "out",
        "a grandparent is a file": home / "file" / "more" / "out",
        "too long a name": home / ("n" * 250),
        "a file system that takes no files": Path("/proc/counterpoint-out"),
        "the other kind": home / "taken",
    }


@pytest.mark.parametrize(
    "place",
    [
        "a parent is a file",
        "a grandparent is a file",
        "too long a name",
        "a file system that takes no files",
        "the other kind",
    ],
)
@pytest.mark.parametrize("kind", ["file", "table", "folder", "link"])
def test_an_error_names_the_place_that_was_asked_for_and_never_a_temporary_file(
    tmp_path: Path, kind: str, place: str
) -> None:
    path = _places(tmp_path)[place]
    if place == "the other kind" and kind == "folder":
        path = tmp_path / "file"
    with pytest.raises(RunError) as refused:
        _write(kind, path)
    words = str(refused.value)
    assert ".partial" not in words
    assert words.startswith(f"{path}: ")
    assert "choose" in words
    assert names(tmp_path) == ["file", "taken"]
    assert (tmp_path / "file").read_text() == "old"


def test_an_error_of_something_else_in_the_block_is_left_as_it_is(tmp_path: Path) -> None:
    absent = FileNotFoundError(errno.ENOENT, "No such file", "/music/song.wav")
    for error in (absent, ValueError("broken"), KeyError(1)):
        with pytest.raises(type(error)) as kept, atomic_file(tmp_path / "out"):
            raise error
        assert kept.value is error
    assert names(tmp_path) == []


def test_a_librarys_own_error_about_the_temporary_file_names_the_place(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"index: cannot be written \(could not open .*/index/part for writing\)"),
        atomic_folder(tmp_path / "index") as temporary,
    ):
        raise RuntimeError(f"could not open {temporary}/part for writing")  # faiss
    assert names(tmp_path) == []
