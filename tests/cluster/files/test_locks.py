"""One process at a time writes a folder, whatever it is called and however it dies."""

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster.files.locks import LOCK_NAME, sole_file_writer, sole_writer, wait_for_writer
from cluster.settings import UserError

REMEDY = "choose another run.dir"
HOLD = """
import sys
from pathlib import Path
from cluster.files.locks import sole_writer
with sole_writer(Path(sys.argv[1]), "x"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path, code: str = HOLD) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def test_another_process_is_refused_with_the_folder_and_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = hold(folder)
    with (
        pytest.raises(UserError, match=rf"{folder}: another process is running there \(.*\); wait .*, or {REMEDY}"),
        sole_writer(folder, REMEDY),
    ):
        pass
    end(holder)
    with sole_writer(folder, REMEDY):  # at once after kill -9
        pass
    assert list(folder.iterdir()) == []


def test_a_folder_is_waited_for_until_its_writer_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert wait_for_writer(folder, 0.0), "nothing is there yet"
    holder = hold(folder)
    assert not wait_for_writer(folder, 0.3)
    end(holder)
    assert wait_for_writer(folder, 0.0)
    assert list(folder.iterdir()) == []


FORK = """
import os, sys
from pathlib import Path
from cluster.files.locks import sole_writer
with sole_writer(Path(sys.argv[1]), "x"):
    if os.fork() == 0:
        print("held", flush=True)
    sys.stdin.read()
"""


def test_a_forked_child_that_outlives_its_parent_keeps_no_lock(tmp_path: Path) -> None:
    holder = hold(tmp_path / "run", FORK)
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    with sole_writer(tmp_path / "run", REMEDY):  # the child lives until its input ends
        assert (tmp_path / "run").is_dir()
    end(holder)


def test_another_thread_is_refused_too_and_a_folder_inside_is_another_folder(tmp_path: Path) -> None:
    ends: list[str] = []

    def second() -> None:
        try:
            with sole_writer(tmp_path, REMEDY):
                ends.append("in")
        except UserError:
            ends.append("refused")

    with sole_writer(tmp_path, REMEDY), sole_writer(tmp_path / "rows" / "one", REMEDY):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert ends == ["refused"]


def test_a_folder_that_was_made_for_the_lock_alone_goes_again(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "none", REMEDY):
        pass
    with sole_writer(tmp_path / "some", REMEDY):
        (tmp_path / "some" / "file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["some", "file"]


def test_a_folder_that_is_replaced_meanwhile_is_free_afterwards(tmp_path: Path) -> None:
    folder, aside = tmp_path / "index", tmp_path / "aside"
    with sole_writer(folder, REMEDY):
        folder.rename(aside)
        folder.mkdir()
    with sole_writer(folder, REMEDY):
        assert (folder / LOCK_NAME).exists()


def test_a_file_has_one_writer_and_no_lock_beside_it_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "embeddings.parquet"
    with sole_file_writer(file, REMEDY):
        with pytest.raises(UserError, match=f"{file}: another process"), sole_file_writer(file, REMEDY):
            pass
        file.touch()
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=f"cannot be written .*{REMEDY}"),
        sole_writer(tmp_path / "file" / "run", REMEDY),
    ):
        pass


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("cluster.files.locks.fcntl.flock", refuse)
    with caplog.at_level(logging.WARNING), sole_writer(tmp_path, REMEDY):
        pass
    assert f"{tmp_path}: its file system has no locks" in caplog.text
