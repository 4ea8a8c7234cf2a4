"""Vectors of a text encoder that is not trained: each text is embedded once and kept in a memory-mapped file.

The file is named by the encoder's hash. Processes and runs share it: rows are only ever appended, under a lock, each
with its checksum; a row that was cut off or damaged is embedded again.

Shape suffixes: k texts, E encoder width.
"""

import fcntl
import hashlib
import logging
import mmap
import os
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.settings import UserError
from trainers.text.encoder import TextEncoder

KEY_BYTES = 16
_log = logging.getLogger(__name__)


class SentenceVectors:
    """A fixed text encoder that remembers: `encode` gives the same bits as the encoder's own.

    Args:
        encoder: of which no weight is trained.
        folder: where the file is kept; None for a temporary one.

    Raises:
        ValueError: if a weight of the encoder is trained.
        UserError: if the folder cannot be written.
    """

    def __init__(self, encoder: TextEncoder, folder: Path | str | None = None) -> None:
        if not encoder.is_locked:
            raise ValueError("vectors can be kept of an encoder that is not trained alone")
        self.encoder = encoder
        self._kind = np.dtype([("key", f"S{KEY_BYTES * 2}"), ("crc", "<u4"), ("h", "<f4", (encoder.width,))])
        self._rows: dict[bytes, int] = {}
        self._seen = 0
        self._table: NDArray[Any] = np.empty(0, self._kind)
        self._file = self._open(folder)
        weakref.finalize(self, os.close, self._file)
        with self._locked(fcntl.LOCK_SH):
            self._read()

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors (k, E) on the encoder's device."""
        keys = [_key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows}
        if missing:
            self._embed(missing)
        h_kE = self._table["h"][[self._rows[key] for key in keys]]
        return torch.from_numpy(np.ascontiguousarray(h_kE)).to(self.encoder.device)

    def __len__(self) -> int:
        return len(self._rows)

    def _embed(self, missing: Mapping[bytes, str]) -> None:
        """Embed texts outside of the lock, and append those that no other process has appended meanwhile."""
        embedded = self.encoder.encode(list(missing.values())).cpu().numpy()
        found = dict(zip(missing, embedded, strict=True))
        with self._locked(fcntl.LOCK_EX):
            self._read()
            fresh = [key for key in found if key not in self._rows]
            table = np.empty(len(fresh), self._kind)
            for row, key in enumerate(fresh):
                table[row] = (key, _crc(key, found[key]), found[key])
            end = self._seen * self._kind.itemsize
            os.ftruncate(self._file, end)  # the part of a row of a process that was killed
            os.lseek(self._file, end, os.SEEK_SET)
            content = memoryview(table.tobytes())
            while content:
                content = content[os.write(self._file, content) :]
            self._read()

    def _open(self, folder: Path | str | None) -> int:
        if folder is None:
            file, name = tempfile.mkstemp(prefix="counterpoint-texts-")
            Path(name).unlink()  # the kernel frees it when it is closed
            return file
        path = Path(folder) / f"{self.encoder.hash[:32]}.vectors"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"text.cache={folder}: cannot be written ({error.strerror}); choose another") from None

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the file's lock, which the kernel frees when a process dies."""
        fcntl.flock(self._file, how)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _read(self) -> None:
        """Take in the rows that were appended since the last time; the lock is held."""
        count = os.fstat(self._file).st_size // self._kind.itemsize
        if count == self._seen:
            return
        mapped = mmap.mmap(self._file, count * self._kind.itemsize, access=mmap.ACCESS_READ)
        self._table = np.frombuffer(mapped, self._kind)
        damaged = 0
        for row in range(self._seen, count):
            key, crc, h_E = self._table[row]
            if crc == _crc(bytes(key), h_E):
                self._rows[bytes(key)] = row
            else:
                damaged += 1
        if damaged:
            _log.warning("%d vectors of texts are damaged and are computed again", damaged)
        self._seen = count


def _key(text: str) -> bytes:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES)
    return digest.hexdigest().encode()  # numpy would cut zeros off the end of bytes


def _crc(key: bytes, h_E: NDArray[np.float32]) -> int:
    return zlib.crc32(np.ascontiguousarray(h_E).tobytes(), zlib.crc32(key))
