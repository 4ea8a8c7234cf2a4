"""The table of a set's clips for other programs: pandas, polars and DuckDB read it as it is.

Counterpoint itself reads the index. Tags and classes are texts here, and what only a reader of the audio needs
(checksums, hashes) is left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from data_shards.format.index_file import TEXT_LISTS, TEXTS, label_columns

NUMBERS = ("shard", "offset", "size", "frames", "rate")
ROWS_AT_ONCE = 1 << 16


def write_clip_table(path: Path, batch: Any, manifest: Mapping[str, Any]) -> None:
    """Write a set as Parquet, a row a clip and some rows at a time: its index, a record batch, with the manifest's
    names of tags and classes.
    """
    blocks = (_block(batch.slice(at, ROWS_AT_ONCE), manifest) for at in range(0, batch.num_rows, ROWS_AT_ONCE))
    first = next(blocks)
    with pa.parquet.ParquetWriter(str(path), first.schema, compression="zstd") as writer:
        writer.write_batch(first)
        for block in blocks:
            writer.write_batch(block)


def _block(batch: Any, manifest: Mapping[str, Any]) -> Any:
    texts = [name for name in (*TEXTS, *TEXT_LISTS) if name in batch.schema.names]
    columns = {name: batch[name] for name in (*texts, *NUMBERS)}
    for name in label_columns(manifest):
        kind, _, column = name.partition(".")
        if kind == "multilabel":
            ends = pa.array(batch[name].offsets)
            tags = _names(batch[name].flatten(), manifest["vocabularies"][column])
            columns[name] = pa.LargeListArray.from_arrays(pc.subtract(ends, ends[0]), tags)
        else:
            columns[name] = _names(batch[name], manifest["classes"][column]) if kind == "categorical" else batch[name]
    return pa.record_batch(columns)


def _names(codes: Any, names: list[str]) -> Any:
    """The text of each code; none of a code that is unknown, −1."""
    known = pc.if_else(pc.less(codes, 0), None, codes)
    return pc.take(pa.array(names, pa.string()), known)
