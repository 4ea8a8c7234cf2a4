"""A saved index of a catalogue: faiss parts beside the paths of their rows, of one encoder, whole or absent.

A folder of ``part-N.faiss`` (flat inner product on vectors made of unit slices, one a space), ``part-N.parquet`` (path,
size, time, SHA-256 of each row's file) and ``index.json`` (the encoder's hash, its spaces and their widths, the parts
and their checksums). An index answers query vectors of its width. A part is small and read by itself,
so neither building nor searching needs the catalogue in memory. faiss's files hold no code; their checksum and size
are checked before faiss reads them.

Shape suffixes: Q queries, D rows of a part, W width of the index, k neighbours.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.files.locks import sole_writer
from cluster.files.storage import atomic_folder, sha256, write_atomic
from cluster.settings import UserError
from evaluation.metrics.neighbours import Part as Searchable
from evaluation.metrics.neighbours import flat, search_parts
from trainers.inference.spaces import WHOLE

SCHEMA_VERSION = 3
ABOUT = "index.json"
MAX_ABOUT_BYTES = 64 << 20
FAISS_HEADER_BYTES = 256
"""At most; the rows follow as float32."""
ROWS_A_PART = 8192
_NAME = re.compile(r"part-\d{5}")
_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("sha256", pa.string()),
        ("track", pa.string()),
    ]
)


@dataclass(frozen=True)
class Track:
    """One row's file as it was when it was embedded; size −1 and no SHA-256 where only its embedding is known."""

    path: str
    """Of a clip of a set of shards, its key."""
    size: int = -1
    mtime_ns: int = -1
    sha256: str = ""
    track: str = ""
    """Of a clip of a set of shards; empty for a file."""


@dataclass(frozen=True)
class Part:
    """Some rows on disk."""

    name: str
    rows: int
    vectors: str
    """SHA-256 of its faiss file."""
    tracks: str
    """SHA-256 of its Parquet file."""


@dataclass(frozen=True)
class TrackIndex:
    """A saved index."""

    folder: Path
    encoder: str
    """Hash of the encoder."""
    width: int
    """W, that of its spaces together."""
    root: str
    """Folder that the tracks' paths are relative to; empty where they are kept as given."""
    source: str = ""
    """What a catalogue of embeddings, or a set of shards, was when it was read; empty for a folder of audio."""
    parts: tuple[Part, ...] = ()
    rejected: tuple[tuple[Track, str], ...] = ()
    """Files that could not be read, and why."""
    spaces: Mapping[str, int] = field(default_factory=dict)
    """Widths of the unit slices by space, in their order; the whole embedding alone where none are given."""

    def __post_init__(self) -> None:
        if not self.spaces:
            object.__setattr__(self, "spaces", {WHOLE: self.width})

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    def tracks(self, part: Part) -> list[Track]:
        """Files of a part, in the order of its rows. Raises UserError if the file is not the one that was written."""
        table = pq.ParquetFile(self._checked(f"{part.name}.parquet", part.tracks)).read(_SCHEMA.names)
        if len(table) != part.rows:
            raise self._damaged(f"{part.name}.parquet", f"{len(table)} rows instead of {part.rows}")
        return [Track(**row) for row in table.to_pylist()]

    def searchable(self, part: Part) -> Any:
        """A part's faiss index.
        Raises UserError if the file is not the one that was written, or no index of such vectors.
        """
        import faiss

        path = self._checked(f"{part.name}.faiss", part.vectors)
        size, expected = path.stat().st_size, 4 * part.rows * self.width
        if not expected <= size <= expected + FAISS_HEADER_BYTES:
            raise self._damaged(path.name, f"{size} bytes for {part.rows} rows of {self.width}")
        index = faiss.read_index(str(path))
        if not isinstance(index, faiss.IndexFlatIP) or (index.ntotal, index.d) != (part.rows, self.width):
            raise self._damaged(path.name, "not a flat index of its rows")
        return index

    def search(self, query_QW: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Inner products with query vectors, as `evaluation.search.mixture.query_rows` makes them (cosines, then), and
        rows of the nearest k tracks, best first, part after part.
        """
        if query_QW.shape[1] != self.width:
            raise ValueError(f"query vectors of {query_QW.shape[1]}, the index has {self.width}")
        parts: Iterator[Searchable] = (self.searchable(part) for part in self.parts)
        return search_parts(query_QW, parts, k)

    def track_of(self, rows: Iterable[int]) -> dict[int, Track]:
        """The files of some rows; only the parts that hold them are read."""
        wanted, found, first = sorted(set(rows)), dict[int, Track](), 0
        for part in self.parts:
            here = [row for row in wanted if first <= row < first + part.rows]
            if here:
                tracks = self.tracks(part)
                found |= {row: tracks[row - first] for row in here}
            first += part.rows
        return found

    @property
    def of_shards(self) -> bool:
        """Whether the rows are clips of a set of shards, not files."""
        return self.source.startswith("shards ")

    def file(self, track: Track) -> Path:
        """Where a track's file is."""
        return Path(self.root, track.path)

    def _checked(self, name: str, expected: str) -> Path:
        path = self.folder / name
        if not path.is_file() or sha256(path) != expected:
            raise self._damaged(name, "missing, or its checksum disagrees")
        return path

    def _damaged(self, name: str, why: str) -> UserError:
        return UserError(f"{self.folder / name}: {why}; delete {self.folder} and search again, the index is rebuilt")


def is_index(folder: Path) -> bool:
    """Whether a folder is a saved index."""
    return os.path.isfile(folder / ABOUT)  # noqa: PTH113 - `Path.is_file` raises where a name is too long


def read_index(folder: Path) -> TrackIndex:
    """Open a saved index; its parts are read and checked when they are searched.
    Raises UserError if it is damaged, or of another release.
    """
    path = folder / ABOUT
    try:
        if path.stat().st_size > MAX_ABOUT_BYTES:
            raise ValueError(f"more than {MAX_ABOUT_BYTES} bytes")
        about = json.loads(path.read_text(encoding="utf-8"))
        schema = about.pop("schema_version")
        if schema != SCHEMA_VERSION:
            raise ValueError(f"of schema version {schema!r}; this release's {SCHEMA_VERSION} names its spaces")
        spaces = about["spaces"]
        parts = tuple(Part(**part) for part in about.pop("parts"))
        rejected = tuple((Track(**track), str(why)) for track, why in about.pop("rejected"))
        index = TrackIndex(folder=folder, parts=parts, rejected=rejected, **about)
        for part in parts:
            if not _NAME.fullmatch(part.name) or not isinstance(part.rows, int) or part.rows < 1:
                raise ValueError(f"{part.name!r} is no part")
        if not isinstance(index.width, int) or index.width < 1:
            raise ValueError(f"a width of {index.width!r}")
        widths = list(spaces.values())
        if not all(isinstance(wide, int) and wide > 0 for wide in widths) or sum(widths) != index.width:
            raise ValueError(f"spaces {spaces!r} that do not make up its width {index.width}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a saved index ({error}); delete {folder} and search again") from None
    return index


class Writer:
    """Parts of the index that is being written."""

    def __init__(self, folder: Path, index: TrackIndex) -> None:
        self._folder, self._index = folder, index
        self._parts: list[Part] = []
        self.rejected = list(index.rejected)

    def keep(self, part: Part) -> None:
        """Take a part of the earlier index over, without copying it where the disk has links."""
        name = self._name()
        for suffix in (".faiss", ".parquet"):
            source, target = self._index.folder / f"{part.name}{suffix}", self._folder / f"{name}{suffix}"
            try:
                os.link(source, target)
            except OSError:  # a file system without hard links
                shutil.copy2(source, target)
        self._parts.append(replace(part, name=name))

    def add(self, tracks: Sequence[Track], vectors_DW: NDArray[np.float32]) -> None:
        """Write a new part, of vectors as `evaluation.search.mixture.unit_slices` makes them."""
        import faiss

        if not tracks:
            return
        path = self._folder / self._name()
        vectors, names = path.with_suffix(".faiss"), path.with_suffix(".parquet")
        faiss.write_index(flat(vectors_DW), str(vectors))
        columns = pa.Table.from_pylist([asdict(track) for track in tracks], schema=_SCHEMA)
        pq.write_table(columns, names, compression="zstd")
        self._parts.append(Part(path.name, len(tracks), sha256(vectors), sha256(names)))

    def finish(self) -> None:
        """Write what the index is, last."""
        about = asdict(replace(self._index, parts=tuple(self._parts), rejected=tuple(self.rejected)))
        del about["folder"]
        write_atomic(self._folder / ABOUT, json.dumps({"schema_version": SCHEMA_VERSION, **about}, indent=1))

    def _name(self) -> str:
        return f"part-{len(self._parts):05d}"


@contextmanager
def rewriting(index: TrackIndex) -> Iterator[Writer]:
    """Write an index anew beside its place; it takes the place of the earlier one when the block ends well.
    Raises UserError if another process writes it.
    """
    with sole_writer(index.folder, "give another --index"), atomic_folder(index.folder) as partial:
        writer = Writer(partial, index)
        yield writer
        writer.finish()
