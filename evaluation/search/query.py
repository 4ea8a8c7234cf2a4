"""The tracks of a catalogue that are nearest to a query, in one space of the encoder or all: `counterpoint search`.

A query is an audio file, a text in the space that two towers share, or an audio file and texts together there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.progress import SILENT, Progress
from cluster.settings import UserError
from data_shards.audio.scan import AudioFolder
from data_shards.format.text import as_text
from evaluation.embeddings.files import embed_stream
from evaluation.encoders.encoder import ENCODER, Encoder, TextTower, spaces_of
from evaluation.encoders.pool import Pool
from evaluation.encoders.sources import open_encoder
from evaluation.search.asked import Weights, check_queries, parse_by, resolve
from evaluation.search.index_update import follow_catalogue
from evaluation.search.mixture import query_rows
from evaluation.search.same_track import LeaveOut, namer, own_rows
from evaluation.search.track_index import TrackIndex
from trainers.inference.spaces import ALL, JOINT, no_text_tower
from trainers.text.files import EXTRA

SEVERAL = 4
"""Clips a track that are looked for at first where one of each is wanted."""


@dataclass(frozen=True)
class Hit:
    """A track and how near it is."""

    path: str
    cosine: float
    """In a mixture of spaces the weighted mean of theirs."""


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
    weights: Mapping[str, float]
    """What was compared: space → weight."""


def search(
    source: Path | str | Encoder | Pool,
    catalogue: Path | str,
    queries: Sequence[Path | str] | Path | str = (),
    *,
    texts: Sequence[str] = (),
    text_share: float = 0.5,
    k: int = 10,
    by: str | Weights = ALL,
    index: Path | None = None,
    leave_out: LeaveOut = "query",
    one_a_track: bool = False,
    workers: int = 0,
    device: str | None = None,
    trust_code: bool = False,
    progress: Progress = SILENT,
) -> SearchResult:
    """The k nearest tracks of a catalogue for every query, by cosine, from an index that is built once and kept.

    Args:
        source: a snapshot, a run's folder or ``module:factory``; or an encoder, or a pool that holds it as `ENCODER`.
        catalogue: folder of audio, folder of shards, Parquet file of embeddings, or saved index.
        queries: audio files, or one; none where texts are the queries.
        texts: each a query; beside audio files, all of them together are mixed into every file's query.
        text_share: of the texts in such a mixture, in [0, 1]: the cosine is Σ share·cos.
        k: tracks wanted for each, ≥ 1.
        by: the space that is compared, by name or by what it tells (tempo, key, sound), a mixture such as
            ``pitch:2,stretch``, or all: the mean over the embedding's spaces.
        index: folder of the saved index; by default one for each catalogue and encoder below outputs/indexes.
        leave_out: the query itself (at its path, or with its bytes) is no answer, or its whole track is none, see
            `own_rows`; or nothing is left out.
        one_a_track: of every track its nearest clip alone, so that k answers are of k tracks.
        workers: Ray workers that decode and embed; 0 is this process alone.
        device: of this process's encoder.
        trust_code: import the user's own code that a snapshot names.
        progress: counts what is embedded.

    Raises:
        UserError: for a catalogue or a query that cannot be read, a space that is not there, texts without a text
            tower, or an index of another encoder.
    """
    files = [Path(query) for query in ([queries] if isinstance(queries, Path | str) else queries)]
    check_queries(files, texts, text_share, by, k)
    asked = {JOINT: 1.0} if texts else parse_by(by) if isinstance(by, str) else by
    with open_encoder(
        source, workers=workers, device=device, trust_code=trust_code, heads=True, texts=bool(texts)
    ) as pool:
        encoder: Encoder = pool[ENCODER]
        spaces = spaces_of(encoder)
        if texts and not isinstance(encoder, TextTower):
            raise UserError(f"--text: {no_text_tower(source if isinstance(source, Path | str) else 'the encoder')}")
        resolve(asked, list(spaces), "the encoder")  # before anything is embedded
        found, folder = follow_catalogue(pool, Path(catalogue), index, progress=progress)
        _check_index(found, catalogue, texts, spaces)
        weights = resolve(asked, list(found.spaces), f"{found.folder}, an index,")
        query_QW = _embed_queries(pool, found, files, texts, text_share, weights)
    left_out = own_rows(found, files, leave_out) if files else [set()] * len(texts)
    answers = tuple(_answers(found, _names(files, texts), query_QW, k, left_out, one_a_track=one_a_track))
    return SearchResult(answers, found, folder, weights)


def _embed_queries(
    pool: Pool,
    index: TrackIndex,
    files: Sequence[Path],
    texts: Sequence[str],
    text_share: float,
    weights: Mapping[str, float],
) -> NDArray[np.float32]:
    """Vectors of the queries in the spaces of an index: of each file, mixed with all texts, or of each text.
    The UserError names a file that cannot be read.
    """
    embedded = list(embed_stream(pool, files))
    for one in embedded:
        if one.reason:
            raise UserError(f"{one.path}: {one.reason}")
    spaces = spaces_of(pool[ENCODER])
    held = {name: spaces[name] for name in index.spaces}
    # Texts are queries in the joint space; the other spaces of an index add nothing.
    text_kd = _embed_texts(pool[ENCODER], texts)
    blank = {name: np.zeros((len(text_kd), place.stop - place.start), np.float32) for name, place in held.items()}
    query_QW = np.concatenate([text_kd if name == JOINT else rows for name, rows in blank.items()], 1)
    if not files:
        return query_QW
    sound_QW = query_rows(np.stack([one.mean_E for one in embedded]), held, weights)
    mixed_QW = (1 - text_share) * sound_QW + text_share * query_QW.mean(0) if texts else sound_QW
    return mixed_QW.astype(np.float32)


def _check_index(found: TrackIndex, catalogue: Path | str, texts: Sequence[str], spaces: Mapping[str, slice]) -> None:
    if JOINT in found.spaces and JOINT not in spaces:
        raise UserError(
            f"{found.folder}: the index was built with the text tower, whose package is not installed here; {EXTRA}, "
            "or give another --index"
        )
    if not len(found):
        why = f"; the first: {found.rejected[0][0].path}: {found.rejected[0][1]}" if found.rejected else ""
        raise UserError(f"{catalogue}: no track in it can be embedded{why}")
    if texts and JOINT not in found.spaces:
        raise UserError(
            f"{found.folder}: the index was built without a text tower; delete it and search again, or give another "
            "--index"
        )


def _names(files: Sequence[Path], texts: Sequence[str]) -> list[str]:
    """What each query is called."""
    if not files:
        return list(texts)
    return [" + ".join((as_text(str(file)), *texts)) for file in files]


def _embed_texts(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    if not texts or not isinstance(encoder, TextTower):
        return np.empty((0, 0), np.float32)
    return np.asarray(encoder.embed_text(texts).float().cpu().numpy())


def _answers(
    index: TrackIndex,
    queries: Sequence[str],
    query_QW: NDArray[np.float32],
    k: int,
    left_out: Sequence[set[int]],
    *,
    one_a_track: bool,
) -> Iterator[Answer]:
    """The k nearest rows of each query that are not left out; of every track the first alone where that is asked."""
    name, wanted = namer(index), (SEVERAL * k if one_a_track else k) + max(map(len, left_out))
    while True:
        cosine_Qk, row_Qk = index.search(query_QW, wanted)
        near = [
            {row: cosine for row, cosine in zip(rows, cosines, strict=True) if row not in own}
            for rows, cosines, own in zip(row_Qk.tolist(), cosine_Qk.tolist(), left_out, strict=True)
        ]
        if not one_a_track:
            near = [dict(islice(rows.items(), k)) for rows in near]
        tracks = index.track_of(row for rows in near for row in rows)
        if not one_a_track:
            break
        near = [_first_of_each(rows, {row: name(tracks[row]) for row in rows}) for rows in near]
        if wanted >= len(index) or all(len(rows) >= k for rows in near):
            break
        wanted *= SEVERAL
    for query, rows in zip(queries, near, strict=True):
        hits = (Hit(str(index.file(tracks[row])), round(cosine, 6)) for row, cosine in islice(rows.items(), k))
        yield Answer(query, tuple(hits))


def _first_of_each(rows: Mapping[int, float], track_of: Mapping[int, tuple[str, str]]) -> dict[int, float]:
    """The rows whose track no earlier row is of.

    >>> _first_of_each({4: 0.9, 7: 0.8, 2: 0.5}, {4: ("", "a"), 7: ("", "a"), 2: ("", "b")})
    {4: 0.9, 2: 0.5}
    """
    first: dict[tuple[str, str], int] = {}
    for row in rows:
        first.setdefault(track_of[row], row)
    return {row: rows[row] for row in first.values()}
