"""Files that are whole or absent: atomic writes, digests, and storage that may be slow to answer.

Independent of Ray, MLflow and music; every other package writes through it.
"""

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cluster.files.locks import NoLocksError, try_lock, unlock
from cluster.settings import RunError, UserError

PARTIAL, PARTIAL_LOCK = ".partial", ".partial-lock"
ATTEMPTS = 4
FIRST_WAIT_S = 0.5
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}

Answer = TypeVar("Answer")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what was written there becomes ``path`` when the block ends well.

    A reader, or a run that is killed at any moment, sees the old file or the new one, never a part (faults 40, 41).

    Raises:
        RunError: if the disk is full or ``path`` cannot be written; it is then what it was before.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_file(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     [p.name for p in Path(folder).iterdir()]
    ['a.txt']
    """
    with _partial(path) as partial:
        try:
            yield partial
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """`atomic_file` for a folder of files, RunError and all. Where ``path`` exists the two change places in one step,
    and the old one goes.
    """
    with _partial(path) as partial:
        partial.mkdir()
        try:
            yield partial
            for folder, _, names in os.walk(partial):
                for name in names:
                    _sync(Path(folder, name))
                _sync(Path(folder))
            if path.exists() and not path.is_dir():  # two of different kinds would replace each other unnoticed
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            _exchange(partial, path) if path.exists() else partial.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # the unfinished folder, or the one that was replaced


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a small file atomically, text as UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def replace_link(link: Path, target: str) -> None:
    """Point the symbolic link ``link`` at ``target`` (relative to the link's folder), in one atomic step."""
    with _partial(link) as partial:
        try:
            partial.symlink_to(target)
            partial.replace(link)
            _sync(link.parent)
        finally:
            partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> list[str]:
    """Delete what killed writers left in ``folder``, and return the names; what a living process writes, on any
    machine, is locked and stays.
    """
    gone: list[str] = []
    locks = {entry.with_suffix(PARTIAL_LOCK) for entry in folder.glob(f".*{PARTIAL}")}
    for lock in sorted(locks | set(folder.glob(f".*{PARTIAL_LOCK}"))):
        entry = lock.with_suffix(PARTIAL)
        try:
            handle = try_lock(lock)
        except NoLocksError:  # whether its writer lives cannot be known
            continue
        if handle is None:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
            gone.append(entry.name)
        elif entry.exists() or entry.is_symlink():
            entry.unlink()
            gone.append(entry.name)
        unlock(lock, handle)
    return gone


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_credentials(text: str, uri: str | None = None) -> str:
    """A URI, or a message with URIs, as a person may see it: no user, no password, no signature in a query.

    Args:
        text: what will be shown.
        uri: whose user and password are taken out of ``text`` wherever they stand; None = only what looks like a URI.

    >>> without_credentials("https://ann:secret@host/x?X-Amz-Signature=ab12&part=1")
    'https://[redacted]@host/x?X-Amz-Signature=[redacted]&part=1'
    """
    user = re.search(r"://([^/@\s]+)@", uri or "")
    text = text.replace(user[1], "[redacted]") if user else text
    # Up to the last @, as those who read URIs do; a database's password may hold / and ? too.
    text = re.sub(r"\b((?:postgresql|mysql|mssql)[\w+]*://)\S+@", r"\1[redacted]@", text)
    text = re.sub(r"(?<=://)[^/?#\s]+@", "[redacted]@", text)
    secret = r"([?&][\w.-]*(?:sig|signature|token|key|secret|password|credential)[\w.-]*=)[^&\s]+"
    return re.sub(secret, r"\1[redacted]", text, flags=re.IGNORECASE)


def retry(
    action: Callable[[], Answer],
    what: str,
    uri: str,
    *,
    attempts: int = ATTEMPTS,
    hopeless: tuple[type[Exception], ...] = (),
) -> Answer:
    """Call ``action`` until it answers, with doubling waits in between (docs/faults.md, 47).

    Args:
        action: raises while the storage is unreachable.
        what: what is being done, for the message: "read", "list".
        uri: what it is done to.
        attempts: calls in all, ≥ 1.
        hopeless: errors that no waiting mends; they are let through at once.

    Raises:
        RunError: names the URI, the attempts and the last error.
    """
    assert attempts >= 1
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except Exception as error:  # every fsspec back end has its own exceptions (botocore, gcsfs, aiohttp)
            if isinstance(error, hopeless):
                raise
            if attempt == attempts:
                reason = without_credentials(f"{type(error).__name__}: {error}", uri)
                raise RunError(
                    f"{without_credentials(uri)}: cannot {what} after {attempts} attempts ({reason}); "
                    "is the storage reachable, and do its credentials allow it?"
                ) from error
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A new name beside ``path`` to write to, locked as long as its writer lives; errors name ``path``."""
    handle: int | None = None
    name = f".{path.name}@{secrets.token_hex(8)}"
    with _errors_of(path, name):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(name + PARTIAL_LOCK)
        while handle is None:  # None: `remove_partials` took the file of this lock for one that was left
            try:
                handle = try_lock(lock)
            except NoLocksError:
                break
        try:
            yield path.with_name(name + PARTIAL)
        finally:
            if handle is not None:
                unlock(lock, handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(partial: Path, path: Path) -> None:
    """Swap two folders; rename(2) alone replaces a folder only where it is empty."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    if renameat2(here, os.fsencode(partial), here, os.fsencode(path), exchange) == 0:
        return
    code = ctypes.get_errno()
    if code not in _NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(path))
    with _partial(path) as aside:  # NFS cannot swap: for an instant the target is absent, never half
        path.rename(aside)
        partial.rename(path)
        aside.rename(partial)


@contextmanager
def _errors_of(path: Path, temporary: str) -> Iterator[None]:
    """Name ``path`` in whatever fails to write a file whose name begins with ``temporary``, which only this module
    knows.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:  # pyarrow, faiss and torch have their own
        code = error.errno if isinstance(error, OSError) else None
        if code in _FULL:
            raise RunError(
                f"{path}: the disk is full, nothing was replaced; free some space and run the command again"
            ) from error
        named = [str(getattr(error, which, None)) for which in ("filename", "filename2")]
        above = sorted(set(named) & set(map(str, path.parents)))
        if temporary not in " ".join([str(error), *named]) and not above and str(path) not in named:
            raise
        if code == errno.ENAMETOOLONG:
            raise RunError(f"{path}: the name is too long for this file system; choose a shorter one") from error
        endings = "|".join(map(re.escape, (PARTIAL_LOCK, PARTIAL)))  # the longer one first
        hidden = re.compile(f"{re.escape(str(path.with_name(temporary)))}({endings})")
        reason = hidden.sub(lambda _: str(path), str(getattr(error, "strerror", None) or error))
        within = [hidden.sub(lambda _: str(path), place) for place in named if hidden.search(place)]
        reason = f"{above[0]}: {reason}" if above and not within else reason
        raise RunError(
            f"{within[0] if within else path}: cannot be written ({reason}); make it writable, or choose another place"
        ) from error
