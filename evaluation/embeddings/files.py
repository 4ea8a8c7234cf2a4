"""Any audio files through a frozen encoder into Parquet, a row a file or a row a chunk, whatever the catalogue's size.

Shape suffixes: N chunks of a batch, P chunks of a file, T samples of a chunk, E encoder width.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.files.locks import sole_file_writer
from cluster.files.outputs import PARQUET, require_replaceable_file
from cluster.files.storage import atomic_file
from cluster.progress import SILENT, Bar, Progress
from cluster.settings import RunError, UserError
from data_shards.audio.decode import AudioError, FileAudio, read_mono
from data_shards.format.columns import arrow_numbers, arrow_texts
from data_shards.format.text import as_text
from evaluation.config import Chunking
from evaluation.embeddings.cache import embedding_array
from evaluation.embeddings.embed import PCM_SCALE, chunk_spans, in_batches, make_chunk, run_encoder
from evaluation.embeddings.inputs import expand
from evaluation.encoders.encoder import ENCODER, Encoder, spaces_of
from evaluation.encoders.pool import Pool
from evaluation.encoders.sources import open_encoder
from trainers.inference.spaces import WHOLE, space_in, spaces_tree

SCHEMA_VERSION = 1
ROWS_A_GROUP = 1024
BATCH = 64
"""Chunks an encoder sees at once."""
FILES_A_JOB = 8


@dataclass(frozen=True)
class Embedded:
    """What was written."""

    path: Path
    rows: int
    rejected: dict[str, str]
    """Files that could not be read, and why; none unless they were allowed."""
    passed_over: dict[str, Any] = field(default_factory=dict)
    """What the scans of folders left out, by folder and kind, as JSON types."""
    notes: tuple[str, ...] = ()
    """The same as lines of text, with what to do about it."""


@dataclass(frozen=True)
class EmbeddedFile:
    """One file's chunks, or the reason why there are none."""

    path: str
    """As text that any encoding holds."""
    starts_s: list[float]
    h_PE: NDArray[np.float32]
    reason: str | None = None
    seconds: float = 0.0
    """Of audio."""

    @property
    def mean_E(self) -> NDArray[np.float32]:
        """Mean over its chunks, in float64."""
        return np.asarray(self.h_PE.mean(0, dtype=np.float64), np.float32)


@dataclass
class _Rows:
    """Rows that wait to be written."""

    paths: list[str] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    h: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, file: EmbeddedFile, *, timeline: bool) -> None:
        self.h += list(file.h_PE) if timeline else [file.mean_E]
        self.paths += [file.path] * (len(file.h_PE) if timeline else 1)
        self.starts_s += file.starts_s if timeline else [0.0]


def embed_files(
    source: Path | str | Encoder | Pool,
    files: Sequence[Path | str] | Path | str,
    out: Path | str,
    *,
    space: str | None = None,
    timeline: bool = False,
    skip_unreadable: bool = False,
    workers: int = 0,
    device: str | None = None,
    trust_code: bool = False,
    progress: Progress = SILENT,
) -> Embedded:
    """Embed audio files and folders of any format and rate, in their order; row groups are written as they come.

    Args:
        source: a snapshot, a run's folder or ``module:factory``; or an encoder, or a pool that holds it as `ENCODER`.
        files: audio files, folders of them, or both.
        out: Parquet file with columns path and embedding (mean over chunks), or path, start_s and embedding.
        space: the one space of the encoder that is written; None writes its whole embedding. The file's metadata name
            the columns of every space in it.
        timeline: a row a chunk instead of a row a file.
        skip_unreadable: name unreadable files in the result instead of stopping at the first.
        workers: Ray workers that decode and embed; 0 is this process alone.
        device: of this process's encoder.
        trust_code: import the user's own code that a snapshot names.
        progress: counts the files that are done.

    Raises:
        UserError: names a file that cannot be read, a space that is not there, or an output that another process
            writes; nothing is written then.
        RunError: names a file whose embedding is not finite.
    """
    places = [Path(place) for place in ([files] if isinstance(files, Path | str) else files)]
    if not places:
        raise UserError("no files to embed")
    out = Path(out)
    require_replaceable_file(out, "--out", *PARQUET)
    with sole_file_writer(out, "give another --out"):
        inputs = expand(places, missing_ok=skip_unreadable)
        with (
            open_encoder(
                source, workers=workers, device=device, trust_code=trust_code, heads=space is not None
            ) as pool,
            progress.stage("embedding", len(inputs.files)) as bar,
        ):
            place, spaces = _written(spaces_of(pool[ENCODER]), space)
            schema = _schema(pool[ENCODER], spaces, timeline=timeline)
            stream = (replace(file, h_PE=file.h_PE[:, place]) for file in embed_stream(pool, inputs.files))
            rows, rejected = _write(stream, out, schema, bar, skip_unreadable=skip_unreadable)
    return Embedded(out, rows, rejected, inputs.passed_over(), tuple(inputs.report()))


def _write(
    stream: Iterable[EmbeddedFile], out: Path, schema: pa.Schema, bar: Bar, *, skip_unreadable: bool
) -> tuple[int, dict[str, str]]:
    """Write embedded files as they come: the number of rows, and why files have none."""
    timeline = "start_s" in schema.names
    rejected: dict[str, str] = {}
    rows, count = _Rows(), 0
    heard_s, began = 0.0, time.monotonic()
    with atomic_file(out) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            for done, file in enumerate(stream, 1):
                heard_s += file.seconds
                bar(done, f"{heard_s / 3600 / max(1e-9, time.monotonic() - began):.2f} hours of music a second")
                if file.reason is None:
                    rows.add(file, timeline=timeline)
                elif skip_unreadable:
                    rejected[file.path] = file.reason
                else:
                    raise UserError(
                        f"{file.path}: {file.reason}; nothing is written: mend or remove it, or embed the others with "
                        "--skip-unreadable"
                    )
                if len(rows.h) >= ROWS_A_GROUP:
                    count, rows = count + _flush(writer, rows, schema), _Rows()
            count += _flush(writer, rows, schema)
        if not count:
            first, why = next(iter(rejected.items()))
            raise UserError(f"none of the {len(rejected)} files can be read; the first: {first}: {why}")
    return count, rejected


def embed_stream(pool: Pool, files: Iterable[Path | str]) -> Iterator[EmbeddedFile]:
    """Embed files one after another; what waits in memory is a few jobs for each worker, whatever their number.
    The RunError names a file whose embedding is not finite.
    """
    for done in pool.map(_embed_job, in_batches((str(file) for file in files), FILES_A_JOB)):
        yield from done


def read_clip(path: Path, rate: int) -> NDArray[np.float32]:
    """A file as mono float32 at a rate, through 16 bits as a shard would hold it. Raises AudioError."""
    return read_mono(FileAudio("", str(path)), rate).astype(np.float32) * np.float32(PCM_SCALE)


def _embed_job(encoders: Mapping[str, Encoder], paths: list[str]) -> list[EmbeddedFile]:
    encoder, reasons = encoders[ENCODER], dict[int, str]()
    starts_s: list[list[float]] = [[] for _ in paths]
    h: list[list[NDArray[np.float32]]] = [[] for _ in paths]
    places: list[tuple[int, int]] = []
    parts: list[Tensor] = []
    seconds = [0.0] * len(paths)
    for group in in_batches(_read(paths, encoder, reasons, seconds), BATCH):
        places += [(file, start) for file, start, _ in group]
        parts.append(run_encoder(encoder, torch.from_numpy(np.stack([wave_T for _, _, wave_T in group]))))
    embedded = torch.cat(parts).cpu().numpy() if parts else ()
    for (file, start), h_E in zip(places, embedded, strict=True):
        starts_s[file].append(start / encoder.rate)
        h[file].append(h_E)
    done = []
    for file, path in enumerate(paths):
        h_PE = np.stack(h[file]) if h[file] else np.empty((0, encoder.width), np.float32)
        if not np.isfinite(h_PE).all():
            raise RunError(
                f"{as_text(path)}: its embedding is not finite; the encoder is broken, take an earlier snapshot"
            )
        done.append(EmbeddedFile(as_text(path), starts_s[file], h_PE, reasons.get(file), seconds[file]))
    return done


def _read(
    paths: Sequence[str], encoder: Encoder, reasons: dict[int, str], seconds: list[float]
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Number of the file, first sample and wave of every chunk; reasons where there is none, and lengths."""
    for number, path in enumerate(paths):
        try:
            wave_T = read_clip(Path(path), encoder.rate)
        except AudioError as error:
            reasons[number] = str(error)
            continue
        seconds[number] = len(wave_T) / encoder.rate
        spans = chunk_spans(len(wave_T), encoder.samples, Chunking().min_tail)
        for span in spans:
            yield number, span[0], make_chunk(wave_T, span, encoder.samples, alone=len(spans) == 1)


def spaces_in(metadata: Mapping[bytes, bytes], width: int) -> dict[str, slice]:
    """Columns of every space that a file of embeddings holds; the whole embedding where it names none."""
    spaces = json.loads(metadata.get(b"spaces", b"null")) or {WHOLE: [0, width]}
    return {name: slice(*ends) for name, ends in spaces.items()}


def _written(spaces: Mapping[str, slice], space: str | None) -> tuple[slice, dict[str, slice]]:
    """Columns of the encoder that are written, and which of them every space then has."""
    if space is None:
        return slice(None), {WHOLE: spaces[WHOLE]} if WHOLE in spaces else dict(spaces)
    place = space_in(spaces, space, "--space")
    return place, {space: slice(0, place.stop - place.start)}


def _schema(encoder: Encoder, spaces: Mapping[str, slice], *, timeline: bool) -> pa.Schema:
    fields = [("path", pa.string())] + ([("start_s", pa.float64())] if timeline else [])
    fields.append(("embedding", pa.list_(pa.float32(), max(place.stop for place in spaces.values()))))
    about = {"encoder": encoder.hash, "rate_hz": str(encoder.rate), "chunk_samples": str(encoder.samples)}
    about["spaces"] = json.dumps(spaces_tree(spaces))
    return pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION), **about})


def _flush(writer: pq.ParquetWriter, rows: _Rows, schema: pa.Schema) -> int:
    if not rows.h:
        return 0
    columns = {
        "path": arrow_texts(rows.paths).cast(pa.string()),
        "start_s": arrow_numbers(np.array(rows.starts_s, np.float64)),
    }
    columns["embedding"] = embedding_array(np.stack(rows.h))
    writer.write_table(pa.table([columns[name] for name in schema.names], schema=schema))
    return len(rows.h)
