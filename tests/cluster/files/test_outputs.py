"""Output places are tried before work begins, nothing is made by it, and a refusal names the user's path."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cluster.files.outputs import (
    PARQUET,
    require_apart,
    require_replaceable_file,
    require_replaceable_folder,
    require_writable_file,
    require_writable_folder,
)
from cluster.files.storage import atomic_file
from cluster.settings import UserError

Require = Callable[[Path, str], None]
BOTH = pytest.mark.parametrize("require", [require_writable_folder, require_writable_file])


def refusal(require: Require, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        require(path, "--out")
    assert str(caught.value).startswith(f"--out {path}: ")
    assert ".partial" not in str(caught.value)
    return str(caught.value)


def failing(code: int) -> Callable[..., NoReturn]:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(code, os.strerror(code), "/tmp/.secret.partial")

    return fail


@BOTH
@pytest.mark.parametrize("name", ["new", "a/b/c/new", "Beyoncé", "x" * 150, "-", "with space"])
def test_a_place_that_can_be_written_passes_and_nothing_is_made(tmp_path: Path, require: Require, name: str) -> None:
    require(tmp_path / name, "--out")
    assert not list(tmp_path.iterdir())


@BOTH
def test_a_relative_path_passes(tmp_path: Path, require: Require, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    require(Path("new"), "--out")
    require(Path("a/../new"), "--out")
    assert not list(tmp_path.iterdir())


def test_what_exists_passes_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "folder link").symlink_to(tmp_path)
    require_writable_file(tmp_path / "old", "--out")
    require_writable_file(tmp_path / "link", "--out")
    require_writable_folder(tmp_path, "--out")
    require_writable_folder(tmp_path / "folder link", "--out")
    assert {path.name for path in tmp_path.iterdir()} == {"old", "link", "folder link"}
    assert (tmp_path / "old").read_text() == "kept"


def test_a_file_in_the_way_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refusal(require_writable_folder, tmp_path / "file")
    assert message.endswith(": is a file, not a folder; give another folder")


@BOTH
def test_a_file_above_the_place_is_named(tmp_path: Path, require: Require) -> None:
    (tmp_path / "file").touch()
    assert f": {tmp_path / 'file'} is a file, not a folder" in refusal(require, tmp_path / "file" / "a" / "b")


@BOTH
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, require: Require) -> None:
    (tmp_path / "link").symlink_to("gone")
    assert f": {tmp_path / 'link'} is a link that leads nowhere" in refusal(require, tmp_path / "link" / "a")


def test_a_folder_where_a_file_is_needed_is_refused(tmp_path: Path) -> None:
    assert "is a folder; give a file" in refusal(require_writable_file, tmp_path)


def test_a_device_is_never_replaced() -> None:
    assert "is a device or a pipe, not a file" in refusal(require_writable_file, Path("/dev/null"))


@BOTH
def test_a_name_that_is_too_long_is_refused(tmp_path: Path, require: Require) -> None:
    for name in ("x" * 300, "ü" * 130, "/".join(["long"] * 2_000)):
        assert "the name is too long" in refusal(require, tmp_path / name)


def test_a_name_that_passes_can_be_written_atomically(tmp_path: Path) -> None:
    written = 0
    for length in range(150, 260, 5):
        path = tmp_path / ("x" * length)
        try:
            require_writable_file(path, "--out")
        except UserError:
            continue
        with atomic_file(path) as partial:
            partial.touch()
        assert path.is_file()
        written += 1
    assert written > 5


@BOTH
def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path, require: Require) -> None:
    assert "cannot be written (" in refusal(require, tmp_path / "a\0b")


@BOTH
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "cannot be written (Permission denied); make it writable, or give another"),
        (errno.EROFS, "cannot be written (Read-only file system); make it writable, or give another"),
        (errno.ENOSPC, "the disk is full; free some space, or give another"),
        (errno.EDQUOT, "the disk is full; free some space, or give another"),
    ],
)
def test_what_the_system_refuses_is_reported_with_its_remedy(
    tmp_path: Path, require: Require, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", failing(code))
    assert words in refusal(require, tmp_path / "new")


@BOTH
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path, require: Require) -> None:
    tmp_path.chmod(0o500)
    assert f"{tmp_path} cannot be written (Permission denied)" in refusal(require, tmp_path / "a" / "b")


def test_an_output_that_is_or_holds_the_input_is_refused(tmp_path: Path) -> None:
    music = tmp_path / "music"
    music.mkdir()
    (tmp_path / "link").symlink_to("music")
    for out, word in ((music, "is"), (tmp_path, "holds"), (tmp_path / "link", "is"), (music / ".." / "music", "is")):
        with pytest.raises(UserError, match=f"^--out {out}: {word} the --audio {music}, which is only read"):
            require_apart(out, "--out", music, "--audio")
    for fine in (tmp_path / "set", music / "set", tmp_path / "music2"):
        require_apart(fine, "--out", music, "--audio")


def test_a_folder_that_is_replaced_needs_its_parent_and_is_no_mount_point(tmp_path: Path) -> None:
    require_replaceable_folder(tmp_path / "a" / "b", "--out")
    require_replaceable_folder(tmp_path, "--out")
    assert list(tmp_path.iterdir()) == []
    refusal(require_replaceable_folder, Path("/proc/counterpoint-out"))
    assert "is a mount point, which cannot be replaced" in refusal(require_replaceable_folder, Path("/dev/shm"))


def test_the_working_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "", str(tmp_path), f"../{tmp_path.name}"):
        assert "is the working folder, which cannot be replaced" in refusal(require_replaceable_folder, Path(name))


def test_only_a_file_of_the_kind_that_is_written_is_replaced(tmp_path: Path) -> None:
    def require(path: Path, key: str) -> None:
        require_replaceable_file(path, key, *PARQUET)

    song, table, empty = (tmp_path / name for name in ("song.wav", "table.parquet", "empty"))
    song.write_bytes(b"RIFF1234WAVE")
    table.write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    empty.touch()
    assert refusal(require, song).endswith("is there already and is no Parquet file; give another file")
    for fine in (table, empty, tmp_path / "new"):
        require(fine, "--out")
