"""Paths that a user gave: what a wrong one may have meant, and whether outputs can be written there.

Output places are tried before work begins: hours of work must not end at a folder that cannot be written.
Nothing is created: where a place does not exist yet, the nearest folder above it is tried, since that is where the
folders in between will be made.
"""

import difflib
import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.settings import UserError

PROBE_BYTES = 4096
"""As much is written to find a full disk: a block of most file systems."""
HEAD_BYTES = 4096
"""In which the mark of a file's kind is looked for."""
PARQUET = ("Parquet file", b"PAR1")
"""Of `require_replaceable_file`: kind and mark."""
_FULL = {errno.ENOSPC, errno.EDQUOT}


def require_writable_folder(path: Path, key: str, *, replaced: bool = False) -> None:
    """Refuse a folder that files could not be written to; it may exist or not.

    Args:
        path: what the user gave.
        key: the option or setting that it was given as, for the message: ``--out``, ``run.dir``.
        replaced: the folder is made beside its place and renamed, as by `cluster.files.storage.atomic_folder`.

    >>> require_writable_folder(Path("/dev/null/set"), "--out")
    Traceback (most recent call last):
    cluster.settings.UserError: --out /dev/null/set: /dev/null is a file, not a folder; give another folder
    """
    remedy = "give another folder"
    _require_writable(path, key, path, remedy)
    if replaced:
        _require_writable(path, key, path.absolute().parent, remedy)


def require_writable_file(path: Path, key: str) -> None:
    """Refuse a file that could not be written or replaced; it may exist or not.

    >>> require_writable_file(Path("/tmp"), "--page")
    Traceback (most recent call last):
    cluster.settings.UserError: --page /tmp: is a folder; give a file, for example in it
    """
    remedy = "give another file"
    try:
        if path.is_dir():
            raise UserError(f"{key} {path}: is a folder; give a file, for example in it")
        if path.exists() and not path.is_file():
            raise UserError(f"{key} {path}: is a device or a pipe, not a file; {remedy}")
    except OSError as error:
        raise _refusal(path, key, path, error, remedy) from None
    _require_writable(path, key, path.parent, remedy)


def require_replaceable_file(path: Path, key: str, kind: str, mark: bytes) -> None:
    """Refuse a file that could not be written, or that would take the place of one of another kind, such as a song.

    Args:
        path: what the user gave.
        key: the option that it was given as.
        kind: what is written, for the message.
        mark: found among the first `HEAD_BYTES` of every file of this kind.

    Raises:
        UserError: names ``path``, what is wrong and ``key``.
    """
    require_writable_file(path, key)
    if path.is_file() and path.stat().st_size:
        try:
            with path.open("rb") as file:
                same = mark in file.read(HEAD_BYTES)
        except OSError:
            same = False
        if not same:
            raise UserError(f"{key} {path}: is there already and is no {kind}; give another file")


def require_replaceable_folder(path: Path, key: str) -> None:
    """Refuse a folder that could not be written beside its place and renamed, as `storage.atomic_folder` does."""
    require_writable_folder(path, key, replaced=True)
    require_renamable(path, key)


def require_renamable(path: Path, key: str) -> None:
    """Refuse a folder in whose place no other can be renamed."""
    place = path.resolve()
    if place == Path.cwd():
        raise UserError(f"{key} {path}: is the working folder, which cannot be replaced; give a folder in it")
    if place.is_mount():
        raise UserError(f"{key} {path}: is a mount point, which cannot be replaced; give a folder in it")


def require_apart(path: Path, key: str, source: Path, source_key: str) -> None:
    """Refuse an output that is, or holds, what the command reads; an output inside of it is fine."""
    if source.resolve().is_relative_to(path.resolve()):
        what = "is" if path.resolve() == source.resolve() else "holds"
        raise UserError(f"{key} {path}: {what} the {source_key} {source}, which is only read; give another place")


def _require_writable(path: Path, key: str, folder: Path, remedy: str) -> None:
    """Try the folder ``folder``, or the nearest one above it that is there."""
    there = folder.absolute()
    try:
        while not _exists(there):
            there = there.parent
        if not there.is_dir():
            what = "is a link that leads nowhere" if not there.exists() else "is a file, not a folder"
            raise UserError(f"{key} {path}: {'' if there == path.absolute() else f'{there} '}{what}; {remedy}")
        longest = max((path.name, *folder.absolute().relative_to(there).parts), key=lambda name: len(os.fsencode(name)))
        # As long as the name of what is written beside its place and renamed, see `cluster.files.storage.atomic_file`.
        prefix = f".{longest}@{socket.gethostname()}+{os.getpid()}+000000"
        with tempfile.NamedTemporaryFile(dir=there, prefix=prefix, suffix=".partial", buffering=0) as probe:
            probe.write(bytes(PROBE_BYTES))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _refusal(path, key, there, error, remedy) from None


def _exists(path: Path) -> bool:
    """Whether there is anything, a link that leads nowhere too; a name that is too long or forbidden raises."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _refusal(path: Path, key: str, folder: Path, error: Exception, remedy: str) -> UserError:
    code = getattr(error, "errno", None)
    if code in _FULL:
        return UserError(f"{key} {path}: the disk is full; free some space, or {remedy}")
    if code == errno.ENAMETOOLONG:
        return UserError(f"{key} {path}: the name is too long for this file system; {remedy}")
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"{key} {path}: {folder} cannot be written ({reason}); make it writable, or {remedy}")


MOST_FOLDERS = 500
"""Folders that are looked into: a refusal must not take long on a large or distant disk."""
DEPTH = 3


def did_you_mean(path: Path, *marks: str) -> str:
    """The nearest folder that holds one of the files ``marks``, as ``; did you mean DIR?``; nothing where there is
    none.
    """
    there = path.expanduser().absolute()
    base = there
    while not base.is_dir():
        base = base.parent
    found = [folder for folder in (base, *_below(base, DEPTH)) if any((folder / mark).is_file() for mark in marks)]
    if not found:
        return ""
    near = max(found, key=lambda folder: difflib.SequenceMatcher(None, str(folder), str(there)).ratio())
    shown = near if path.is_absolute() or not near.is_relative_to(Path.cwd()) else near.relative_to(Path.cwd())
    return f"; did you mean {shown}?"


def _below(base: Path, depth: int) -> Iterator[Path]:
    """Folders below ``base``, level by level, hidden ones and links left out."""
    level, seen = [base], 0
    for _ in range(depth):
        further: list[Path] = []
        for folder in level:
            seen += 1
            if seen > MOST_FOLDERS:
                return
            try:
                inside = sorted(
                    entry
                    for entry in folder.iterdir()
                    if entry.name[0] != "." and entry.is_dir() and not entry.is_symlink()
                )
            except OSError:
                continue
            further += inside
            yield from inside
        level = further
