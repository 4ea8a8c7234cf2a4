"""The index of a catalogue, built once and brought up to date.

A catalogue is a folder of audio, a set of shards, the Parquet of `counterpoint embed`, or a saved index. The index of
the first three is built once; a folder's is brought up to date at every search: new and changed files are embedded,
those that are gone leave. It grows a part at a time, so a search that was killed goes on where it was.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.files.locks import LOCK_NAME
from cluster.files.outputs import require_replaceable_folder
from cluster.files.storage import sha256
from cluster.progress import SILENT, Bar, Progress
from cluster.settings import UserError
from data_shards.audio.decode import AudioError, rejecting
from data_shards.audio.scan import AudioFolder, scan_folder
from data_shards.format.columns import numbers_of
from data_shards.format.text import as_text
from evaluation.embeddings.files import embed_stream, spaces_in
from evaluation.encoders.encoder import ENCODER, Encoder, spaces_of
from evaluation.encoders.pool import Pool
from evaluation.search.asked import check_catalogue
from evaluation.search.mixture import unit_slices
from evaluation.search.shard_catalogue import index_shards, is_shard_set, shards_stamp
from evaluation.search.track_index import ROWS_A_PART, Track, TrackIndex, is_index, read_index, rewriting
from trainers.inference.spaces import WHOLE

INDEXES = Path("outputs/indexes")


def follow_catalogue(
    pool: Pool, catalogue: Path, place: Path | None, *, progress: Progress = SILENT
) -> tuple[TrackIndex, AudioFolder | None]:
    """The index of a catalogue as it is now, and what the scan of a folder found."""
    encoder: Encoder = pool[ENCODER]
    if catalogue.is_dir() and is_index(catalogue):
        if place is not None:
            raise UserError(f"{catalogue} is an index itself; leave --index out")
        return _of_encoder(read_index(catalogue), encoder), None
    widths = _widths(encoder)
    check_catalogue(catalogue)
    place = place or default_place(catalogue, encoder.hash)
    earlier = _of_encoder(read_index(place), encoder) if is_index(place) else None
    if earlier is None:
        _require_place(place)
    elif catalogue.is_dir():
        earlier = _with_spaces(earlier, widths)
    fresh = TrackIndex(place, encoder.hash, sum(widths.values()), "", spaces=widths)
    of_shards = is_shard_set(catalogue)
    if catalogue.is_dir() and not of_shards:
        root = str(catalogue.resolve())
        if earlier and earlier.root != root:
            raise UserError(f"{place}: the index of {earlier.root}; give {catalogue} another --index")
        folder = scan_folder(catalogue, leave_out=place)
        return _follow_folder(earlier or replace(fresh, root=root), pool, folder, progress), folder
    status = catalogue.stat()
    stamp = shards_stamp(catalogue) if of_shards else f"{status.st_size} {status.st_mtime_ns}"
    if earlier and earlier.source == stamp:
        return earlier, None
    _require_place(place)
    index = replace(fresh, source=stamp)
    if of_shards:
        return index_shards(index, pool, catalogue, progress=progress), None
    return _read_embeddings(index, catalogue, widths), None


def default_place(catalogue: Path, encoder: str) -> Path:
    """Where the index of a catalogue for one encoder is kept."""
    name = hashlib.sha256(f"{catalogue.resolve()} {encoder}".encode()).hexdigest()[:12]
    return INDEXES / f"{catalogue.resolve().stem}-{name}"


def _require_place(place: Path) -> None:
    """Refuse a place where the index could not be written, or where it would take the place of something else."""
    require_replaceable_folder(place, "--index")
    if place.is_dir() and not is_index(place) and any(path.name != LOCK_NAME for path in place.iterdir()):
        raise UserError(f"--index {place}: holds something that is no index; give a folder of its own")


def _of_encoder(index: TrackIndex, encoder: Encoder) -> TrackIndex:
    """Refuse an index that queries of this encoder cannot search."""
    if index.encoder != encoder.hash:
        raise UserError(
            f"{index.folder}: the index of encoder {index.encoder[:12]}, this one is {encoder.hash[:12]}, and their "
            "embeddings cannot be compared; search with the snapshot that built it, or give another --index"
        )
    if not index.spaces.items() <= _widths(encoder).items():
        raise _other_spaces(index, _widths(encoder))
    return index


def _widths(encoder: Encoder) -> dict[str, int]:
    return {name: place.stop - place.start for name, place in spaces_of(encoder).items()}


def _with_spaces(index: TrackIndex, widths: Mapping[str, int]) -> TrackIndex:
    """An index that is continued must have all spaces of its encoder."""
    if list(index.spaces.items()) != list(widths.items()):
        raise _other_spaces(index, widths)
    return index


def _other_spaces(index: TrackIndex, widths: Mapping[str, int]) -> UserError:
    return UserError(
        f"{index.folder}: vectors of {_words(index.spaces)}, the encoder gives {_words(widths)}; delete {index.folder} "
        "and search again, the index is rebuilt"
    )


def _words(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({width})" for name, width in widths.items())


def _follow_folder(index: TrackIndex, pool: Pool, folder: AudioFolder, progress: Progress) -> TrackIndex:
    if not folder.files:
        raise UserError(folder.no_files_message())
    files, now = _listing(folder)
    done = {track.path for track, _ in index.rejected if _unchanged(track, now)}
    stale = len(done) < len(index.rejected)
    for part in index.parts:
        here = [track.path for track in index.tracks(part) if _unchanged(track, now)]
        done.update(here)
        stale |= len(here) < part.rows
    if stale or len(done) < len(now):
        _require_place(index.folder)
    if stale:
        index = _drop(index, now)
    fresh = iter([track for path, track in now.items() if path not in done])
    with progress.stage("indexing", len(now)) as bar:
        bar(len(done), "")
        while slice_ := list(islice(fresh, ROWS_A_PART)):
            index = _append(index, pool, [(track, files[track.path]) for track in slice_], bar, len(done))
            done.update(track.path for track in slice_)
    return index


def _listing(folder: AudioFolder) -> tuple[dict[str, Path], dict[str, Track]]:
    """Where the files are that are there now, and what they are, by their path below the folder as text."""
    files, tracks = {}, {}
    for file in folder.files:
        path = as_text(str(file.relative_to(folder.root)))
        try:
            status = file.stat()
        except OSError:  # deleted since the scan
            continue
        files[path], tracks[path] = file, Track(path, status.st_size, status.st_mtime_ns)
    return files, tracks


def _unchanged(track: Track, now: dict[str, Track]) -> bool:
    found = now.get(track.path)
    return found is not None and (found.size, found.mtime_ns) == (track.size, track.mtime_ns)


def _drop(index: TrackIndex, now: dict[str, Track]) -> TrackIndex:
    """Without the tracks that are gone or have changed; whole parts are kept as they are."""
    with rewriting(index) as writer:
        writer.rejected = [(track, why) for track, why in index.rejected if _unchanged(track, now)]
        for part in index.parts:
            tracks = index.tracks(part)
            rows = [row for row, track in enumerate(tracks) if _unchanged(track, now)]
            if len(rows) == part.rows:
                writer.keep(part)
            elif rows:
                writer.add([tracks[row] for row in rows], index.searchable(part).reconstruct_n(0, part.rows)[rows])
    return read_index(index.folder)


def _append(index: TrackIndex, pool: Pool, tracks: Sequence[tuple[Track, Path]], bar: Bar, before: int) -> TrackIndex:
    kept: list[Track] = []
    h: list[NDArray[np.float32]] = []
    rejected: list[tuple[Track, str]] = []
    stream = embed_stream(pool, (path for _, path in tracks))
    for number, ((track, path), file) in enumerate(zip(tracks, stream, strict=True), 1):
        try:
            with rejecting(str(path)):
                if file.reason is not None:
                    raise AudioError(file.reason)
                kept.append(replace(track, sha256=sha256(path)))
                h.append(file.mean_E)
        except AudioError as error:
            rejected.append((track, str(error)))
        bar(before + number, f"{len(index.rejected) + len(rejected)} rejected" if rejected or index.rejected else "")
    with rewriting(index) as writer:
        for part in index.parts:
            writer.keep(part)
        writer.rejected += rejected
        if kept:
            writer.add(kept, unit_slices(np.stack(h), spaces_of(pool[ENCODER])))
    return read_index(index.folder)


def _read_embeddings(index: TrackIndex, parquet: Path, widths: Mapping[str, int]) -> TrackIndex:
    """Index what `counterpoint embed` wrote, a row group at a time."""
    try:
        file = pq.ParquetFile(parquet, page_checksum_verification=True)
        about: dict[bytes, Any] = file.schema_arrow.metadata or {}
        names = file.schema_arrow.names
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{parquet}: not a Parquet file of embeddings ({error})") from None
    if names != ["path", "embedding"] or b"encoder" not in about:
        hint = "; embed without --timeline" if "start_s" in names else "; `counterpoint embed` writes them"
        raise UserError(f"{parquet}: columns {', '.join(names)}, a catalogue has path and embedding{hint}")
    found = about[b"encoder"].decode()
    if found != index.encoder:
        raise UserError(
            f"{parquet}: embeddings of encoder {found[:12]}, this one is {index.encoder[:12]}; embed the files again "
            "with this snapshot, or search with the other"
        )
    spaces = spaces_in(about, widths.get(WHOLE, 0))
    held = {name: place.stop - place.start for name, place in spaces.items()}
    if not held.items() <= widths.items():
        raise UserError(
            f"{parquet}: embeddings of {_words(held)}, the encoder gives {_words(widths)}; embed the files again"
        )
    index = replace(index, width=sum(held.values()), spaces=held)
    with rewriting(index) as writer:
        for batch in file.iter_batches(batch_size=ROWS_A_PART):
            h_DE = numbers_of(batch["embedding"].flatten()).reshape(len(batch), -1)
            if h_DE.shape[1] != index.width or not np.isfinite(h_DE).all():
                raise UserError(f"{parquet}: embeddings that are not finite, or not {index.width} wide; embed again")
            writer.add([Track(path) for path in batch["path"].to_pylist()], unit_slices(h_DE, spaces))
    return read_index(index.folder)
