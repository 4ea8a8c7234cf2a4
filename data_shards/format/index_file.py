"""Reading the files of an index: the manifest, and the table of clips as mapped Arrow IPC or as Parquet of 0.1.

What is checked when an index opens: the manifest by its hash; size, structure and version of the table; the blocks of
every column that the counts and bounds below are computed from, and these. The blocks of all other columns (texts,
checksums of audio, labels) are checked when they are first read. `shards verify` checks every block.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from cluster.files.mapped import DamagedError, MappedFile
from data_shards.format.columns import TextColumn, TextLists, numbers_of, offsets_of, unchecked
from data_shards.format.entries import CRC_BLOCK_BYTES
from data_shards.format.paths import INDEX_NAME, MANIFEST_NAME, PARQUET_NAME
from data_shards.format.problems import Problem, ShardError

if TYPE_CHECKING:
    from data_shards.format.index import ShardIndex

SCHEMA_VERSION = 1
INDEX_VERSION = 2
"""Of the table of clips: 1 was Parquet, 2 is one record batch of Arrow IPC without compression."""
INTEGERS = {
    "shard": np.int32, "offset": np.int64, "size": np.int64, "frames": np.int64, "rate": np.int32, "id_hash": np.int64,
    "pcm_offset": np.int32, "label_offset": np.int64, "label_size": np.int32, "label_crc": np.uint32,
}  # fmt: skip
TEXTS = ("key", "codec", "track", "artist", "split", "licence")
"""Columns of the table; the label columns are named KIND.COLUMN."""
TEXT_LISTS = ("captions", "caption_tags")
"""Columns of lists of texts; a set without any has no such column."""
TAG_SEPARATOR = "\x1f"
"""Between the tags that a caption shows, in the column ``caption_tags``: the unit separator of ASCII."""
ID_ORDER = "id_order"
"""The column of rows in the order of their `id_hash`."""
ROWS_AT_ONCE = 1 << 18
CODED = ("codec", "split", "licence")
"""Text columns of few values, stored as codes."""


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without what it says of the table of clips, which depends on the version of its writer."""
    content = {name: value for name, value in manifest.items() if name not in ("hash", "index")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def parse_manifest(text: bytes) -> dict[str, Any]:
    """A manifest, checked.
    Raises ShardError if it is none, is damaged or edited, or it or its index is of another version.
    """
    try:
        manifest = json.loads(text)
        if manifest["schema_version"] != SCHEMA_VERSION:
            found = manifest["schema_version"]
            raise failed(MANIFEST_NAME, f"schema version {found!r}, this program reads {SCHEMA_VERSION}")
        if manifest["hash"] != manifest_hash(manifest):
            raise failed(MANIFEST_NAME, "its contents do not fit its hash: edited or damaged")
        about = manifest["index"]
        str(about["sha256"])
        version = about.get("version", 1)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ShardError):
            raise
        raise failed(MANIFEST_NAME, f"not a manifest of shards ({type(error).__name__}: {error})") from None
    if version not in (1, INDEX_VERSION):
        raise ShardError(
            Problem(
                INDEX_NAME, None, None,
                f"version {version!r} of the index, this program reads 1 and {INDEX_VERSION}; take the program that "
                f"wrote it, or delete {MANIFEST_NAME} and run counterpoint shards index FOLDER",
            )
        )  # fmt: skip
    assert isinstance(manifest, dict)
    return manifest


def table_name(manifest: Mapping[str, Any]) -> str:
    """File name of the table that a manifest describes."""
    return PARQUET_NAME if manifest["index"].get("version", 1) == 1 else INDEX_NAME


class MappedColumns(Mapping[str, Any]):
    """Columns of a mapped table; each becomes an array or a `TextColumn` when it is first asked for."""

    def __init__(self, manifest: Mapping[str, Any], path: Path, every_block: bool) -> None:
        """Map the table and read its structure. Raises OSError if it cannot be opened, ValueError if it is cut off,
        damaged in its structure, or not such a table.
        """
        about = manifest["index"]
        self._file = MappedFile(path, about["crc"], int(about["bytes"]))
        self._buffer = self._file.buffer
        size = self._buffer.size
        if every_block:
            self._file.check(0, size)
        self._file.check(0, 1)  # the schema, and the footer: nothing is parsed before it is checked
        self._file.check(size - 1, size)
        reader = pa.ipc.open_file(pa.BufferReader(self._buffer))
        if reader.num_record_batches != 1:
            raise ValueError(f"{reader.num_record_batches} record batches, one was written")
        self._batch = reader.get_batch(0)
        self._names = [*INTEGERS, ID_ORDER, *TEXTS, "crc", "crc_end", *TEXT_LISTS, *label_columns(manifest)]
        missing = {*self._names} - {"crc_end", *TEXT_LISTS, *self._batch.schema.names}
        if missing:
            raise KeyError(f"it has no column {', '.join(sorted(missing))}")
        for begin, end in self._between():
            self._file.check(begin, end)
        self._opened: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._opened:
            if name not in self._names:
                raise KeyError(name)
            try:
                self._opened[name] = self._open(name)
            except DamagedError as error:
                raise _damaged(error) from None
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _open(self, name: str) -> Any:
        if name in TEXTS:
            return TextColumn(self._batch[name], self._check)
        if name in TEXT_LISTS:
            there = name in self._batch.schema.names
            return TextLists(self._batch[name] if there else None, self._batch.num_rows, self._check)
        if name == "crc_end":
            return offsets_of(self._batch["crc"], 0, self._batch.num_rows, self._check)
        column = self._batch[name]
        if not pa.types.is_large_list(column.type):
            return self._numbers(column)
        ends = offsets_of(column, 0, self._batch.num_rows, self._check)
        flat = self._numbers(column.values)
        return flat if name == "crc" else (flat, ends)

    def _numbers(self, column: Any) -> NDArray[Any]:
        data = column.buffers()[1]
        if data is not None:
            self._check(data, 0, data.size)
        return numbers_of(column)

    def _check(self, buffer: Any, begin: int, end: int) -> None:
        """Check bytes of a buffer that lies in the mapped file."""
        if buffer is None or end <= begin:
            return
        start = buffer.address - self._buffer.address
        try:
            self._file.check(start + begin, start + end)
        except DamagedError as error:
            raise _damaged(error) from None

    def _between(self) -> Iterator[tuple[int, int]]:
        """The bytes that no column holds: the structure of the file."""
        at = 0
        for start, end in sorted(_places(self._batch.columns, self._buffer.address)):
            yield at, start
            at = max(at, end)
        yield at, self._buffer.size


def label_columns(manifest: Mapping[str, Any]) -> list[str]:
    """Names of the columns of labels, KIND.COLUMN."""
    kinds = {"multilabel": manifest["vocabularies"], "categorical": manifest["classes"], "numeric": manifest["numeric"]}
    return [f"{kind}.{column}" for kind, columns in kinds.items() for column in columns]


def _places(columns: Any, base: int) -> Iterator[tuple[int, int]]:
    for column in columns:
        for buffer in column.buffers():
            if buffer is not None and buffer.size:
                yield buffer.address - base, buffer.address - base + buffer.size


def parquet_columns(manifest: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The table of 0.1: read whole, into memory of this process."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest["index"]["sha256"]:
        raise failed(PARQUET_NAME, "its checksum is not the one in the manifest: damaged, or of another build")
    table = pa.parquet.read_table(pa.BufferReader(content)).combine_chunks()
    columns: dict[str, Any] = {name: table[name].to_numpy().astype(kind) for name, kind in INTEGERS.items()}
    columns[ID_ORDER] = np.argsort(columns["id_hash"], kind="stable")
    for name in TEXTS:
        texts = _whole(table[name])
        columns[name] = TextColumn(texts.dictionary_encode() if name in CODED else texts)
    columns["crc"], columns["crc_end"] = _ragged(table["crc"], np.uint32)
    for name in TEXT_LISTS:
        columns[name] = TextLists(_whole(table[name]) if name in table.column_names else None, table.num_rows)
    for name in label_columns(manifest):
        ragged = name.startswith("multilabel.")
        columns[name] = _ragged(table[name], np.int32) if ragged else table[name].to_numpy()
    return columns


def _whole(column: Any) -> Any:
    chunks = column.combine_chunks()
    return pa.concat_arrays(chunks.chunks) if isinstance(chunks, pa.ChunkedArray) else chunks


def _ragged(column: Any, kind: type) -> tuple[NDArray[Any], NDArray[np.int64]]:
    lists = _whole(column)
    ends = offsets_of(lists, 0, len(lists), unchecked).astype(np.int64)
    return lists.values.to_numpy(zero_copy_only=False)[ends[0] : ends[-1]].astype(kind), ends - ends[0]


def failed(name: str, what: str) -> ShardError:
    """A file of an index that cannot be used, and the remedy."""
    return ShardError(Problem(name, None, None, f"{what}; build or index the set again"))


def _damaged(error: DamagedError) -> ShardError:
    return failed(INDEX_NAME, str(error))


def check_counts(index: "ShardIndex") -> None:
    """Refuse an index whose counts and bounds do not hold: clips inside their shards, ids that are unique."""
    manifest = index.manifest
    if not len(index) == manifest["clips"] == manifest["index"]["rows"] > 0:
        counts = f"{len(index)} rows, {manifest['clips']} and {manifest['index']['rows']} in the manifest"
        raise failed(INDEX_NAME, f"the counts of clips differ: {counts}")
    if index.captions.num_texts != manifest.get("captions", 0):
        raise failed(INDEX_NAME, f"{index.captions.num_texts} captions, {manifest['captions']} in the manifest")
    begins = np.cumsum([0, *(shard.clips for shard in index.shards)])
    found = np.searchsorted(index.shard, np.arange(len(index.shards) + 1))
    if (index.shard[1:] < index.shard[:-1]).any() or found.tolist() != begins.tolist():
        raise failed(INDEX_NAME, "the counts of clips per shard are not those of the manifest")
    shard_size, before = np.array([shard.size for shard in index.shards]), -1
    is_pcm = index.codec == "pcm16"
    for begin in range(0, len(index), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        inside = _inside(index, rows, is_pcm[rows], shard_size)
        if not inside.all():
            raise failed(INDEX_NAME, f"clip {index.key[begin + int(np.argmin(inside))]} does not lie inside its shard")
        ids = np.concatenate([[before], index.id_hash[index.id_order[rows]]])  # rising: no row and no id is there twice
        if not (ids[1:] > ids[:-1]).all() or (index.rate[rows] != manifest["rate"]).any():
            raise failed(INDEX_NAME, "a duplicate clip, or a clip of another rate than the set")
        before = ids[-1]


def _inside(
    index: "ShardIndex", rows: slice, is_pcm: NDArray[np.bool_], shard_size: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which clips of some rows lie inside their shard, with as many checksums as blocks."""
    shard, offset, size, frames = (column[rows] for column in (index.shard, index.offset, index.size, index.frames))
    ends = index.crc_end[rows.start : rows.stop + 1]
    inside = (offset >= 0) & (size > 0) & (offset + size <= shard_size[shard]) & (frames > 0)
    inside &= ~is_pcm | (index.pcm_offset[rows] + 2 * frames <= size)
    inside &= np.diff(ends) == -(-size // CRC_BLOCK_BYTES)
    return np.asarray(inside)
