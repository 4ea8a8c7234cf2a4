"""The index of a set of shards: a Parquet table of clips and a manifest, both checked when they are opened.

Shape suffixes: K clips, C tags of a vocabulary.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from data_shards.format.entries import CRC_BLOCK_BYTES
from data_shards.format.paths import INDEX_NAME, MANIFEST_NAME, no_set
from data_shards.format.problems import Problem, ShardError
from data_shards.format.records import SPLITS
from data_shards.format.shard_file import ShardFile
from data_shards.format.vocabulary import to_matrix

SCHEMA_VERSION = 1
INTEGERS = {
    "shard": np.int32, "offset": np.int64, "size": np.int64, "frames": np.int64, "rate": np.int32, "id_hash": np.int64,
    "pcm_offset": np.int32, "label_offset": np.int64, "label_size": np.int32, "label_crc": np.uint32,
}  # fmt: skip
TEXTS = ("key", "codec", "track", "artist", "split", "licence")
"""Columns of the table; the label columns are named KIND.COLUMN."""
TAG_SEPARATOR = "\x1f"
"""Between the tags that a caption shows, in the column ``caption_tags``: the unit separator of ASCII."""


def id_hash(key: str) -> int:
    """A clip's number: 63 bits of BLAKE2b of its key, the same on every machine and in every set.

    >>> id_hash("a-clip") == id_hash("a-clip") != id_hash("another")
    True
    """
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Every clip of a set, as columns of length K."""

    manifest: Mapping[str, Any]
    shards: tuple[ShardFile, ...]
    key: NDArray[np.object_]
    shard: NDArray[np.int32]
    """Index into `shards`."""
    offset: NDArray[np.int64]
    """Byte in the shard where the clip's audio member begins."""
    size: NDArray[np.int64]
    frames: NDArray[np.int64]
    rate: NDArray[np.int32]
    codec: NDArray[np.object_]
    pcm_offset: NDArray[np.int32]
    """Bytes from `offset` to the first PCM16 sample."""
    id_hash: NDArray[np.int64]
    track: NDArray[np.object_]
    artist: NDArray[np.object_]
    split: NDArray[np.object_]
    licence: NDArray[np.object_]
    label_offset: NDArray[np.int64]
    label_size: NDArray[np.int32]
    label_crc: NDArray[np.uint32]
    crc: NDArray[np.uint32]
    """Checksums of all blocks of all clips; those of clip k are ``crc[crc_end[k]:crc_end[k + 1]]``."""
    crc_end: NDArray[np.int64]
    captions: tuple[tuple[str, ...], ...]
    """The texts that describe each clip; none in a set without captions, or older than captions."""
    targets: Mapping[str, Any]
    """Columns of labels as they are stored; use `labels` and `target`."""
    caption_tags: Sequence[Sequence[str]] = ()
    """For each caption of a clip the tags that it shows, joined by `TAG_SEPARATOR`; use `tags_of_captions`. Empty in a
    set where they are known for no caption."""

    def __len__(self) -> int:
        return len(self.key)

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

        Raises:
            KeyError: if the set has no such column.
        """
        known = self.vocabularies | self.classes
        return known[self._known(column, known)]

    def labels(self, column: str) -> NDArray[np.bool_]:
        """Labels of a multi-label column: (K, C) bool; an all-False row is unlabelled. A class is its clip's one label.

        Raises:
            KeyError: if the set has no such column.
        """
        if column in self.classes:
            one_hot: NDArray[np.bool_] = self.target(column)[:, None] == np.arange(len(self.classes[column]))
            return one_hot
        flat, ends = self.targets[f"multilabel.{self._known(column, self.vocabularies)}"]
        return to_matrix(flat, ends, len(self.vocabularies[column]))

    def target(self, column: str) -> NDArray[np.float64] | NDArray[np.int64]:
        """A numeric column as (K,) float64, NaN where unknown; a categorical one as (K,) int64 codes, -1 where unknown.

        Raises:
            KeyError: if the set has no such column.
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
        known = self.caption_tags[row] if len(self.caption_tags) else ()
        return [tuple(tags.split(TAG_SEPARATOR)) if tags else () for tags in known] or [()] * len(self.captions[row])

    def rows(self, split: str) -> NDArray[np.int64]:
        """Rows of one split, in order."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}; known are {', '.join(SPLITS)}")
        return np.flatnonzero(self.split == split).astype(np.int64)

    def _known(self, column: str, known: Any) -> str:
        if column not in known:
            raise KeyError(f"no column {column!r} in this set; it has {', '.join(known) or 'none of this kind'}")
        return column


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without the index's own checksum, which depends on the version of the Parquet writer."""
    content = {name: value for name, value in manifest.items() if name not in ("hash", "index")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def parse_index(manifest_bytes: bytes, index_bytes: bytes) -> ShardIndex:
    """Check and read the two files of an index.

    Raises:
        ShardError: if a checksum, a count or a bound in them does not hold.
    """
    manifest = _parse_manifest(manifest_bytes)
    if hashlib.sha256(index_bytes).hexdigest() != manifest["index"]["sha256"]:
        raise _fail(INDEX_NAME, "its checksum is not the one in the manifest: damaged, or of another build")
    try:
        table = pa.parquet.read_table(io.BytesIO(index_bytes))
        columns: dict[str, Any] = {name: table[name].to_numpy().astype(kind) for name, kind in INTEGERS.items()}
        columns |= {name: table[name].to_numpy(zero_copy_only=False).astype(object) for name in TEXTS}
        columns["crc"], columns["crc_end"] = _ragged(table["crc"], np.uint32)
        texts = table["captions"].to_pylist() if manifest.get("captions") else [()] * table.num_rows
        columns["captions"] = tuple(map(tuple, texts))
        if "caption_tags" in table.column_names:
            columns["caption_tags"] = tuple(map(tuple, table["caption_tags"].to_pylist()))
        targets = {
            name: _ragged(table[name], np.int32) if name.startswith("multilabel.") else table[name].to_numpy()
            for name in _label_columns(manifest)
        }
        shards = tuple(ShardFile.from_json(shard) for shard in manifest["shards"])
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _fail(INDEX_NAME, f"cannot be read: {error}") from None
    index = ShardIndex(manifest=manifest, shards=shards, targets=targets, **columns)
    _check_counts(index)
    return index


def read_index(folder: Path) -> ShardIndex:
    """The index of a set on local disk.

    Raises:
        ShardError: as `parse_index`, or if the folder has none.
    """
    try:
        return parse_index((folder / MANIFEST_NAME).read_bytes(), (folder / INDEX_NAME).read_bytes())
    except OSError as error:
        problem = no_set(folder) or f"not a set of shards: {error.strerror}: {error.filename}"
        raise ShardError(Problem(str(folder), None, None, problem)) from None


def _fail(name: str, what: str) -> ShardError:
    return ShardError(Problem(name, None, None, f"{what}; build or index the set again"))


def _parse_manifest(manifest_bytes: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(manifest_bytes)
        if manifest["schema_version"] != SCHEMA_VERSION:
            found = manifest["schema_version"]
            raise _fail(MANIFEST_NAME, f"schema version {found!r}, this program reads {SCHEMA_VERSION}")
        if manifest["hash"] != manifest_hash(manifest):
            raise _fail(MANIFEST_NAME, "its contents do not fit its hash: edited or damaged")
        str(manifest["index"]["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, ShardError):
            raise
        raise _fail(MANIFEST_NAME, f"not a manifest of shards ({type(error).__name__}: {error})") from None
    assert isinstance(manifest, dict)
    return manifest


def _label_columns(manifest: Mapping[str, Any]) -> list[str]:
    kinds = {"multilabel": manifest["vocabularies"], "categorical": manifest["classes"], "numeric": manifest["numeric"]}
    return [f"{kind}.{column}" for kind, columns in kinds.items() for column in columns]


def _ragged(column: pa.ChunkedArray, kind: type) -> tuple[NDArray[Any], NDArray[np.int64]]:
    lists = column.combine_chunks()
    ends = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))]).astype(np.int64)
    return lists.flatten().to_numpy(zero_copy_only=False).astype(kind), ends


def _check_counts(index: ShardIndex) -> None:
    manifest = index.manifest
    if not len(index) == manifest["clips"] == manifest["index"]["rows"] > 0:
        counts = f"{len(index)} rows, {manifest['clips']} and {manifest['index']['rows']} in the manifest"
        raise _fail(INDEX_NAME, f"the counts of clips differ: {counts}")
    num_captions = sum(map(len, index.captions))
    if num_captions != manifest.get("captions", 0):
        raise _fail(INDEX_NAME, f"{num_captions} captions, {manifest['captions']} in the manifest")
    clips = np.bincount(index.shard, minlength=len(index.shards)) if index.shard.min() >= 0 else np.array([])
    if clips.tolist() != [shard.clips for shard in index.shards]:
        raise _fail(INDEX_NAME, "the counts of clips per shard are not those of the manifest")
    shard_size = np.array([shard.size for shard in index.shards])[index.shard]
    inside = (index.offset >= 0) & (index.size > 0) & (index.offset + index.size <= shard_size) & (index.frames > 0)
    pcm = index.codec == "pcm16"
    inside &= ~pcm | (index.pcm_offset + 2 * index.frames <= index.size)
    inside &= np.diff(index.crc_end) == -(-index.size // CRC_BLOCK_BYTES)
    if not inside.all():
        raise _fail(INDEX_NAME, f"clip {index.key[np.argmin(inside)]} does not lie inside its shard")
    if len(np.unique(index.id_hash)) != len(index) or (index.rate != manifest["rate"]).any():
        raise _fail(INDEX_NAME, "a duplicate clip, or a clip of another rate than the set")
