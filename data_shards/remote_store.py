"""Shards on any storage that fsspec reaches, copied whole to a bounded local cache that processes share.

A copy is checked by its SHA-256 before it gets its name; the least recently used go first. A file that another
process deletes stays readable for those that hold it open.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from cluster.settings import UserError
from data_shards.index import INDEX_NAME, MANIFEST_NAME, parse_index
from data_shards.problems import Problem, ShardError
from data_shards.shard_files import ShardFile

COPY_BYTES = 1 << 22
MAX_INDEX_BYTES = 1 << 33


class RemoteStore:
    """A set behind a URI."""

    def __init__(self, uri: str, cache: Path, cache_bytes: int) -> None:
        self.uri = uri.rstrip("/")
        self._cache, self._cache_bytes = cache, cache_bytes
        cache.mkdir(parents=True, exist_ok=True)
        try:
            self.index = parse_index(self._fetch_bytes(MANIFEST_NAME), self._fetch_bytes(INDEX_NAME))
        except UserError:
            raise
        except (OSError, ImportError, ValueError) as error:  # fsspec tells an unknown scheme by a ValueError
            raise ShardError(
                Problem(self.uri, None, None, f"not a set of shards that can be reached: {error}")
            ) from None
        largest = max(shard.size for shard in self.index.shards)
        if largest > cache_bytes:
            raise UserError(
                f"{self.uri}: a shard has {largest:,} bytes, the cache holds {cache_bytes:,}; raise data.cache_gb"
            )

    def open_shard(self, shard: ShardFile) -> int:
        """See `ShardStore`."""
        path = self._cache / f"{shard.sha256}.tar"  # by contents: sets and versions share the cache without confusion
        with _locked(self._cache / f"{shard.sha256}.lock"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._download(shard, path)
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        now = time.time_ns()  # the default is the kernel's coarse clock, which cannot order quick reads
        os.utime(fd, ns=(now, now))
        self._evict(keep=path)
        return fd

    def _fetch_bytes(self, name: str) -> bytes:
        with fsspec.open(f"{self.uri}/{name}", "rb") as file:
            data: bytes = file.read(MAX_INDEX_BYTES)
        return data

    def _download(self, shard: ShardFile, path: Path) -> None:
        part = path.with_suffix(f".{os.getpid()}.part")
        digest, count = hashlib.sha256(), 0
        try:
            with fsspec.open(f"{self.uri}/{shard.name}", "rb") as source, part.open("wb") as copy:
                while count <= shard.size and (piece := source.read(COPY_BYTES)):
                    digest.update(piece)
                    count += copy.write(piece)
            if digest.hexdigest() != shard.sha256:
                what = f"not the shard that was indexed: {count:,} bytes came, {shard.size:,} were indexed"
                raise ShardError(
                    Problem(shard.name, None, None, what if count != shard.size else "its SHA-256 differs")
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _evict(self, keep: Path) -> None:
        with _locked(self._cache / "evict.lock"):
            copies = []
            for path in self._cache.glob("*.tar"):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                copies.append((status.st_mtime_ns, status.st_size, path))
            total = sum(size for _, size, _ in copies)
            for _, size, path in sorted(copies):
                if total <= self._cache_bytes:
                    break
                if path != keep:
                    path.unlink(missing_ok=True)
                    total -= size


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
