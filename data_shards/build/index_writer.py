"""Writing the index of a set: entries of all shards become one table of clips and one manifest.

Entries are taken shard by shard and kept on disk, so ten million rows need little memory. The same shards give the
same bytes. Vocabularies are collected over the whole set unless they are given.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.files.locks import sole_writer
from cluster.files.mapped import checksums
from cluster.files.storage import atomic_file, write_atomic
from data_shards.build.clip_table import write_clip_table
from data_shards.build.column_files import ColumnFolder
from data_shards.build.entry_files import EntryFiles, order_column
from data_shards.format.columns import TextColumn, arrow_numbers
from data_shards.format.entries import Entry, scan_shard
from data_shards.format.index import ShardIndex, read_index
from data_shards.format.index_file import (
    ID_ORDER,
    INDEX_VERSION,
    INTEGERS,
    SCHEMA_VERSION,
    TEXT_LISTS,
    TEXTS,
    label_columns,
    manifest_hash,
    parse_manifest,
    table_name,
)
from data_shards.format.paths import INDEX_NAME, MANIFEST_NAME, PARQUET_NAME
from data_shards.format.problems import Problem, ShardError
from data_shards.format.records import SPLITS
from data_shards.format.shard_file import ShardFile, describe_shard

Shard = tuple[ShardFile, Sequence[Entry]]


def write_index(
    folder: Path,
    shards: Iterable[Shard],
    *,
    vocabularies: Mapping[str, Sequence[str]] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``index.arrow``, ``manifest.json`` and the clips as ``index.parquet`` beside the shards.

    Args:
        folder: where the shards are.
        shards: each with its entries, in order; taken one by one, and only one is held.
        vocabularies: tag orders that are given from outside; the others are collected.
        extra: further fields of the manifest, JSON types.

    Returns:
        The manifest.

    Raises:
        ShardError: if a key is a duplicate, or rates differ.
        ValueError: a clip bears a tag that its given vocabulary lacks.
    """
    with ColumnFolder(folder) as growing:
        files = EntryFiles(growing, vocabularies or {})
        described: list[ShardFile] = []
        for shard, entries in shards:
            files.append(len(described), entries)
            described.append(shard)
        if not files.count:
            raise ShardError(Problem(INDEX_NAME, None, None, "no clips to index"))
        order = files.id_order()
        files.check_unique(order, described)
        return _write(folder, files.batch(order), _manifest(files, described, extra or {}))


def _manifest(files: EntryFiles, shards: Sequence[ShardFile], extra: Mapping[str, Any]) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "clips": files.count,
        "frames": files.num_frames,
        "rate": files.rate,
        "splits": {split: files.splits[split] for split in SPLITS},
        "shards": [shard.to_json() for shard in shards],
        "vocabularies": {column: list(tags) for column, tags in files.vocabularies().items()},
        "classes": {column: list(names) for column, names in files.classes().items()},
        "numeric": files.numeric(),
        **extra,
    }
    if files.num_captions:
        manifest["captions"] = files.num_captions
    manifest["hash"] = manifest_hash(manifest)
    return manifest


def index_shards(folder: Path) -> dict[str, Any]:
    """Index tars that are already there, for example written by the webdataset library; labels as in our own JSON.
    Returns the manifest.

    Raises ShardError for the first thing wrong with them, UserError if another process indexes them.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise ShardError(Problem(str(folder), None, None, "no .tar file in this folder"))
    with sole_writer(folder, "index a copy"):
        return write_index(folder, map(_scanned, paths))


def is_convertible(folder: Path) -> bool:
    """Whether a folder holds a set of 0.1, as far as its manifest says."""
    try:
        return table_name(parse_manifest((folder / MANIFEST_NAME).read_bytes())) == PARQUET_NAME
    except (OSError, ShardError):
        return False


def convert_index(folder: Path) -> dict[str, Any]:
    """Write ``index.arrow`` for a set of 0.1 from its ``index.parquet``; its hash and its shards stay.
    Returns the manifest.

    Raises ShardError if the set is damaged, UserError if another process indexes it.
    """
    with sole_writer(folder, "convert a copy"):
        index = read_index(folder)
        return _write(folder, _batch_of(index), dict(index.manifest))


def _scanned(path: Path) -> Shard:
    entries = scan_shard(path)
    return describe_shard(path, len(entries)), entries


def _write(folder: Path, batch: Any, manifest: dict[str, Any]) -> dict[str, Any]:
    """The index, then the manifest that names its checksums: a kill in between leaves a set that says what to do."""
    with atomic_file(folder / INDEX_NAME) as path:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        size, sha256, crc = checksums(path)
    manifest["index"] = {
        "version": INDEX_VERSION, "rows": batch.num_rows, "bytes": size, "sha256": sha256, "crc": list(crc)
    }  # fmt: skip
    write_atomic(folder / MANIFEST_NAME, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    with atomic_file(folder / PARQUET_NAME) as path:
        write_clip_table(path, batch, manifest)
    return manifest


def _batch_of(index: ShardIndex) -> Any:
    """The columns of an index in memory as one record batch."""
    columns: dict[str, Any] = {}
    for name in (*TEXTS, *INTEGERS):
        column = getattr(index, name)
        columns[name] = column.arrow() if isinstance(column, TextColumn) else arrow_numbers(column)
    columns[ID_ORDER] = order_column(index.id_order)
    columns["crc"] = _lists(index.crc, index.crc_end)
    for name in label_columns(index.manifest):
        values = index.targets[name]
        columns[name] = _lists(*values) if isinstance(values, tuple) else arrow_numbers(values)
    lists = {name: index.columns[name].arrow() for name in TEXT_LISTS}
    columns |= {name: column for name, column in lists.items() if column is not None}
    return pa.record_batch(columns)


def _lists(flat: Any, ends: Any) -> Any:
    return pa.LargeListArray.from_arrays(arrow_numbers(ends), arrow_numbers(flat))
