"""Embedding tables on disk: Parquet with page checksums, named by what they were computed from, never pickled.

Shape suffixes: K clips, P chunks, E encoder width.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.files.storage import atomic_file
from cluster.settings import RunError, to_tree
from evaluation.config import Chunking
from evaluation.embeddings.embed import EmbeddingTable, embed_shards
from evaluation.encoders.encoder import Encoder, alike
from evaluation.encoders.spaces import WHOLE, spaces_of
from evaluation.inputs import EvaluationInputs

SCHEMA_VERSION = 1


def embed_or_load(inputs: EvaluationInputs, folder: Path) -> dict[str, EmbeddingTable]:
    """Tables of all encoders: read where they were computed before, computed and kept otherwise."""
    paths = {
        name: table_path(
            folder, _identity(encoder), inputs.shards.manifest_hash, inputs.config.chunking, encoder.samples
        )
        for name, encoder in inputs.encoders.items()
    }
    tables = {name: load_table(path) for name, path in paths.items()}
    missing = {name: encoder for name, encoder in inputs.encoders.items() if tables[name] is None}
    if missing:
        for names in alike(missing):
            encoders = inputs.encoders.only(names)
            fresh = embed_shards(inputs.shards, encoders, inputs.config, progress=inputs.progress)
            for name, table in fresh.items():
                save_table(table, paths[name])
            tables |= fresh
    return {name: table for name, table in tables.items() if table is not None}


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
        "key": pa.array(table.keys),
        "embedding": embedding_array(table.h_KE),
        "chunks": pa.array(table.counts_K),
    }
    if len(table.chunks_PE):
        offsets = np.concatenate([[0], np.cumsum(table.counts_K)]).astype(np.int32)
        columns["chunk_embeddings"] = pa.ListArray.from_arrays(pa.array(offsets), embedding_array(table.chunks_PE))
    about = {"schema_version": str(SCHEMA_VERSION), "encoder": table.encoder, "manifest": table.manifest}
    write_parquet(pa.table(columns).replace_schema_metadata(about), path)


def load_table(path: Path) -> EmbeddingTable | None:
    """Read a table, or None where there is none yet.

    Raises:
        RunError: if the file is damaged; it names the file, which may be deleted.
    """
    if not path.is_file():
        return None
    try:
        found = pq.read_table(path, page_checksum_verification=True)
        about = {key.decode(): value.decode() for key, value in (found.schema.metadata or {}).items()}
        if about["schema_version"] != str(SCHEMA_VERSION):
            raise ValueError(f"schema version {about['schema_version']}, this release reads {SCHEMA_VERSION}")
        h_KE = _matrix(found["embedding"].combine_chunks())
        chunks_PE = h_KE[:0]
        if "chunk_embeddings" in found.column_names:
            chunks_PE = _matrix(found["chunk_embeddings"].combine_chunks().flatten())
        keys, counts_K = tuple(found["key"].to_pylist()), found["chunks"].to_numpy().astype(np.int64)
        return EmbeddingTable(h_KE, keys, chunks_PE, counts_K, about["encoder"], about["manifest"])
    except (OSError, pa.ArrowException, KeyError, ValueError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: not a whole embedding table ({error}); delete it and run again") from None


def embedding_array(h_KE: NDArray[np.float32]) -> pa.FixedSizeListArray:
    """Rows of float32 as a Parquet column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(h_KE).ravel()), h_KE.shape[1])


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write any table atomically with a checksum a page."""
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _matrix(column: pa.FixedSizeListArray) -> NDArray[np.float32]:
    values: NDArray[np.float32] = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return values
