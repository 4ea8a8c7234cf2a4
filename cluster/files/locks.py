"""Locks on files: one process at a time writes a folder, and the kernel frees it when that process dies.

A lock is `flock` on a file, so containers that share host name and process numbers are kept apart too, and ``kill -9``
leaves nothing to clean up. NFS passes these locks to its server. A file system without locks is named in a warning.
"""

import errno
import fcntl
import itertools
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from cluster.settings import UserError

LOCK_NAME = "lock"
MOST_ATTEMPTS = 100
"""Tries to open a lock file whose folder vanishes in between."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_held: set[int] = set()
_log = logging.getLogger(__name__)


class NoLocksError(OSError):
    """The file system has no locks."""


@contextmanager
def sole_writer(folder: Path, remedy: str) -> Iterator[None]:
    """Keep every other process (and thread) out of a folder while the block runs.

    A folder that was made for the lock and is still empty at the end is removed again.

    Args:
        folder: what is written; it may not be there yet.
        remedy: what else a user can do than wait: "choose another run.dir".

    Raises:
        UserError: if another process writes there, or the folder cannot be made.
    """
    made = not folder.exists()
    try:
        with _alone(folder, folder / LOCK_NAME, remedy):
            yield
    finally:
        if made:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def sole_file_writer(file: Path, remedy: str) -> AbstractContextManager[None]:
    """The same for one file. Raises UserError also if its folder cannot be written."""
    return _alone(file, file.with_name(f".{file.name}.{LOCK_NAME}"), remedy)


@contextmanager
def _alone(place: Path, path: Path, remedy: str) -> Iterator[None]:
    try:
        handle = try_lock(path)
    except NoLocksError as error:
        _log.warning("%s: its file system has no locks (%s); never start two commands that write it", place, error)
        yield
        return
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); {remedy}") from error
    if handle is None:
        raise UserError(f"{place}: another process is running there{_holder(path)}; wait for it to end, or {remedy}")
    try:
        yield
    finally:
        unlock(path, handle)


def wait_for_writer(folder: Path, timeout_s: float) -> bool:
    """Wait until no process writes a folder that is one's own: that of a lost machine may not have ended yet.
    False if one still does after ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while folder.is_dir():
        try:
            handle = try_lock(folder / LOCK_NAME)
        except OSError:  # no locks, or not to be written: `sole_writer` says which
            return True
        if handle is not None:
            unlock(folder / LOCK_NAME, handle)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
    return True


def try_lock(path: Path) -> int | None:
    """Lock a file without waiting; it is made where it is absent, and its folder too.
    Returns a handle for `unlock`, or None if another process or thread has the lock.

    Raises NoLocksError if the file system has no locks, OSError if the file cannot be opened for writing.
    """
    attempts = itertools.count(1)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # its holder removed the empty folder between our two calls
            if next(attempts) >= MOST_ATTEMPTS:  # a file system like /proc, which makes no files
                raise
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            os.close(handle)
            if error.errno in _NO_LOCKS:
                raise NoLocksError(error.errno, os.strerror(error.errno)) from error
            raise
        if _is_at(path, handle):
            os.ftruncate(handle, 0)
            with suppress(OSError):  # a full disk: the lock is what counts
                os.write(handle, f"{socket.gethostname()}, process {os.getpid()}".encode())
            _held.add(handle)
            return handle
        os.close(handle)  # its holder removed the file between our two calls


def unlock(path: Path, handle: int) -> None:
    """Remove the lock's file and let the next one in; nothing in a process that was forked meanwhile."""
    if handle not in _held:
        return
    _held.discard(handle)
    if _is_at(path, handle):
        with suppress(OSError):
            path.unlink()
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    """Who wrote the lock's file, as far as it can be read."""
    try:
        name = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return f" ({name})" if name else ""


def _drop_in_child() -> None:
    """A forked child that outlives its parent must not keep the parent's locks."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_drop_in_child)
