"""Folders that a run needs beside its own: Ray's sockets, the token, caches; wherever HOME and TMPDIR point.

What the environment names is taken where it can be used. Where it names nothing usable, a short private folder below
/tmp serves; where that cannot be either, the message names the one variable that helps.
"""

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cluster.settings import UserError

LONGEST_SOCKET = 107
"""Bytes of a socket's path on Linux."""
LEAST_FREE = 64 << 20
_TAIL = "ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store.4"
"""Longest path that Ray makes below its folder: a session is named by date and process number."""
_SYSTEM = Path("/tmp")
replaced: dict[str, str] = {}
"""Variables that this process has replaced, as they were."""


def trouble_with(folder: Path, *, sockets: bool = False) -> str:
    """Why a folder cannot be written to, or Ray's sockets do not fit into it; empty where nothing is wrong. It is made
    if it is not there.
    """
    if not folder.is_absolute():
        return "a relative path, which means another folder to every process"
    if sockets and len(os.fsencode(folder / _TAIL)) > LONGEST_SOCKET:
        most = LONGEST_SOCKET - len(_TAIL) - 1
        return f"{len(os.fsencode(folder))} bytes long, Ray's sockets need {most} or fewer"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < LEAST_FREE:
            return "its disk is full"
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tried-") as file:
            file.write(b"\0" * 65_536)
            file.flush()
            os.fsync(file.fileno())
        if sockets:
            _try_socket(folder)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _try_socket(folder: Path) -> None:
    place = folder / f".tried-{os.getpid()}"
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(place))
    finally:
        place.unlink(missing_ok=True)


def private_folder() -> Path:
    """A short folder of this user alone below /tmp. Raises UserError if it cannot be had."""
    folder = _SYSTEM / f"counterpoint-{os.getuid()}"
    with suppress(FileExistsError, OSError):
        folder.mkdir(mode=0o700)
    try:
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; set TMPDIR to a short path that can be written to") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"{folder} is not this user's folder; remove it, or set TMPDIR to a short path of your own")
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def use_as_tmpdir(folder: Path) -> None:
    """Let this process, and those that it starts, make their temporary files and sockets in a folder."""
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None  # it is read again


def replace_tmpdir() -> None:
    """Stand in for a TMPDIR that cannot be written to, or in which sockets (multiprocessing's too) do not fit."""
    named = os.environ.get("TMPDIR")
    if named is None:
        return
    place = Path(named)
    if not _writable(place) or len(os.fsencode(place / _TAIL)) > LONGEST_SOCKET:
        try:
            use_as_tmpdir(private_folder())
        except UserError:
            return  # what needs it raises its own error
        replaced["TMPDIR"] = named


def ray_folder() -> Path | None:
    """Where a local Ray keeps its sockets and logs: None for the place that it takes itself.
    Where it cannot be, the UserError names the variable: RAY_TMPDIR if that is set, else TMPDIR.
    """
    named = os.environ.get("RAY_TMPDIR")
    if named is not None:
        if why := _ray_trouble(Path(named)):
            raise UserError(f"RAY_TMPDIR={named}: {why}; unset it, or set it to a short path that can be written to")
        return None
    own = os.environ.get("TMPDIR")
    if not (why := _ray_trouble(Path(own) if own else _SYSTEM)):
        return None if own != "" else _SYSTEM
    folder = private_folder()
    if other := trouble_with(folder, sockets=True):
        reason = f"TMPDIR={own}: {why}; {folder}: {other}" if own else f"{folder}: {other}"
        raise UserError(f"no folder for Ray's sockets: {reason}; set TMPDIR to a short path that can be written to")
    return folder / "ray"  # Ray opens its folder to everyone; the one above it stays closed


def _ray_trouble(folder: Path) -> str:
    """As `trouble_with`, of the folder ``ray`` in it, which another user may own."""
    return trouble_with(folder, sockets=True) or (trouble_with(folder / "ray") if (folder / "ray").exists() else "")


def home() -> Path | None:
    """The user's home where it is a place that can be written to, else None: a container's user may have none."""
    try:
        folder = Path.home()
    except RuntimeError:  # no HOME, and no line in /etc/passwd
        return None
    return folder if folder.is_absolute() and os.access(folder, os.W_OK | os.X_OK) else None


def cache_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for libraries that keep caches in a home, where there is none that can be written to.

    >>> cache_variables({"MPLCONFIGDIR": "/tmp"})
    {}
    """
    wanted: dict[str, str] = {}
    config, cache = (_below_home(environment, f"XDG_{kind}_HOME") for kind in ("CONFIG", "CACHE"))
    named = environment.get("MPLCONFIGDIR")
    if not (_writable(Path(named)) if named else config and cache):
        wanted["MPLCONFIGDIR"] = "matplotlib"
    if not cache and "XDG_CACHE_HOME" in environment:
        wanted["XDG_CACHE_HOME"] = "cache"
    if home() is None:
        names = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor", "NUMBA_CACHE_DIR": "numba"}
        wanted |= {name: folder for name, folder in names.items() if name not in environment}
    if not wanted:
        return {}
    try:
        base = private_folder()
    except UserError:
        return {}  # the libraries have remedies of their own
    return {name: str(base / folder) for name, folder in wanted.items()}


def _below_home(environment: Mapping[str, str], name: str) -> bool:
    named = environment.get(name)
    return _writable(Path(named)) if named else home() is not None


def _writable(folder: Path) -> bool:
    """Whether a folder, or the nearest above it that is there, can be written to."""
    if not folder.is_absolute():
        return False
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
