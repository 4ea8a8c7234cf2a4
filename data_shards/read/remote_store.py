"""Shards on any storage that fsspec reaches, copied whole to a bounded local cache that processes share.

A copy is checked by its SHA-256 before it gets its name; the least recently used go first. A file that another
process deletes stays readable for those that hold it open. The table of clips is copied beside them, about 150 to 200
bytes a clip; it is not counted, and stays. Credentials come from the environment, as each back end of
fsspec reads them (``AWS_…``, ``GOOGLE_…``), and stand in no message.
"""

import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec

from cluster.files.storage import retry, without_credentials
from cluster.settings import UserError
from data_shards.format.index import ShardIndex, open_table
from data_shards.format.index_file import failed, parse_manifest, table_name
from data_shards.format.paths import MANIFEST_NAME
from data_shards.format.problems import Problem, ShardError
from data_shards.format.shard_file import ShardFile

COPY_BYTES = 1 << 22
PART = ".part"
"""Ending of a copy that is being fetched."""
MAX_MANIFEST_BYTES, MAX_INDEX_BYTES = 1 << 30, 1 << 36
Answer = TypeVar("Answer")


class RemoteStore:
    """A set behind a URI."""

    def __init__(self, uri: str, cache: Path, cache_bytes: int) -> None:
        self._place = uri.rstrip("/")
        self.uri = without_credentials(self._place)
        self._cache, self._cache_bytes = cache, cache_bytes
        cache.mkdir(parents=True, exist_ok=True)
        self.index = fetch_index(uri, cache)
        largest = max(shard.size for shard in self.index.shards)
        if largest > cache_bytes:
            raise UserError(
                f"{self.uri}: a shard has {largest:,} bytes, the cache holds {cache_bytes:,}; raise data.cache_gb"
            )

    def open_shard(self, shard: ShardFile) -> int:
        """See `ShardStore`."""
        path = self._cache / f"{shard.sha256}.tar"  # by contents: sets and versions share the cache without confusion
        with _locked(path.with_suffix(".lock")):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._make_room(keep=path, coming=shard.size)
                fd = self._download(shard, path)
        now = time.time_ns()  # the default is the kernel's coarse clock, which cannot order quick reads
        os.utime(fd, ns=(now, now))
        self._make_room(keep=path)
        return fd

    def _download(self, shard: ShardFile, path: Path) -> int:
        """The checked copy, opened before it is renamed: afterwards another process may evict it."""
        part = path.with_suffix(PART)  # the holder of the lock writes it, over what a killed process left
        digest, count = hashlib.sha256(), 0
        try:
            place = f"{self._place}/{shard.name}"
            with _opened(place) as source, part.open("wb") as copy:
                while count <= shard.size and (piece := source.read(COPY_BYTES)):
                    digest.update(piece)
                    count += copy.write(piece)
            if digest.hexdigest() != shard.sha256:
                what = f"not the shard that was indexed: {count:,} bytes came, {shard.size:,} were indexed"
                raise ShardError(
                    Problem(shard.name, None, None, what if count != shard.size else "its SHA-256 differs")
                )
            fd = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
            part.replace(path)
            return fd
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, keep: Path, coming: int = 0) -> None:
        """Evict until the cache has space for the next copy; copies that others are fetching are not counted."""
        with _locked(self._cache / "evict.lock"):
            _sweep(self._cache)
            copies = []
            for path in self._cache.glob("*.tar"):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                copies.append((status.st_mtime_ns, status.st_size, path))
            total = coming + sum(size for _, size, _ in copies)
            for _, size, path in sorted(copies):
                if total <= self._cache_bytes:
                    break
                if path != keep:
                    path.unlink(missing_ok=True)
                    total -= size


def _sweep(cache: Path) -> None:
    """Delete partial copies whose process was killed: their lock is free."""
    for part in cache.glob(f"*{PART}"):
        with part.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # being fetched
            part.unlink(missing_ok=True)


def fetch_index(uri: str, cache: Path | None = None) -> ShardIndex:
    """The index of a set behind a URI, without its shards.

    Args:
        uri: of the set.
        cache: folder of copies; the table of clips is fetched once a machine and mapped by all its processes. None: a
            copy of this process alone, gone with it.

    Raises:
        ShardError: there is none, or it is damaged.
        RunError: the storage cannot be reached.
    """
    place = uri.rstrip("/")
    manifest = parse_manifest(_retried(place, MANIFEST_NAME, _read_small))
    if cache is None:
        with tempfile.TemporaryDirectory() as folder:
            return _open_copy(place, manifest, Path(folder))
    with _locked(cache / f"{_copy_name(manifest)}.lock"):
        try:
            return _open_copy(place, manifest, cache)
        except ShardError:  # a copy that was damaged on this disk; a fresh one is checked as a whole
            (cache / _copy_name(manifest)).unlink(missing_ok=True)
            return _open_copy(place, manifest, cache)


def _copy_name(manifest: Mapping[str, Any]) -> str:
    digest = str(manifest["index"]["sha256"])
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ShardError(Problem(MANIFEST_NAME, None, None, "the checksum of its index is none; index the set again"))
    return digest + Path(table_name(manifest)).suffix


def _open_copy(place: str, manifest: Mapping[str, Any], folder: Path) -> ShardIndex:
    """The index over the copy of its table in a folder, which is fetched unless it is there."""
    path = folder / _copy_name(manifest)
    if not path.exists():
        _retried(place, table_name(manifest), partial(_copy_table, manifest=manifest, path=path))
    return open_table(manifest, path)


def _copy_table(place: str, *, manifest: Mapping[str, Any], path: Path) -> None:
    about, part, digest, count = manifest["index"], path.with_suffix(PART), hashlib.sha256(), 0
    try:
        with _opened(place) as source, part.open("wb") as copy:
            while count <= MAX_INDEX_BYTES and (piece := source.read(COPY_BYTES)):
                digest.update(piece)
                count += copy.write(piece)
        if digest.hexdigest() != about["sha256"]:
            what = "its checksum is not the one in the manifest: damaged, or of another build"
            raise failed(table_name(manifest), what)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read_small(place: str) -> bytes:
    with _opened(place) as file:
        return file.read(MAX_MANIFEST_BYTES)


def _retried(place: str, name: str, action: Callable[[str], Answer]) -> Answer:
    """Do something with a file of the set; storage that does not answer is asked again."""
    whole = f"{place}/{name}"
    try:
        return retry(partial(action, whole), "read", whole, hopeless=(HopelessError, ShardError))
    except HopelessError as error:
        what = f"not a set of shards that can be reached: {error}"
        raise ShardError(Problem(without_credentials(place), None, None, what)) from None


class HopelessError(OSError):
    """Errors that a retry does not mend: a missing or forbidden object, an unknown scheme, a missing back end."""


@contextmanager
def _opened(place: str) -> Iterator[BinaryIO]:
    """A remote file; errors are OSError without credentials.

    Every back end has its own exceptions (botocore, gcsfs, aiohttp); an unknown scheme is a ValueError.
    """
    try:
        with fsspec.open(place, "rb") as file:
            yield file
    except Exception as error:
        hopeless = isinstance(error, FileNotFoundError | PermissionError | ImportError | ValueError)
        what = without_credentials(str(error) or type(error).__name__, place)
        raise (HopelessError if hopeless else OSError)(what) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
