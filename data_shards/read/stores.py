"""Storage of a set: a folder, or any fsspec URI behind a local cache of whole shards."""

import os
from pathlib import Path
from typing import Protocol

from cluster.settings import UserError
from data_shards.format.index import ShardIndex, read_index
from data_shards.format.problems import Problem, ShardError
from data_shards.format.shard_file import ShardFile, another_size, why_another

MOST_PROBED = 4096
"""Shards whose blocks are probed when a set is opened: a million clips. Of larger sets so many, spread evenly; of the
others the size is compared now, and their blocks when they are first read: 16 reads a shard in every process are
minutes of a network's disk where there are 40,000."""


class ShardStore(Protocol):
    """The index of a set, and its shards as open local files."""

    uri: str
    index: ShardIndex

    def open_shard(self, shard: ShardFile) -> int:
        """A new file descriptor, which the caller closes.
        Raises OSError if it cannot be had now, ShardError if it is not the shard that was indexed.
        """
        ...


class FolderStore:
    """A set on a local or mounted file system."""

    def __init__(self, folder: Path) -> None:
        self.uri, self._folder = str(folder), folder
        self.index = read_index(folder)
        every = -(-len(self.index.shards) // MOST_PROBED)
        for number, shard in enumerate(self.index.shards):
            # Before anything starts: a replaced shard is found now, not in mid-epoch.
            try:
                if number % every:
                    self._refuse(shard, another_size((self._folder / shard.name).stat().st_size, shard))
                else:
                    os.close(self.open_shard(shard))
            except OSError as error:
                raise ShardError(Problem(shard.name, None, None, f"{error.strerror}, but the index names it")) from None

    def open_shard(self, shard: ShardFile) -> int:
        """See `ShardStore`."""
        fd = os.open(self._folder / shard.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._refuse(shard, why_another(fd, shard))
        except ShardError:
            os.close(fd)
            raise
        return fd

    def _refuse(self, shard: ShardFile, why: str | None) -> None:
        if why:
            raise ShardError(Problem(shard.name, None, None, f"not the shard that was indexed: {why}; verify the set"))


def open_index(uri: str) -> ShardIndex:
    """The index of a set, wherever it is; of a remote set, only the index is fetched.
    Raises ShardError if there is none, it is damaged, or a local shard is not the one that it names.
    """
    scheme, sign, _ = uri.partition("://")
    if sign and scheme != "file":
        from data_shards.read.remote_store import fetch_index  # fsspec takes a while to import

        return fetch_index(uri)
    return open_store(uri, None, 0).index


def open_store(uri: str, cache: str | Path | None, cache_bytes: int) -> ShardStore:
    """The store of a URI; a plain path or ``file://`` is read in place.
    Raises UserError for a remote one without a cache folder.
    """
    scheme, sign, path = uri.partition("://")
    if not sign or scheme == "file":
        return FolderStore(Path(path if sign else uri))
    if cache is None:
        raise UserError(f"{uri}: shards elsewhere are read through a local cache; give data.cache=DIR")
    from data_shards.read.remote_store import RemoteStore  # fsspec takes a while to import

    return RemoteStore(uri, Path(cache), cache_bytes)
