"""Identity of a shard file: its size, SHA-256, and a few probed blocks that are checked at every start of a run."""

import dataclasses
import hashlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROBE_BYTES = 512
_PROBES = 16
_ZERO_BLOCK = zlib.crc32(bytes(PROBE_BYTES))


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One shard as the manifest describes it."""

    name: str
    size: int
    clips: int
    sha256: str
    probes: tuple[int, ...]
    """CRC32 of blocks spread over the file, see `probe`."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "ShardFile":
        """The inverse of `to_json`.
        Raises TypeError if fields are missing or unknown, ValueError if the name is a path or a number is not one.
        """
        shard = cls(**{**tree, "probes": tuple(tree.get("probes", ()))})
        if shard.name != os.path.basename(shard.name) or not shard.name.endswith(".tar"):  # noqa: PTH119 a name, not a path
            raise ValueError(f"{shard.name!r} is not the name of a shard")
        if not all(isinstance(number, int) and number > 0 for number in (shard.size, shard.clips)):
            raise ValueError(f"{shard.name}: size {shard.size!r}, clips {shard.clips!r}")
        if len(shard.probes) != _PROBES:
            raise ValueError(f"{shard.name}: {len(shard.probes)} probes")
        return shard


def describe_shard(path: Path, clips: int) -> ShardFile:
    """Size, hash and probes of a shard."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
        return ShardFile(name=path.name, size=size, clips=clips, sha256=sha256, probes=probe(file.fileno()))


def probe(fd: int) -> tuple[int, ...]:
    """CRC32 of sixteen blocks that are spread over a file: sixteen small reads, for every start of a run."""
    blocks = max(1, os.fstat(fd).st_size // PROBE_BYTES)
    places = [(blocks - 1) * number // (_PROBES - 1) for number in range(_PROBES)]
    return tuple(zlib.crc32(os.pread(fd, PROBE_BYTES, place * PROBE_BYTES)) for place in places)


def another_size(size: int, shard: ShardFile) -> str | None:
    """Why a file of so many bytes is not the shard that was indexed, or None."""
    return None if size == shard.size else f"{size:,} bytes, {shard.size:,} were indexed"


def why_another(fd: int, shard: ShardFile) -> str | None:
    """Why an open file is not the shard that was indexed, or None.

    A few damaged bytes do not make it another: checksums of the blocks find their clips when they are read.
    """
    if why := another_size(os.fstat(fd).st_size, shard):
        return why
    # Blocks of zeros (padding, silence, the end of the archive) are alike in all shards and identify none.
    useful = [pair for pair in zip(shard.probes, probe(fd), strict=True) if pair[0] != _ZERO_BLOCK]
    differing = sum(expected != found for expected, found in useful)
    return f"{differing} of {len(useful)} probed blocks differ" if 2 * differing >= max(1, len(useful)) else None
