"""Embedding tables on disk: Parquet with page checksums, named by what they were computed from, never pickled.

Shape suffixes: K clips, P chunks, E encoder width.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.files.storage import atomic_file
from cluster.settings import RunError, to_tree
from data_shards.format.columns import arrow_numbers, arrow_texts, numbers_of
from evaluation.config import Chunking
from evaluation.embeddings.embed import EmbeddingTable, embed_shards
from evaluation.encoders.encoder import Encoder, alike, spaces_of
from evaluation.inputs import EvaluationInputs
from evaluation.targets.target import parts_of
from trainers.inference.spaces import WHOLE

SCHEMA_VERSION = 1


def embed_or_load(inputs: EvaluationInputs, folder: Path) -> dict[str, EmbeddingTable]:
    """Tables of all encoders: clips that were embedded before are read, the others that a task reads are embedded.
    A row for every clip of the set; NaN, without chunks, where no task reads it.
    """
    rows, keys = rows_read(inputs), [str(key) for key in inputs.shards.index.key]
    paths = {
        name: table_path(
            folder, _identity(encoder), inputs.shards.manifest_hash, inputs.config.chunking, encoder.samples
        )
        for name, encoder in inputs.encoders.items()
    }
    tables = {name: load_table(path) for name, path in paths.items()}
    missing = {
        name: (rows if table is None else np.setdiff1d(rows, _places(table, keys))) for name, table in tables.items()
    }
    for names in _together(inputs, missing):
        encoders = inputs.encoders.only(names)
        fresh = embed_shards(inputs.shards, encoders, inputs.config, rows=missing[names[0]], progress=inputs.progress)
        for name, table in fresh.items():
            merged = tables[name] = _merged(tables[name], table, keys)
            save_table(merged, paths[name])
    return {name: _spread(table, keys) for name, table in tables.items() if table is not None}


def rows_read(inputs: EvaluationInputs) -> NDArray[np.int64]:
    """Rows of the index that a task reads, ascending: what is reported, and what probes are trained and stopped on."""
    read = []
    for name, target in inputs.targets.items():
        parts = parts_of(target, inputs.config.split)
        read += [part.rows_K for part in (parts.values() if inputs.config.tasks[name].probe else [parts["test"]])]
        if name == inputs.config.projection.task:
            read.append(target.only("test").rows_K)
    return np.unique(np.concatenate(read))


def _together(inputs: EvaluationInputs, missing: Mapping[str, NDArray[np.int64]]) -> list[list[str]]:
    """Encoders that read the same chunks of the same clips, without those that miss none."""
    groups: dict[tuple[int, bytes], list[str]] = {}
    for place, names in enumerate(alike(inputs.encoders)):
        for name in names:
            if len(missing[name]):
                groups.setdefault((place, missing[name].tobytes()), []).append(name)
    return list(groups.values())


def _places(table: EmbeddingTable, keys: Sequence[str]) -> NDArray[np.int64]:
    row = {key: place for place, key in enumerate(keys)}
    return np.array([row[key] for key in table.keys], np.int64)


def _merged(kept: EmbeddingTable | None, fresh: EmbeddingTable, keys: Sequence[str]) -> EmbeddingTable:
    """Both tables' clips in the order of the index."""
    if kept is None:
        return fresh
    order_K = np.argsort(np.concatenate([_places(kept, keys), _places(fresh, keys)]))
    counts_K = np.concatenate([kept.counts_K, fresh.counts_K])
    chunks_PE = np.concatenate([kept.chunks_PE, fresh.chunks_PE])
    if len(chunks_PE):
        ends_K = np.cumsum(counts_K)
        chunks_PE = np.concatenate([chunks_PE[ends_K[k] - counts_K[k] : ends_K[k]] for k in order_K])
    both = kept.keys + fresh.keys
    return replace(
        fresh,
        h_KE=np.concatenate([kept.h_KE, fresh.h_KE])[order_K],
        keys=tuple(both[k] for k in order_K),
        chunks_PE=chunks_PE,
        counts_K=counts_K[order_K],
    )


def _spread(table: EmbeddingTable, keys: Sequence[str]) -> EmbeddingTable:
    """The same table with a row for every clip of the set."""
    rows_K = _places(table, keys)
    h_KE = np.full((len(keys), table.h_KE.shape[1]), np.nan, np.float32)
    counts_K = np.zeros(len(keys), np.int64)
    h_KE[rows_K], counts_K[rows_K] = table.h_KE, table.counts_K
    return replace(table, h_KE=h_KE, counts_K=counts_K, keys=tuple(keys))


def table_path(folder: Path, encoder: str, manifest: str, chunking: Chunking, samples: int) -> Path:
    """Where the table of this encoder on these shards, chunked so, is kept."""
    content = json.dumps([SCHEMA_VERSION, encoder, manifest, to_tree(chunking), samples], sort_keys=True)
    return folder / f"embeddings-{hashlib.sha256(content.encode()).hexdigest()[:24]}.parquet"


def _identity(encoder: Encoder) -> str:
    """Of the columns of a table: outputs of heads behind the embedding make it another one of the same encoder."""
    spaces = list(spaces_of(encoder))
    return f"{encoder.hash} {' '.join(spaces)}" if WHOLE in spaces[:-1] else encoder.hash


def save_table(table: EmbeddingTable, path: Path) -> None:
    """Write a table atomically: a row a clip, its chunks beside its mean where they are kept."""
    columns = {
        "key": arrow_texts(table.keys).cast(pa.string()),
        "embedding": embedding_array(table.h_KE),
        "chunks": arrow_numbers(table.counts_K),
    }
    if len(table.chunks_PE):
        offsets = np.concatenate([[0], np.cumsum(table.counts_K)]).astype(np.int32)
        columns["chunk_embeddings"] = pa.ListArray.from_arrays(arrow_numbers(offsets), embedding_array(table.chunks_PE))
    about = {"schema_version": str(SCHEMA_VERSION), "encoder": table.encoder, "manifest": table.manifest}
    write_parquet(pa.table(columns).replace_schema_metadata(about), path)


def load_table(path: Path) -> EmbeddingTable | None:
    """Read a table, or None where there is none yet.
    Where it is damaged the RunError names the file, which may be deleted.
    """
    if not path.is_file():
        return None
    try:
        found = pq.ParquetFile(path, page_checksum_verification=True).read()
        about = {key.decode(): value.decode() for key, value in (found.schema.metadata or {}).items()}
        if about["schema_version"] != str(SCHEMA_VERSION):
            raise ValueError(f"schema version {about['schema_version']}, this release reads {SCHEMA_VERSION}")
        h_KE = _matrix(found["embedding"].combine_chunks())
        chunks_PE = h_KE[:0]
        if "chunk_embeddings" in found.column_names:
            chunks_PE = _matrix(found["chunk_embeddings"].combine_chunks().flatten())
        keys, counts_K = tuple(found["key"].to_pylist()), numbers_of(found["chunks"].combine_chunks()).astype(np.int64)
        return EmbeddingTable(h_KE, keys, chunks_PE, counts_K, about["encoder"], about["manifest"])
    except (OSError, pa.ArrowException, KeyError, ValueError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: not a whole embedding table ({error}); delete it and run again") from None


def embedding_array(h_KE: NDArray[np.float32]) -> pa.FixedSizeListArray:
    """Rows of float32 as a Parquet column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(arrow_numbers(h_KE.ravel()), h_KE.shape[1])


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write any table atomically with a checksum a page."""
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _matrix(column: pa.FixedSizeListArray) -> NDArray[np.float32]:
    values: NDArray[np.float32] = numbers_of(column.flatten()).reshape(len(column), column.type.list_size)
    return values
