"""A file mapped into memory whose blocks are checked when they are first read.

Mapped pages belong to the page cache: the processes of a machine share them, and the kernel takes them back when
memory is short. A checksum of every block is known; a block is checked once, before its bytes are used.
"""

import hashlib
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

BLOCK_BYTES = 1 << 20


class Checksums(NamedTuple):
    """What identifies a file and each of its blocks."""

    size: int
    sha256: str
    crc: tuple[int, ...]
    """CRC32 of each block of `BLOCK_BYTES`; the last one is shorter."""


class DamagedError(ValueError):
    """Bytes of a mapped file are not those that were written; ``byte`` is where the block begins."""

    def __init__(self, byte: int) -> None:
        super().__init__(f"the checksum of the block at byte {byte:,} does not fit: damaged since it was written")
        self.byte = byte


class MappedFile:
    """A read-only file in memory. Threads may share it; it is unmapped with its last user."""

    def __init__(self, path: Path, crc: Sequence[int], size: int) -> None:
        """Map a file, with the CRC32 of each block; it may be replaced or deleted afterwards.
        Raises OSError if it cannot be opened, ValueError if its size or the number of ``crc`` is another.
        """
        found = path.stat().st_size
        if found == size > 0:
            with pa.memory_map(str(path)) as file:  # closed at once, unlike Python's mmap: no file stays open
                self.buffer = file.read_buffer()
            found = self.buffer.size
        if found != size:
            raise ValueError(f"{found:,} bytes, {size:,} were written: cut off, or of another build")
        if size == 0 or len(crc) != -(-size // BLOCK_BYTES):
            raise ValueError(f"{len(crc)} checksums for {size:,} bytes")
        self._crc = np.array(crc, np.uint32)
        self._checked = np.zeros(len(crc), np.bool_)
        self._lock = threading.Lock()

    def check(self, begin: int, end: int) -> None:
        """Check the blocks that bytes begin…end touch, unless they were checked before.
        The DamagedError names the first that differs.
        """
        first, last = begin // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        if end <= begin or self._checked[first:last].all():
            return
        with self._lock, memoryview(self.buffer) as whole:
            for block in (first + np.flatnonzero(~self._checked[first:last])).tolist():
                start = block * BLOCK_BYTES
                with whole[start : start + BLOCK_BYTES] as data:
                    if zlib.crc32(data) != self._crc[block]:
                        raise DamagedError(start)
                self._checked[block] = True


def checksums(path: Path) -> Checksums:
    """Size, SHA-256 and the CRC32 of every block of a file, in one pass."""
    digest, crc, size = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            crc.append(zlib.crc32(block))
            size += len(block)
    return Checksums(size, digest.hexdigest(), tuple(crc))
