"""The index of a set of shards: its clips as columns, over a mapped Arrow file or in memory.

Shape suffixes: K clips, C tags of a vocabulary. No column holds a Python object a clip: texts become objects when
they are asked for.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.files.mapped import DamagedError
from data_shards.format.columns import UNKNOWN, TextColumn, TextLists, to_matrix
from data_shards.format.index_file import (
    TAG_SEPARATOR,
    MappedColumns,
    check_counts,
    failed,
    parquet_columns,
    parse_manifest,
    table_name,
)
from data_shards.format.paths import INDEX_NAME, MANIFEST_NAME, PARQUET_NAME, no_set
from data_shards.format.problems import Problem, ShardError
from data_shards.format.records import SPLITS
from data_shards.format.shard_file import ShardFile

T = TypeVar("T")


def id_hash(key: str) -> int:
    """A clip's number: 63 bits of BLAKE2b of its key, the same on every machine and in every set.

    >>> id_hash("a-clip") == id_hash("a-clip") != id_hash("another")
    True
    """
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


class Column(Generic[T]):
    """A column of a `ShardIndex` by the name of the attribute: read when it is first asked for, then kept."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, index: "ShardIndex | None", owner: type) -> T:
        if index is None:
            raise AttributeError(f"{self._name} is a column of each index")
        found: T = index.columns[self._name]
        index.__dict__[self._name] = found  # which Python looks at first
        return found


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Every clip of a set, as columns of length K."""

    manifest: Mapping[str, Any]
    shards: tuple[ShardFile, ...]
    columns: Mapping[str, Any]
    """By name; those of a mapped file are checked when they are first asked for. The attributes below are typed."""

    def __len__(self) -> int:
        return len(self.key)

    key = Column[TextColumn]()
    """Name of each clip, unique."""
    shard = Column[NDArray[np.int32]]()
    """Index into `shards`, ascending."""
    offset = Column[NDArray[np.int64]]()
    """Byte in the shard where the clip's audio member begins."""
    size = Column[NDArray[np.int64]]()
    """Bytes of the audio member."""
    frames = Column[NDArray[np.int64]]()
    """Samples."""
    rate = Column[NDArray[np.int32]]()
    """Hz."""
    codec = Column[TextColumn]()
    """pcm16 or flac."""
    pcm_offset = Column[NDArray[np.int32]]()
    """Bytes from `offset` to the first PCM16 sample."""
    id_hash = Column[NDArray[np.int64]]()
    """See the function `id_hash`."""
    id_order = Column[NDArray[np.int32] | NDArray[np.int64]]()
    """All rows, in ascending order of `id_hash`."""
    track = Column[TextColumn]()
    """Clips of one track are never split apart."""
    artist = Column[TextColumn]()
    """None where unknown."""
    split = Column[TextColumn]()
    """train, valid or test."""
    licence = Column[TextColumn]()
    """None where unknown."""
    label_offset = Column[NDArray[np.int64]]()
    """Byte in the shard where the clip's JSON begins."""
    label_size = Column[NDArray[np.int32]]()
    """Bytes of the JSON."""
    label_crc = Column[NDArray[np.uint32]]()
    """CRC32 of the JSON."""
    crc = Column[NDArray[np.uint32]]()
    """Checksums of all blocks of all clips; those of clip k are ``crc[crc_end[k]:crc_end[k + 1]]``."""
    crc_end = Column[NDArray[np.int64]]()
    """(K+1,); see `crc`."""
    captions = Column[TextLists]()
    """The texts that describe each clip; none in a set without captions, or older than captions."""
    caption_tags = Column[TextLists]()
    """For each caption of a clip the tags that it shows, joined by `TAG_SEPARATOR`; use `tags_of_captions`. Empty
    tuples in a set where they are known for no caption.
    """

    @property
    def targets(self) -> Mapping[str, Any]:
        """Columns of labels as they are stored, by KIND.COLUMN; use `labels` and `target`."""
        return self.columns

    @property
    def manifest_hash(self) -> str:
        """SHA-256 over the manifest: checksums of the shards, vocabularies, counts."""
        return str(self.manifest["hash"])

    @cached_property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """Tags of each multi-label column, in the order of its label vectors."""
        return {column: tuple(tags) for column, tags in self.manifest["vocabularies"].items()}

    @cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Classes of each categorical column, in the order of its codes."""
        return {column: tuple(names) for column, names in self.manifest["classes"].items()}

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of the numeric columns."""
        return tuple(self.manifest["numeric"])

    def label_names(self, column: str) -> tuple[str, ...]:
        """The C tags of a multi-label column, or classes of a categorical one, in the order of `labels`.
        Raises KeyError if the set has no such column.
        """
        known = self.vocabularies | self.classes
        return known[self._known(column, known)]

    def labels(self, column: str, rows: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Labels of a multi-label column: (K, C) bool; an all-False row is unlabelled. A class is its clip's one label.

        Args:
            column: its name.
            rows: (n,) of which labels (n, C) are wanted; None: all. A whole matrix of millions of clips is large.

        Raises:
            KeyError: if the set has no such column.
        """
        if column in self.classes:
            codes = self.target(column) if rows is None else self.target(column)[rows]
            one_hot: NDArray[np.bool_] = codes[:, None] == np.arange(len(self.classes[column]))
            return one_hot
        flat, ends = self.targets[f"multilabel.{self._known(column, self.vocabularies)}"]
        if rows is not None:
            counts = ends[rows + 1] - ends[rows]
            begins = np.concatenate([[0], np.cumsum(counts)])
            places = np.repeat(ends[rows] - begins[:-1], counts) + np.arange(begins[-1])
            flat, ends = flat[places], begins
        return to_matrix(flat, ends, len(self.vocabularies[column]))

    def is_labelled(self, column: str) -> NDArray[np.bool_]:
        """Which clips (K,) have a tag of a multi-label column, or a class of a categorical one.
        Raises KeyError if the set has no such column.
        """
        if column in self.classes:
            known: NDArray[np.bool_] = self.target(column) != UNKNOWN
            return known
        _, ends = self.targets[f"multilabel.{self._known(column, self.vocabularies)}"]
        return np.asarray(ends[1:] > ends[:-1])

    def target(self, column: str) -> NDArray[np.float64] | NDArray[np.int64]:
        """A numeric column as (K,) float64, NaN where unknown; a categorical one as (K,) int64 codes, -1 where unknown.
        Raises KeyError if the set has no such column.
        """
        kind = "categorical" if column in self.classes else "numeric"
        values: NDArray[Any] = self.targets[f"{kind}.{self._known(column, (*self.classes, *self.numeric))}"]
        return values

    def labels_of(self, row: int) -> dict[str, tuple[str, ...] | str | float]:
        """The known labels of one clip as text and numbers, by KIND.COLUMN."""
        labels: dict[str, tuple[str, ...] | str | float] = {}
        for column, names in self.vocabularies.items():
            flat, ends = self.targets[f"multilabel.{column}"]
            if ends[row] < ends[row + 1]:
                labels[f"multilabel.{column}"] = tuple(sorted(names[code] for code in flat[ends[row] : ends[row + 1]]))
        for column, names in self.classes.items():
            if (code := int(self.target(column)[row])) >= 0:
                labels[f"categorical.{column}"] = names[code]
        for column in self.numeric:
            if np.isfinite(value := float(self.target(column)[row])):
                labels[f"numeric.{column}"] = value
        return labels

    def tags_of_captions(self, row: int) -> list[tuple[str, ...]]:
        """For each caption of a clip the tags that it shows, none where that is not known."""
        known = self.caption_tags[row]
        return [tuple(tags.split(TAG_SEPARATOR)) if tags else () for tags in known] or [()] * len(self.captions[row])

    def rows(self, split: str) -> NDArray[np.int64]:
        """Rows of one split, in order."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}; known are {', '.join(SPLITS)}")
        return np.flatnonzero(self.split == split).astype(np.int64)

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows (n,) of clips by their `id_hash`, any order; −1 for an id that the set has not."""
        order, wanted = np.argsort(ids, kind="stable"), np.sort(ids)
        found = np.full(len(ids), -1, np.int64)
        known = self.id_hash[self.id_order]
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        found[order] = np.where(known[at] == wanted, self.id_order[at], -1)
        return found

    def _known(self, column: str, known: Any) -> str:
        if column not in known:
            raise KeyError(f"no column {column!r} in this set; it has {', '.join(known) or 'none of this kind'}")
        return column


def read_index(folder: Path, *, every_block: bool = False) -> ShardIndex:
    """The index of a set on local disk; with ``every_block`` all of the table is checked now, not the rest when it is
    read. Raises ShardError if a checksum, a count or a bound does not hold, or the folder has none.
    """
    try:
        manifest = parse_manifest((folder / MANIFEST_NAME).read_bytes())
        return open_table(manifest, folder / table_name(manifest), every_block=every_block)
    except FileNotFoundError:
        again = f"no {INDEX_NAME} there; delete {MANIFEST_NAME} and run counterpoint shards index {folder}"
        raise ShardError(Problem(str(folder), None, None, no_set(folder) or again)) from None
    except OSError as error:
        problem = no_set(folder) or f"not a set of shards: {error.strerror}: {error.filename}"
        raise ShardError(Problem(str(folder), None, None, problem)) from None


def open_table(manifest: Mapping[str, Any], path: Path, *, every_block: bool = False) -> ShardIndex:
    """The index of a manifest and its table.
    Raises OSError if the table cannot be opened, ShardError if they do not belong together or are damaged.
    """
    name = table_name(manifest)
    try:
        shards = tuple(ShardFile.from_json(shard) for shard in manifest["shards"])
        columns = (
            parquet_columns(manifest, path) if name == PARQUET_NAME else MappedColumns(manifest, path, every_block)
        )
        index = ShardIndex(manifest=manifest, shards=shards, columns=columns)
        check_counts(index)
    except DamagedError as error:
        raise failed(INDEX_NAME, str(error)) from None
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ShardError):
            raise
        raise failed(name, f"cannot be read: {error}") from None
    return index
