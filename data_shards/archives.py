"""A dataset's files as they were published: a folder, a zip read in place, or a zip in parts that were never joined.

A compressed tar cannot be read out of order; it is unpacked once.
"""

import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.audio import AudioError, FileAudio, decode
from data_shards.records import Audio
from data_shards.text import tidy

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_MEMBER_BYTES = 1 << 30
"""A zip's member may unpack to as much: far above any clip, far below what fills a machine."""
OPEN_ARCHIVES = 4
"""Archives that a process keeps open: reading the directory of 10^5 members takes about a second."""
_DAMAGED = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError)
"""What a damaged, encrypted or unknown member raises; RuntimeError covers zipfile's NotImplementedError."""


class Tree(Protocol):
    """Files below one point, by path with ``/``."""

    @property
    def name(self) -> str:
        """What a message calls it."""
        ...

    def paths(self) -> Sequence[str]:
        """Every file, sorted."""
        ...

    def read(self, path: str) -> bytes:
        """A small file whole.

        Raises:
            UserError: it is missing or damaged.
        """
        ...

    def audio(self, path: str) -> Audio:
        """A file as audio; whether it is there and whole shows when it is read."""
        ...


@dataclass(frozen=True)
class FolderTree:
    """A folder."""

    root: Path

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self.root)

    def paths(self) -> list[str]:
        """Every file but hidden ones, sorted."""
        files = (path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith("."))
        return sorted(path.relative_to(self.root).as_posix() for path in files)

    def read(self, path: str) -> bytes:
        """A small file whole.

        Raises:
            UserError: it is missing or cannot be read.
        """
        try:
            return (self.root / self.spelled(path)).read_bytes()
        except OSError as error:
            raise UserError(f"{self.root / path}: {error.strerror}") from None

    def audio(self, path: str) -> FileAudio:
        """A file as audio, found in either Unicode form.

        Raises:
            UserError: as `spelled`.
        """
        return FileAudio(str(self.root), self.spelled(path))

    def spelled(self, path: str) -> str:
        """A path as the file system spells it, where that only looks the same (`data_shards.text.tidy`).

        A name that a Mac wrote is decomposed (NFD), one that was typed is composed (NFC); both look alike.

        Raises:
            UserError: two files look like the one that is named, and neither is spelled like it.
        """
        if os.path.lexists(self.root / path):
            return path
        found: list[str] = []
        for name in path.split("/"):
            if not os.path.lexists(self.root.joinpath(*found, name)):
                same = self._names_alike("/".join(found)).get(tidy(name), [])
                if len(same) > 1:
                    both = " and ".join(ascii(one) for one in same[:2])
                    raise UserError(f"{self.root / path}: is {both} in ASCII notation; spell it like one of them")
                if not same:
                    return path
                name = same[0]
            found.append(name)
        return "/".join(found)

    @cached_property
    def _listed(self) -> dict[str, dict[str, list[str]]]:
        return {}

    def _names_alike(self, folder: str) -> dict[str, list[str]]:
        """What a folder holds, by `tidy` name; listed once."""
        if folder not in self._listed:
            names: dict[str, list[str]] = {}
            try:
                for name in sorted(os.listdir(self.root / folder)):  # noqa: PTH208 half the time of Path
                    names.setdefault(tidy(name), []).append(name)
            except OSError:
                pass  # no such folder: what reads the file tells it
            self._listed[folder] = names
        return self._listed[folder]


@dataclass(frozen=True)
class ZipAudio:
    """Audio of one member of a zip."""

    archive: tuple[str, ...]
    """The zip, or its parts in order."""
    member: str
    crc: int
    """Of the unpacked member, from the zip's directory: another archive is another clip to a build that resumes."""

    @property
    def name(self) -> str:
        """The path a person would look at, as if the archive were a folder."""
        return f"{self.archive[0]}/{self.member}"

    def read(self) -> tuple[NDArray[np.float32], int]:
        """Unpack the member, checked by its CRC, and decode it: (T, channels) in [-1, 1], and the rate in Hz.

        Raises:
            AudioError: missing, damaged, too large, or not audio.
        """
        try:
            data = read_member(self.archive, self.member)
        except KeyError:
            raise AudioError("no such member") from None
        except _DAMAGED as error:
            raise AudioError(f"cannot be unpacked: {error}") from None
        # The checks of a file's container, and the decoders, ask for a path.
        with tempfile.NamedTemporaryFile(suffix=Path(self.member).suffix) as file:
            file.write(data)
            file.flush()
            return decode(Path(file.name))


@dataclass(frozen=True)
class ZipTree:
    """The members of a zip; paths leave out a folder that all of them share."""

    archive: tuple[str, ...]

    @property
    def name(self) -> str:
        """The path of the zip, or of its first part."""
        return self.archive[0]

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        infos = [info for info in _infos(self.archive) if not info.is_dir()]
        infos = [info for info in infos if not info.filename.startswith("__MACOSX/")]
        tops = {info.filename.partition("/")[0] if "/" in info.filename else "" for info in infos}
        shared = f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""
        return {info.filename.removeprefix(shared): info for info in infos}

    @cached_property
    def _alike(self) -> dict[str, zipfile.ZipInfo]:
        return {tidy(path): info for path, info in self._members.items()}

    def _member(self, path: str) -> zipfile.ZipInfo | None:
        """In either Unicode form."""
        return self._members.get(path) or self._alike.get(tidy(path))

    def paths(self) -> list[str]:
        """Every file but hidden ones, sorted."""
        return sorted(path for path in self._members if not path.rpartition("/")[2].startswith("."))

    def read(self, path: str) -> bytes:
        """A small file whole.

        Raises:
            UserError: it is missing or damaged.
        """
        info = self._member(path)
        if info is None:
            raise UserError(f"{self.name}: no member {path}")
        try:
            return read_member(self.archive, info.filename)
        except _DAMAGED as error:
            raise UserError(f"{self.name}/{info.filename}: cannot be unpacked: {error}") from None

    def audio(self, path: str) -> ZipAudio:
        """A member as audio."""
        info = self._member(path)
        return ZipAudio(self.archive, info.filename if info else path, info.CRC if info else 0)


def find_tree(root: Path, *names: str) -> Tree | None:
    """The first of the named folders below `root`, or of the zips ``NAME.zip`` or ``NAME.zip.001``, ``.002``, ….

    Raises:
        UserError: a zip is damaged, or a part of one is missing.
    """
    for name in names:
        folder, archive = root / name, root / f"{name}.zip"
        if folder.is_dir():
            return FolderTree(folder)
        if archive.is_file():
            return ZipTree((str(archive),))
        parts = sorted(root.glob(f"{name}.zip.[0-9][0-9][0-9]"))
        if parts:
            expected = [f"{name}.zip.{number:03d}" for number in range(1, len(parts) + 1)]
            missing = sorted(set(expected) - {part.name for part in parts})
            if missing:
                raise UserError(f"{root / missing[0]}: this part of the archive is missing")
            return ZipTree(tuple(map(str, parts)))
    return None


def open_tree(root: Path, *names: str) -> Tree:
    """`find_tree`, for what must be there.

    Raises:
        UserError: nothing of that name is there; it says what would be taken.
    """
    tree = find_tree(root, *names)
    if tree is not None:
        return tree
    for name in names:
        for packed in (root / f"{name}.tar.gz", root / f"{name}.jsonwav.tar.gz"):
            if packed.is_file():
                raise UserError(f"{packed}: a compressed tar cannot be read in place; unpack it there: tar -xf")
    wanted = ", ".join(f"{name}/, {name}.zip" for name in names)
    raise UserError(f"{root}: none of {wanted} is there" if root.is_dir() else f"{root}: no such folder")


def read_member(archive: tuple[str, ...], member: str) -> bytes:
    """A member's bytes, checked by its CRC.

    Raises:
        KeyError: no such member.
        ValueError: it would unpack to more than `MAX_MEMBER_BYTES`.
        zipfile.BadZipFile: damaged; zipfile raises further errors for what it does not know.
    """
    opened = _opened(archive, os.getpid())
    info = opened.getinfo(member)
    if info.file_size > MAX_MEMBER_BYTES:
        raise ValueError(f"it would unpack to {info.file_size:,} bytes; at most {MAX_MEMBER_BYTES:,}")
    return opened.read(info)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar into a folder so that each entry of its top level appears whole; nothing leaves the folder.

    Raises:
        UserError: damaged, or a member that would lie outside.
    """
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder) as work:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(work, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{archive}: cannot be unpacked: {error}") from None
        for entry in sorted(Path(work).iterdir()):
            if (folder / entry.name).exists():
                continue  # it was there before and is the user's
            shutil.move(entry, folder / entry.name)


def _infos(archive: tuple[str, ...]) -> list[zipfile.ZipInfo]:
    try:
        return _opened(archive, os.getpid()).infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{archive[0]}: no whole zip: {error}; fetch it again") from None


@lru_cache(maxsize=OPEN_ARCHIVES)
def _opened(archive: tuple[str, ...], _pid: int) -> zipfile.ZipFile:
    """Kept open for each process: a file position shared with a forked one would give its bytes."""
    return zipfile.ZipFile(io.BufferedReader(_Joined(archive)) if len(archive) > 1 else archive[0])


class _Joined(io.RawIOBase):
    """Files one after another as one file that can be read and sought."""

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__()
        self._files = [Path(path).open("rb") for path in paths]  # noqa: SIM115  closed with this file
        self._sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: sum(self._sizes)}[whence]
        if start + offset < 0:
            raise OSError(22, "a position before the start")  # as a file does: zipfile relies on it for short files
        self._at = start + offset
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        start = self._at
        for file, size in zip(self._files, self._sizes, strict=True):
            if start < size:
                file.seek(start)
                count = file.readinto(buffer)  # to its end at most; the next call takes the next file
                self._at += count
                return count
            start -= size
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
