"""Any audio files through a frozen encoder into Parquet, a row a file or a row a chunk, whatever the catalogue's size.

Shape suffixes: N chunks of a batch, T samples of a chunk, E encoder width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from cluster.progress import SILENT, Progress
from cluster.settings import RunError, UserError
from cluster.storage import atomic_file
from data_shards.audio import AudioError, decode, to_int16
from evaluation.cache import embedding_array
from evaluation.embed import PCM_SCALE, Encoder, chunk_spans, in_batches, make_chunk, run_encoder
from evaluation.tasks import Chunking

SCHEMA_VERSION = 1
ROWS_A_GROUP = 1024
BATCH = 64
"""Chunks an encoder sees at once."""


@dataclass(frozen=True)
class Embedded:
    """What was written."""

    path: Path
    rows: int
    rejected: dict[str, str]
    """Files that could not be read, and why; none unless they were allowed."""


@dataclass(frozen=True)
class _Chunk:
    file: int
    start: int
    wave_T: NDArray[np.float32]


@dataclass
class _Rows:
    """Rows that wait to be written."""

    paths: list[str] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    h: list[NDArray[np.float32]] = field(default_factory=list)


def embed_files(
    encoder: Encoder,
    files: Sequence[Path | str],
    out: Path,
    *,
    timeline: bool = False,
    skip_unreadable: bool = False,
    progress: Progress = SILENT,
) -> Embedded:
    """Embed files of any format and rate, in their order.

    Args:
        encoder: frozen.
        files: audio files.
        out: Parquet file with columns path and embedding (mean over chunks), or path, start_s and embedding.
        timeline: a row a chunk instead of a row a file.
        skip_unreadable: name unreadable files in the result instead of stopping at the first.
        progress: told of the files that are done.

    Raises:
        UserError: names a file that cannot be read; nothing is written then.
        RunError: names a file whose embedding is not finite.
    """
    if not files:
        raise UserError("no files to embed")
    rejected: dict[str, str] = {}
    chunks = _read(files, encoder, rejected if skip_unreadable else None)
    schema = _schema(encoder, timeline=timeline)
    rows, count = _Rows(), 0
    with progress.stage("embedding", len(files)) as bar, atomic_file(out) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            for file, group in groupby(_embed(chunks, encoder), key=lambda pair: pair[0].file):
                _add(rows, str(files[file]), list(group), encoder, timeline=timeline)
                bar(file + 1, str(files[file]))
                if len(rows.h) >= ROWS_A_GROUP:
                    count, rows = count + _flush(writer, rows, schema), _Rows()
            count += _flush(writer, rows, schema)
        if not count:
            raise UserError(f"none of the {len(files)} files can be read; the first: {next(iter(rejected.items()))}")
    return Embedded(out, count, rejected)


def read_clip(path: Path, rate: int) -> NDArray[np.float32]:
    """A file as mono float32 at a rate, through 16 bits as a shard would hold it.

    Raises:
        AudioError: with the reason.
    """
    wave, found = decode(path)
    return to_int16(wave, found, rate).astype(np.float32) * np.float32(PCM_SCALE)


def _read(files: Sequence[Path | str], encoder: Encoder, rejected: dict[str, str] | None) -> Iterator[_Chunk]:
    for number, file in enumerate(files):
        try:
            wave_T = read_clip(Path(file), encoder.rate)
        except AudioError as error:
            if rejected is None:
                raise UserError(f"{file}: {error}") from None
            rejected[str(file)] = str(error)
            continue
        spans = chunk_spans(len(wave_T), encoder.samples, Chunking().min_tail)
        for span in spans:
            yield _Chunk(number, span[0], make_chunk(wave_T, span, encoder.samples, alone=len(spans) == 1))


def _embed(chunks: Iterator[_Chunk], encoder: Encoder) -> Iterator[tuple[_Chunk, NDArray[np.float32]]]:
    for group in in_batches(chunks, BATCH):
        wave_NT = torch.from_numpy(np.stack([chunk.wave_T for chunk in group]))
        yield from zip(group, run_encoder(encoder, wave_NT), strict=True)


def _add(
    rows: _Rows,
    path: str,
    embedded: list[tuple[_Chunk, NDArray[np.float32]]],
    encoder: Encoder,
    *,
    timeline: bool,
) -> None:
    h_NE = np.stack([h for _, h in embedded])
    if not np.isfinite(h_NE).all():
        raise RunError(f"{path}: its embedding is not finite; the encoder is broken, take an earlier snapshot")
    rows.h += list(h_NE) if timeline else [h_NE.mean(0, dtype=np.float64).astype(np.float32)]
    rows.paths += [path] * (len(h_NE) if timeline else 1)
    rows.starts_s += [chunk.start / encoder.rate for chunk, _ in embedded] if timeline else [0.0]


def _schema(encoder: Encoder, *, timeline: bool) -> pa.Schema:
    fields = [("path", pa.string())] + ([("start_s", pa.float64())] if timeline else [])
    fields.append(("embedding", pa.list_(pa.float32(), encoder.width)))
    about = {"encoder": encoder.hash, "rate_hz": str(encoder.rate), "chunk_samples": str(encoder.samples)}
    return pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION), **about})


def _flush(writer: pq.ParquetWriter, rows: _Rows, schema: pa.Schema) -> int:
    if not rows.h:
        return 0
    columns = {"path": pa.array(rows.paths), "start_s": pa.array(rows.starts_s)}
    columns["embedding"] = embedding_array(np.stack(rows.h))
    writer.write_table(pa.table([columns[name] for name in schema.names], schema=schema))
    return len(rows.h)
