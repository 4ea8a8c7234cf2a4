"""The tracks of a catalogue that sound nearest to a query: `counterpoint search`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.progress import SILENT, Progress
from cluster.settings import UserError
from data_shards.audio.scan import AudioFolder
from data_shards.format.text import as_text
from evaluation.embeddings.files import embed_stream
from evaluation.encoders.encoder import Encoder
from evaluation.encoders.pool import Pool
from evaluation.encoders.sources import open_encoder
from evaluation.search.index_update import follow_catalogue
from evaluation.search.same_track import LeaveOut, own_rows
from evaluation.search.track_index import TrackIndex


@dataclass(frozen=True)
class Hit:
    """A track and how near it is."""

    path: str
    cosine: float


@dataclass(frozen=True)
class Answer:
    """What was found for one query."""

    query: str
    nearest: tuple[Hit, ...]


@dataclass(frozen=True)
class SearchResult:
    """Answers to all queries, and where they came from."""

    answers: tuple[Answer, ...]
    index: TrackIndex
    folder: AudioFolder | None
    """What the scan of the catalogue found and passed over; None where it is no folder of audio."""


def search(
    source: Path | str | Encoder | Pool,
    catalogue: Path | str,
    queries: Sequence[Path | str] | Path | str,
    *,
    k: int = 10,
    index: Path | None = None,
    leave_out: LeaveOut = "query",
    workers: int = 0,
    device: str | None = None,
    trust_code: bool = False,
    progress: Progress = SILENT,
) -> SearchResult:
    """The k nearest tracks of a catalogue for every query, by cosine, from an index that is built once and kept.

    Args:
        source: a snapshot, a run's folder or ``module:factory``; or an encoder, or a pool that holds it as `ENCODER`.
        catalogue: folder of audio, folder of shards, Parquet file of embeddings, or saved index.
        queries: audio files, or one.
        k: tracks wanted for each, ≥ 1.
        index: folder of the saved index; by default one for each catalogue and encoder below outputs/indexes.
        leave_out: see `search_catalogue`.
        workers: Ray workers that decode and embed; 0 is this process alone.
        device: of this process's encoder.
        trust_code: import the user's own code that a snapshot names.
        progress: counts what is embedded.

    Raises:
        UserError: for a catalogue or a query that cannot be read, or an index of another encoder.
    """
    files = [Path(query) for query in ([queries] if isinstance(queries, Path | str) else queries)]
    with open_encoder(source, workers=workers, device=device, trust_code=trust_code) as pool:
        return search_catalogue(pool, Path(catalogue), files, k=k, place=index, leave_out=leave_out, progress=progress)


def search_catalogue(
    pool: Pool,
    catalogue: Path,
    queries: Sequence[Path],
    *,
    k: int,
    place: Path | None = None,
    leave_out: LeaveOut = "query",
    progress: Progress = SILENT,
) -> SearchResult:
    """Bring the index of a catalogue up to date and search it.

    Args:
        pool: of one encoder, called `ENCODER`.
        catalogue: folder of audio, folder of shards, Parquet file of embeddings, or saved index.
        queries: audio files.
        k: tracks wanted for each, ≥ 1.
        place: folder of the index; by default one for each catalogue and encoder below outputs/indexes.
        leave_out: the query itself (at its path, or with its bytes) is no answer, or its whole track is none, see
            `own_rows`; or nothing is left out.
        progress: counts what is embedded.

    Raises:
        UserError: for a catalogue or a query that cannot be read, or an index of another encoder.
    """
    if k < 1:
        raise UserError(f"-k must be ≥ 1, got {k}")
    for query in queries:
        if not query.is_file():
            what = "is a folder; a query is an audio file" if query.is_dir() else "no such file"
            raise UserError(f"{query}: {what}")
    index, folder = follow_catalogue(pool, catalogue, place, progress=progress)
    if not len(index):
        why = f"; the first: {index.rejected[0][0].path}: {index.rejected[0][1]}" if index.rejected else ""
        raise UserError(f"{catalogue}: no track in it can be embedded{why}")
    embedded = list(embed_stream(pool, queries))
    for file in embedded:
        if file.reason:
            raise UserError(f"{file.path}: {file.reason}")
    left_out = own_rows(index, queries, leave_out)
    cosine_Qk, row_Qk = index.search(np.stack([file.mean_E for file in embedded]), k + max(map(len, left_out)))
    rows = [[int(row) for row in row_Qk[i] if row not in left_out[i]][:k] for i in range(len(queries))]
    tracks = index.track_of(row for found in rows for row in found)
    answers = []
    for i, query in enumerate(queries):
        near = dict(zip(row_Qk[i].tolist(), cosine_Qk[i].tolist(), strict=True))
        hits = (Hit(str(index.file(tracks[row])), round(near[row], 6)) for row in rows[i])
        answers.append(Answer(as_text(str(query)), tuple(hits)))
    return SearchResult(tuple(answers), index, folder)
