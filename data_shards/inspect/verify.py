"""Everything that is wrong with a set of shards, as far as it can be placed: shard, clip, byte (docs/faults.md, 1–17).

Headers are read strictly, every block is checked against the index, and the labels are compared. After damage to a
header the index still has the offsets of the clips behind it, so each of them is checked on its own.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cluster.progress import SILENT, Progress
from cluster.settings import UserError
from data_shards.format.entries import CRC_BLOCK_BYTES, Entry, block_checksums, scan_shard
from data_shards.format.index import ShardIndex, read_index
from data_shards.format.problems import Problem, ShardError
from data_shards.format.shard_file import ShardFile, describe_shard
from data_shards.format.text import tidy


def verify(folder: Path, *, progress: Progress = SILENT) -> list[Problem]:
    """Every problem of a set, which is read from its first byte to its last; none where it is whole.
    Raises UserError if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that `counterpoint shards build` made")
    try:
        index = read_index(folder, every_block=True)
    except ShardError as error:
        # Without a trustworthy index the shards can only be held against themselves.
        return [error.problem, *_scan_alone(folder)]
    problems = [
        Problem(path.name, None, None, "a shard that the manifest does not name")
        for path in sorted(folder.glob("*.tar"))
        if path.name not in {shard.name for shard in index.shards}
    ]
    with progress.stage("shards", len(index.shards)) as bar:
        for code, shard in enumerate(index.shards):
            problems += _verify_shard(folder, index, code, shard)
            bar(code + 1, f"{len(problems)} problems" if problems else "")
    return problems


def to_json(problems: list[Problem]) -> list[dict[str, Any]]:
    """Problems as JSON types, for ``--json``."""
    return [problem._asdict() for problem in problems]


def _scan_alone(folder: Path) -> list[Problem]:
    problems: list[Problem] = []
    first: dict[str, Entry] = {}
    for path in sorted(folder.glob("*.tar")):
        try:
            for entry in scan_shard(path):
                other = first.setdefault(entry.key, entry)
                if other is not entry:
                    what = f"duplicate key, also in {other.shard} at byte {other.offset:,}"
                    problems.append(Problem(entry.shard, entry.key, entry.offset, what))
        except ShardError as error:
            problems.append(error.problem)
    return problems


def _verify_shard(folder: Path, index: ShardIndex, code: int, shard: ShardFile) -> list[Problem]:
    path = folder / shard.name
    if path.is_symlink() or not path.is_file():
        return [Problem(shard.name, None, None, "missing, or not a plain file")]
    size = path.stat().st_size
    problems = []
    if size != shard.size:
        problems.append(
            Problem(shard.name, None, min(size, shard.size), f"{size:,} bytes, {shard.size:,} were indexed")
        )
    rows = np.flatnonzero(index.shard == code)
    fd = os.open(path, os.O_RDONLY)
    try:
        problems += [problem for row in rows for problem in _verify_clip(fd, size, index, int(row), shard.name)]
    finally:
        os.close(fd)
    damaged = {problem.key for problem in problems if problem.key}
    try:
        entries = scan_shard(path)
    except ShardError as error:
        if error.problem.key not in damaged:
            problems.append(error.problem)
    else:
        problems += [p for p in _compare(index, rows.tolist(), entries, shard.name) if p.key not in damaged]
    if not problems and describe_shard(path, shard.clips) != shard:
        problems.append(Problem(shard.name, None, None, "its SHA-256 is not the one in the manifest"))
    return problems


def _verify_clip(fd: int, size: int, index: ShardIndex, row: int, shard: str) -> Iterator[Problem]:
    """Checksums of one clip's audio and labels, at the offsets of the index."""
    key, offset, length = str(index.key[row]), int(index.offset[row]), int(index.size[row])
    label_offset, label_size = int(index.label_offset[row]), int(index.label_size[row])
    end = max(offset + length, label_offset + label_size)
    if end > size:
        yield Problem(shard, key, min(size, offset), f"the clip reaches to byte {end:,}, the shard ends at {size:,}")
        return
    expected = index.crc[index.crc_end[row] : index.crc_end[row + 1]]
    for number, checksum in enumerate(block_checksums(fd, offset, length)):
        if checksum != expected[number]:
            byte = offset + number * CRC_BLOCK_BYTES
            yield Problem(shard, key, byte, "audio: the checksum of this block does not fit")
    if zlib.crc32(os.pread(fd, label_size, label_offset)) != index.label_crc[row]:
        yield Problem(shard, key, label_offset, "labels: the checksum does not fit")


def _compare(index: ShardIndex, rows: list[int], entries: list[Entry], shard: str) -> Iterator[Problem]:
    """Problems where index and shard describe a clip differently."""
    of_key = {entry.key: entry for entry in entries}
    for row in rows:
        entry = of_key.pop(str(index.key[row]), None)
        if entry is None:
            yield Problem(shard, str(index.key[row]), int(index.offset[row]), "in the index, but not in the shard")
            continue
        for name in ("offset", "size", "frames", "rate", "codec", "pcm_offset", "track", "artist", "split", "licence"):
            expected, found = getattr(index, name)[row], getattr(entry, name)
            if _tidy(expected) != found:
                yield Problem(shard, entry.key, entry.offset, f"{name} is {found!r}, the index has {expected!r}")
        if _tidy(index.labels_of(row)) != _known(entry) or _tidy(index.captions[row]) != entry.captions:
            yield Problem(shard, entry.key, entry.label_offset, "its labels are not those of the index")
    for entry in of_key.values():
        yield Problem(shard, entry.key, entry.offset, "in the shard, but not in the index")


def _known(entry: Entry) -> dict[str, Any]:
    labels: dict[str, Any] = {f"multilabel.{column}": tags for column, tags in entry.multilabel.items() if tags}
    labels |= {f"categorical.{column}": value for column, value in entry.categorical.items() if value is not None}
    return {**labels, **{f"numeric.{column}": value for column, value in entry.numeric.items()}}


def _tidy(value: Any) -> Any:
    """As labels are read from a shard; an index of an older program holds them as they were written."""
    if isinstance(value, str):
        return tidy(value)
    if isinstance(value, dict):
        return {_tidy(name): _tidy(one) for name, one in value.items()}
    return tuple(map(_tidy, value)) if isinstance(value, tuple) else value
