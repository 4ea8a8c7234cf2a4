"""HOME, TMPDIR and their like: what cannot be used is stood in for, or named with the one variable that helps."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import doctor
from cluster.machine import process, scratch
from cluster.ray_runtime import credentials, session
from cluster.settings import RunError, UserError

Broken = Callable[[Path], Path]


def too_long(tmp: Path) -> Path:
    return tmp / "/".join(["long-scratch-folder-of-a-job"] * 4)


def below_a_file(tmp: Path) -> Path:
    (tmp / "file").touch()
    return tmp / "file" / "folder"


def relative(_: Path) -> Path:
    return Path("scratch")


def not_writable(_: Path) -> Path:
    return Path("/proc")  # for root too


BROKEN = [too_long, below_a_file, relative, not_writable]


@pytest.fixture(autouse=True)
def own_system_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands for /tmp; short, as that is."""
    folder = Path(os.path.realpath("/tmp")) / f"t{os.getpid()}"
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(scratch, "_SYSTEM", folder)
    for name in ("TMPDIR", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_tmpdir_that_ray_cannot_use_is_stood_in_for(
    broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_system_folder: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(broken(tmp_path)))
    folder = scratch.ray_folder()
    assert folder == own_system_folder / f"counterpoint-{os.getuid()}" / "ray"
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700  # Ray opens its own folder to everyone
    (found,) = [check for check in doctor._places() if check.name == "temporary files"]
    assert "cannot be used" in found.found


@pytest.mark.parametrize("broken", [too_long, below_a_file, relative])
def test_a_tmpdir_in_which_no_socket_fits_is_replaced_for_the_whole_process(
    broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_system_folder: Path
) -> None:
    """Ray's dashboard and multiprocessing make sockets there too."""
    monkeypatch.setenv("TMPDIR", str(broken(tmp_path)))
    monkeypatch.setattr(scratch, "replaced", {})
    monkeypatch.setattr("tempfile.tempdir", None)
    scratch.replace_tmpdir()
    assert os.environ["TMPDIR"] == str(own_system_folder / f"counterpoint-{os.getuid()}")
    assert scratch.replaced == {"TMPDIR": str(broken(tmp_path))}
    assert scratch.ray_folder() is None  # what stands in is good enough for Ray


@pytest.mark.parametrize("broken", BROKEN)
def test_a_ray_tmpdir_that_cannot_be_used_is_named(
    broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = broken(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    with pytest.raises(UserError, match=rf"^RAY_TMPDIR={place}: .*; unset it, or set it to a short path"):
        scratch.ray_folder()


def test_a_folder_that_can_be_used_is_left_to_ray(own_system_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scratch.ray_folder() is None
    monkeypatch.setenv("TMPDIR", str(own_system_folder / "made"))
    assert scratch.ray_folder() is None
    assert list((own_system_folder / "made").iterdir()) == []


def test_a_full_disk_is_found_out(own_system_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "LEAST_FREE", 1 << 62)
    monkeypatch.setenv("TMPDIR", str(own_system_folder))
    with pytest.raises(UserError, match=r"TMPDIR=.*: its disk is full; .*: its disk is full; set TMPDIR to"):
        scratch.ray_folder()


def test_a_private_folder_of_somebody_else_is_not_taken(own_system_folder: Path) -> None:
    place = own_system_folder / f"counterpoint-{os.getuid()}"
    place.rename(own_system_folder / "elsewhere") if place.exists() else (own_system_folder / "elsewhere").mkdir()
    place.symlink_to(own_system_folder / "elsewhere")
    try:
        with pytest.raises(UserError, match="not this user's folder; remove it"):
            scratch.private_folder()
    finally:
        place.unlink()
        (own_system_folder / "elsewhere").rename(place)


@pytest.mark.parametrize("home", ["/proc", "relative", "/dev/null"])
def test_a_token_finds_a_place_without_a_home(
    home: str, monkeypatch: pytest.MonkeyPatch, own_system_folder: Path
) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "")  # so that what is set below is taken back
    credentials.ensure_token()
    place = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert place == own_system_folder / f"counterpoint-{os.getuid()}" / "auth_token"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert credentials.has_token()


def test_a_token_path_of_the_users_own_is_named_where_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/proc/token")
    with pytest.raises(UserError, match=r"^RAY_AUTH_TOKEN_PATH=/proc/token: .*; set it to a file"):
        credentials.ensure_token()
    (found,) = [check for check in doctor.checks() if check.name == "token"]
    assert (found.state, found.remedy) == ("fail", "set it to a file that this user can write")


@pytest.mark.parametrize("home", ["/proc/none", "relative"])
def test_libraries_get_caches_where_there_is_no_home(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    found = scratch.cache_variables({"TRITON_CACHE_DIR": "/mine"})
    assert set(found) == {"MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR"}


def test_a_home_that_can_be_written_to_keeps_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert scratch.cache_variables({}) == {}
    assert set(scratch.cache_variables({"XDG_CACHE_HOME": "/dev/null/none"})) == {"MPLCONFIGDIR", "XDG_CACHE_HOME"}
    assert set(scratch.cache_variables({"MPLCONFIGDIR": "relative"})) == {"MPLCONFIGDIR"}


def test_threads_wait_passively_unless_the_user_sets_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process.WAIT_POLICY, "ACTIVE")
    process.prepare()
    assert os.environ[process.WAIT_POLICY] == "ACTIVE"
    monkeypatch.delenv(process.WAIT_POLICY)
    process.prepare()
    assert os.environ[process.WAIT_POLICY] == "PASSIVE"


@pytest.mark.parametrize(("given", "kept"), [(None, "0"), ("7", "7")])
def test_workers_of_a_local_session_are_not_nicer_than_its_driver(
    given: str | None, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_JOB_CONFIG_JSON_ENV_VAR", session.NICENESS):
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(session.NICENESS, given)
    seen: list[str] = []

    def start(_: object) -> None:
        seen.append(os.environ[session.NICENESS])
        raise RuntimeError("OSError: AF_UNIX path length cannot exceed 107 bytes")

    monkeypatch.setattr(session, "_start", start)
    with pytest.raises(RunError, match="set RAY_TMPDIR=/tmp"), session.ray_session():
        raise AssertionError("never entered")
    assert seen == [kept]


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("The last 20 lines of dashboard.log", "tries again"),
        ("No space left on device", "free some space"),
        ("Permission denied", "set RAY_TMPDIR"),
        ("something else", "resources.num_workers=0"),
    ],
)
def test_each_cause_has_its_own_remedy(message: str, remedy: str) -> None:
    assert remedy in session._remedy(message)
    assert ("busy" in session._remedy(message)) == ("dashboard" in message)
