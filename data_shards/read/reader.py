"""Windows of clips, read through the index: one positioned read, checked by the checksums of the blocks it touches.

Shape suffixes: T samples. Shards are little-endian, and so must the machine be.
"""

import io
import os
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from cluster.settings import RunError
from data_shards.format.entries import CRC_BLOCK_BYTES
from data_shards.format.index import ShardIndex
from data_shards.format.problems import ClipError, Problem
from data_shards.read.stores import FolderStore, ShardStore, open_store

MAX_OPEN_SHARDS = 256
RETRY_DELAYS_S = (0.1, 0.5, 2.0)


class ShardSet:
    """An opened set of shards. Threads may share it."""

    def __init__(
        self, store: ShardStore, *, checksums: bool = True, retry_delays_s: Sequence[float] = RETRY_DELAYS_S
    ) -> None:
        self.uri = store.uri
        self.index: ShardIndex = store.index
        self._store, self._checksums, self._delays_s = store, checksums, tuple(retry_delays_s)
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._scratch = threading.local()

    @classmethod
    def open(
        cls,
        uri: str | Path,
        *,
        checksums: bool = True,
        cache: str | Path | None = None,
        cache_bytes: int = 50 * 10**9,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
    ) -> "ShardSet":
        """Open a set and refuse it unless manifest, index and shards belong together.

        Args:
            uri: a folder, or any URI that fsspec supports.
            checksums: check every block that a window touches.
            cache: folder for copies of remote shards; needed for a URI.
            cache_bytes: the cache is kept below this size.
            retry_delays_s: pauses between attempts to open a shard that is missing.

        Raises:
            ShardError: names what does not fit.
            UserError: a URI without a cache.
        """
        return cls(open_store(str(uri), cache, cache_bytes), checksums=checksums, retry_delays_s=retry_delays_s)

    @property
    def rate(self) -> int:
        """Hz, of every clip."""
        return int(self.index.manifest["rate"])

    @property
    def is_cached(self) -> bool:
        """Whether shards are fetched to a bounded cache."""
        return not isinstance(self._store, FolderStore)

    @property
    def manifest_hash(self) -> str:
        """Identifies the set; see `ShardIndex.manifest_hash`."""
        return self.index.manifest_hash

    def read_window(self, row: int, start: int, frames: int) -> NDArray[np.int16]:
        """Samples ``start … start + frames`` of a clip, (frames,) int16. Raises ValueError if they are not inside the
        clip, ClipError if the bytes are not those that were indexed, RunError if the shard cannot be opened.
        """
        wave_T = np.empty(frames, np.int16)
        self.read_into(row, start, wave_T)
        return wave_T

    def read_into(self, row: int, start: int, wave_T: NDArray[np.int16]) -> None:
        """As `read_window`, into a given contiguous array."""
        if start < 0 or start + len(wave_T) > self.index.frames[row]:
            end = start + len(wave_T)
            raise ValueError(
                f"{start}…{end} is not inside {self.index.key[row]}, {self.index.frames[row]} samples long"
            )
        if self.index.codec[row] == "flac":
            self._read_flac(row, start, wave_T)
            return
        begin = int(self.index.pcm_offset[row]) + 2 * start
        if self._checksums:
            first, block = self._read_blocks(row, begin, begin + 2 * len(wave_T))
            wave_T[:] = np.frombuffer(block, "<i2", count=len(wave_T), offset=begin - first)
        else:
            self._read(row, wave_T.view(np.uint8).data, int(self.index.offset[row]) + begin)

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            self._open.clear()

    def __enter__(self) -> "ShardSet":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _read_blocks(self, row: int, begin: int, end: int) -> tuple[int, memoryview]:
        """The blocks of a member around bytes begin…end, checked; valid until this thread's next read."""
        index = self.index
        first_block, size = begin // CRC_BLOCK_BYTES, int(index.size[row])
        first = first_block * CRC_BLOCK_BYTES
        last = min(-(-end // CRC_BLOCK_BYTES) * CRC_BLOCK_BYTES, size)
        # A fresh buffer of this size costs more in page faults than the read itself.
        scratch: bytearray = getattr(self._scratch, "buffer", bytearray())
        if len(scratch) < last - first:
            scratch = self._scratch.buffer = bytearray(last - first)
        data = memoryview(scratch)[: last - first]
        self._read(row, data, int(index.offset[row]) + first)
        expected = index.crc[int(index.crc_end[row]) + first_block :]
        for number, at in enumerate(range(0, len(data), CRC_BLOCK_BYTES)):
            if zlib.crc32(data[at : at + CRC_BLOCK_BYTES]) != expected[number]:
                byte = int(index.offset[row]) + first + at
                raise self._error(row, byte, "the checksum of this block does not fit: damaged since it was indexed")
        return first, data

    def _read(self, row: int, into: memoryview, offset: int) -> None:
        file = self._file(int(self.index.shard[row]))
        try:
            count = os.preadv(file.fd, [into], offset)
        except OSError as error:
            raise self._error(row, offset, f"cannot be read: {error.strerror}") from None
        if count < len(into):
            raise self._error(row, offset + count, "the shard ends here, within the clip")

    def _read_flac(self, row: int, start: int, wave_T: NDArray[np.int16]) -> None:
        member = _MemberFile(self, row)
        try:
            with soundfile.SoundFile(member) as file:
                file.seek(start)
                count = len(file.read(dtype="int16", out=wave_T))
        except soundfile.SoundFileError as error:
            raise member.error or self._error(row, int(self.index.offset[row]), f"cannot be decoded: {error}") from None
        if member.error:
            raise member.error
        if count < len(wave_T):
            raise self._error(row, int(self.index.offset[row]), f"decodes to {count} of {len(wave_T)} samples")

    def _file(self, shard: int) -> "_OpenFile":
        with self._lock:
            file = self._open.get(shard)
            if file:
                self._open.move_to_end(shard)
                return file
        opened = _OpenFile(self._open_shard(shard))
        with self._lock:
            self._open[shard] = opened
            if len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)  # closed when the last thread that reads from it lets go
        return opened

    def _open_shard(self, shard: int) -> int:
        described = self.index.shards[shard]
        for delay_s in (*self._delays_s, None):
            try:
                return self._store.open_shard(described)
            except OSError as error:
                if delay_s is None:
                    attempts = len(self._delays_s) + 1
                    why = error.strerror or str(error)
                    raise RunError(
                        f"{self.uri}/{described.name}: cannot be opened after {attempts} attempts: {why}"
                    ) from None
                time.sleep(delay_s)
        raise AssertionError("unreachable")

    def _error(self, row: int, byte: int, what: str) -> ClipError:
        shard = self.index.shards[int(self.index.shard[row])].name
        return ClipError(Problem(shard, str(self.index.key[row]), byte, what))


class _OpenFile:
    """A file descriptor that closes with its last user."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class _MemberFile(io.RawIOBase):
    """A member of a shard as a file, every block checked. Decoders lose exceptions, so `error` keeps them."""

    def __init__(self, shards: ShardSet, row: int) -> None:
        self._shards, self._row, self._position = shards, row, 0
        self._size = int(shards.index.size[row])
        self._first, self._data = 0, memoryview(b"")  # blocks of the last read: a decoder asks for a little at a time
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        count = min(len(into), self._size - self._position)
        if count <= 0 or self.error:
            return 0
        try:
            if not self._first <= self._position <= self._position + count <= self._first + len(self._data):
                self._first, self._data = self._shards._read_blocks(self._row, self._position, self._position + count)
        except Exception as error:  # whatever it is, it is raised again once the decoder has returned
            self.error = error
            return 0
        start = self._position - self._first
        into[:count] = self._data[start : start + count]
        self._position += count
        return count
