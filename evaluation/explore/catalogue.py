"""What a catalogue is before it is embedded: how many tracks, and what is known of them.

Shape suffixes: D tracks, W width of the index.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.audio.scan import AudioFolder, scan_folder
from data_shards.format.index import read_index as read_shard_index
from data_shards.format.text import as_text
from evaluation.encoders.sources import is_factory
from evaluation.explore import labels
from evaluation.explore.labels import Known
from evaluation.search.asked import Weights, check_catalogue
from evaluation.search.shard_catalogue import is_shard_set
from evaluation.search.track_index import Track, TrackIndex, is_index, read_index
from trainers.state.places import check_order


@dataclass(frozen=True)
class Place:
    """A catalogue as it is found."""

    path: Path
    tracks: int
    """Files that will be tried, or rows that are there."""
    root: Path | None = None
    """Folder of the files; None where there is none, or where each has its own path."""
    shards: Path | None = None
    """The set of shards that it is."""
    of_keys: bool = False
    """Whether it is an index of a set of shards, without the set."""

    @property
    def name(self) -> str:
        """Name for a title."""
        return self.path.resolve().name


def find_place(source: Any, catalogue: Path) -> Place:
    """Look at a catalogue without reading its audio.
    Raises UserError if it does not exist, holds no audio, or is the model.
    """
    if isinstance(source, Path | str) and not is_factory(source):
        check_order(Path(source), catalogue, "map")
    check_catalogue(catalogue)
    if catalogue.is_file():
        return Place(catalogue, _parquet_rows(catalogue))
    if is_index(catalogue):
        index = read_index(catalogue)
        return Place(catalogue, len(index), Path(index.root) if index.root else None, of_keys=index.of_shards)
    if is_shard_set(catalogue):
        return Place(catalogue, len(read_shard_index(catalogue)), shards=catalogue)
    folder = scan_folder(catalogue)
    if not folder.files:
        raise UserError(folder.no_files_message())
    return Place(catalogue, len(folder.files), catalogue.resolve())


def known_of(place: Place, table: Path | None) -> Known:
    """What is known of a catalogue's tracks before they are embedded: by a table, else by one that lies in the folder
    of audio. Raises UserError if the table is wrong, or belongs to no files.
    """
    if place.shards or place.of_keys:
        if table is not None:
            raise UserError(
                f"--labels {table}: {place.path} is of shards, which have labels of their own; leave it out"
            )
        return labels.of_shards(place.shards) if place.shards else Known()
    if table is not None:
        return labels.of_table(table, place.root or table.resolve().parent)
    beside = [place.root / name for name in labels.TABLES] if place.root else []
    there = next((path for path in beside if path.is_file()), None)
    if there is None or place.root is None:
        return Known()
    try:
        return labels.of_table(there, place.root)
    except UserError as error:  # nobody asked for it by name
        raise UserError(f"{error}; correct or rename it, or name another table with --labels FILE") from None


def drawn(index: TrackIndex, weights: Weights, most: int, seed: int) -> tuple[list[Track], NDArray[np.float32]]:
    """At most so many tracks of an index, in its order, and their vectors (D, W); one part is read at a time.

    The product of two vectors is the cosine that `search` compares: the weighted mean over spaces.
    """
    total = sum(weights.values())
    scale_W = np.concatenate(
        [np.full(width, np.sqrt(weights.get(name, 0) / total), np.float32) for name, width in index.spaces.items()]
    )
    rows = np.arange(len(index))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])
    tracks: list[Track] = []
    parts, first = [np.empty((0, index.width), np.float32)], 0
    for part in index.parts:
        here = rows[(rows >= first) & (rows < first + part.rows)] - first
        if len(here):
            of_part = index.tracks(part)
            tracks += [of_part[row] for row in here]
            parts.append(index.searchable(part).reconstruct_n(0, part.rows)[here] * scale_W)
        first += part.rows
    return tracks, np.concatenate(parts)


def files_of(index: TrackIndex, tracks: list[Track], folder: AudioFolder | None) -> list[Path]:
    """Where the files of tracks are; as the scan found them, whose names need not be UTF-8."""
    scanned = {as_text(str(file.relative_to(folder.root))): file for file in folder.files} if folder else {}
    return [scanned.get(track.path, index.file(track)) for track in tracks]


def _parquet_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a Parquet file of embeddings ({error})") from None
