"""Writing the index of a set: entries of all shards become one Parquet table and one manifest.

The same shards give the same bytes. Vocabularies are collected over the whole set unless they are given.
"""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cluster.files.locks import sole_writer
from cluster.files.storage import write_atomic
from data_shards.format.entries import Entry, scan_shard
from data_shards.format.index import INTEGERS, SCHEMA_VERSION, TAG_SEPARATOR, TEXTS, id_hash, manifest_hash
from data_shards.format.paths import INDEX_NAME, MANIFEST_NAME
from data_shards.format.problems import Problem, ShardError
from data_shards.format.records import SPLITS
from data_shards.format.shard_file import ShardFile, describe_shard
from data_shards.format.vocabulary import check_order, collect, encode_classes, encode_sets

Shard = tuple[ShardFile, Sequence[Entry]]


def write_index(
    folder: Path,
    shards: Sequence[Shard],
    *,
    vocabularies: Mapping[str, Sequence[str]] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``index.parquet`` and ``manifest.json`` beside the shards.

    Args:
        folder: where the shards are.
        shards: each with its entries, in order.
        vocabularies: tag orders that are given from outside; the others are collected.
        extra: further fields of the manifest, JSON types.

    Returns:
        The manifest.

    Raises:
        ShardError: if a key is a duplicate, or rates differ.
        ValueError: a clip bears a tag that its given vocabulary lacks.
    """
    entries = [entry for _, part in shards for entry in part]
    check_together(entries)
    columns = {
        kind: sorted({column for entry in entries for column in getattr(entry, kind)})
        for kind in ("multilabel", "categorical", "numeric")
    }
    orders = _vocabularies(entries, columns["multilabel"], vocabularies or {})
    classes = {c: collect(v for e in entries if (v := e.categorical.get(c))) for c in columns["categorical"]}
    shard_code = {shard.name: code for code, (shard, _) in enumerate(shards)}
    buffer = io.BytesIO()
    pa.parquet.write_table(_table(entries, shard_code, orders, classes, columns["numeric"]), buffer, compression="zstd")
    write_atomic(folder / INDEX_NAME, buffer.getvalue())
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "clips": len(entries),
        "frames": sum(entry.frames for entry in entries),
        "rate": entries[0].rate,
        "splits": {split: sum(entry.split == split for entry in entries) for split in SPLITS},
        "shards": [shard.to_json() for shard, _ in shards],
        "vocabularies": {column: list(tags) for column, tags in orders.items()},
        "classes": {column: list(names) for column, names in classes.items()},
        "numeric": columns["numeric"],
        **(extra or {}),
    }
    num_captions = sum(len(entry.captions) for entry in entries)
    if num_captions:
        manifest["captions"] = num_captions
    manifest["hash"] = manifest_hash(manifest)
    manifest["index"] = {"rows": len(entries), "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / MANIFEST_NAME, text)
    return manifest


def index_shards(folder: Path) -> dict[str, Any]:
    """Index tars that are already there, for example written by the webdataset library; labels as in our own JSON.

    Returns:
        The manifest.

    Raises:
        ShardError: the first thing wrong with them.
        UserError: if another process indexes them.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise ShardError(Problem(str(folder), None, None, "no .tar file in this folder"))
    with sole_writer(folder, "index a copy"):
        scans = [(path, scan_shard(path)) for path in paths]
        return write_index(folder, [(describe_shard(path, len(entries)), entries) for path, entries in scans])


def check_together(entries: Sequence[Entry]) -> None:
    """Refuse entries that cannot stand in one set.

    Raises:
        ShardError: none at all, a key in two places (both are named), or two rates.
    """
    if not entries:
        raise ShardError(Problem(INDEX_NAME, None, None, "no clips to index"))
    seen: dict[int, Entry] = {}
    for entry in entries:
        other = seen.setdefault(id_hash(entry.key), entry)
        if other is not entry:
            what = f"duplicate key, also in {other.shard} at byte {other.offset:,} as {other.key}"
            raise ShardError(Problem(entry.shard, entry.key, entry.offset, what))
        if entry.rate != entries[0].rate:
            what = f"{entry.rate:,} Hz, but {entries[0].key} has {entries[0].rate:,} Hz; a set has one rate"
            raise ShardError(Problem(entry.shard, entry.key, entry.offset, what))


def _vocabularies(
    entries: Sequence[Entry], columns: Sequence[str], given: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    orders: dict[str, tuple[str, ...]] = {}
    for column in sorted({*columns, *given}):
        if column not in given:
            orders[column] = collect(tag for entry in entries for tag in entry.multilabel.get(column, ()))
            continue
        orders[column] = check_order(given[column], column)
        for entry in entries:
            unknown = sorted(set(entry.multilabel.get(column, ())) - set(orders[column]))
            if unknown:
                raise ValueError(f"clip {entry.key}: {column} {', '.join(unknown)} is not in the given vocabulary")
    return orders


def _table(
    entries: Sequence[Entry],
    shard_code: Mapping[str, int],
    orders: Mapping[str, Sequence[str]],
    classes: Mapping[str, Sequence[str]],
    numeric: Sequence[str],
) -> pa.Table:
    columns: dict[str, Any] = {name: pa.array([getattr(e, name) for e in entries], pa.string()) for name in TEXTS}
    columns["shard"] = np.array([shard_code[entry.shard] for entry in entries], np.int32)
    for name, kind in INTEGERS.items():
        if name not in ("shard", "id_hash"):
            columns[name] = np.array([getattr(entry, name) for entry in entries], kind)
    columns["id_hash"] = np.array([id_hash(entry.key) for entry in entries], np.int64)
    columns["crc"] = pa.array([entry.crc for entry in entries], pa.list_(pa.uint32()))
    for column, names in orders.items():
        codes = encode_sets([entry.multilabel.get(column, ()) for entry in entries], names)
        columns[f"multilabel.{column}"] = pa.array(codes, pa.list_(pa.int32()))
    for column, names in classes.items():
        columns[f"categorical.{column}"] = encode_classes([entry.categorical.get(column) for entry in entries], names)
    for column in numeric:
        columns[f"numeric.{column}"] = np.array([entry.numeric.get(column, math.nan) for entry in entries], np.float64)
    if any(entry.captions for entry in entries):
        columns["captions"] = pa.array([entry.captions for entry in entries], pa.list_(pa.string()))
    if any(any(entry.caption_tags) for entry in entries):
        shown = [[TAG_SEPARATOR.join(tags) for tags in entry.caption_tags] for entry in entries]
        columns["caption_tags"] = pa.array(shown, pa.list_(pa.string()))
    return pa.table(columns)
