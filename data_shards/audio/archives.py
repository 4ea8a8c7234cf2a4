"""Zips read in place, also in parts that were never joined, and tars, which are unpacked once.

A compressed tar cannot be read out of order.
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
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.audio.decode import AudioError, decode
from data_shards.format.text import tidy

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_MEMBER_BYTES = 1 << 30
"""Limit of an unpacked member: far above any clip, far below the memory of a machine."""
OPEN_ARCHIVES = 4
"""Archives that a process keeps open: reading the directory of 10^5 members takes about a second."""
_DAMAGED = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError)
"""Exceptions of damaged, encrypted or unknown members; RuntimeError covers zipfile's NotImplementedError."""


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
        """The path for messages, as if the archive were a folder."""
        return f"{self.archive[0]}/{self.member}"

    def read(self) -> tuple[NDArray[np.float32], int]:
        """Unpack the member, checked by its CRC, and decode it: (T, channels) in [-1, 1], and the rate in Hz.
        Raises AudioError if it is missing, damaged, too large, or not audio.
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
        """A small file whole. Raises UserError if it is missing or damaged."""
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


def read_member(archive: tuple[str, ...], member: str) -> bytes:
    """A member's bytes, checked by its CRC.
    Raises KeyError for no such member, ValueError if it would unpack to more than `MAX_MEMBER_BYTES`,
    zipfile.BadZipFile if it is damaged, and what zipfile raises for methods that it does not implement.
    """
    opened = _opened(archive, os.getpid())
    info = opened.getinfo(member)
    if info.file_size > MAX_MEMBER_BYTES:
        raise ValueError(f"it would unpack to {info.file_size:,} bytes; at most {MAX_MEMBER_BYTES:,}")
    return opened.read(info)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar into a folder so that each entry of its top level appears whole.
    Raises UserError if it is damaged, or a member would lie outside.
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
