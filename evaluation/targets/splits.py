"""Frozen splits: which clip is in which split under which tags, as a file with a hash that a report names.

An evaluation leaves one file a task in ``splits/``; ``tasks.NAME.frozen`` holds a later one to it: the same clips, the
same splits, the same tags in the same order, whatever else the shards hold.

Shape suffix: K clips whose target is known.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.files.storage import write_atomic
from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from evaluation.targets.target import Target

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test")
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class FrozenSplit:
    """The clips of a task by split, and its vocabulary in order."""

    column: str
    vocabulary: tuple[str, ...]
    """Tags or classes; empty for numbers."""
    ids: dict[str, tuple[str, ...]]
    """Split → keys of its clips, ascending."""

    @property
    def split_hash(self) -> str:
        """SHA-256 of the ids by split."""
        return _hash({split: list(self.ids[split]) for split in SPLITS})

    def part_hash(self, split: str) -> str:
        """SHA-256 of the ids of one split."""
        return _hash(list(self.ids[split]))

    @property
    def vocabulary_hash(self) -> str:
        """SHA-256 of the vocabulary in its order."""
        return _hash(list(self.vocabulary))


def freeze(index: ShardIndex, column: str, target: Target) -> FrozenSplit:
    """The clips of a task by split."""
    keys_K = np.asarray(index.key, np.str_)[target.rows_K]
    ids = {split: tuple(sorted(keys_K[target.split_K == split].tolist())) for split in SPLITS}
    return FrozenSplit(column, target.classes, ids)


def save_split(frozen: FrozenSplit, path: Path) -> None:
    """Write a frozen split atomically."""
    tree = {
        "schema_version": SCHEMA_VERSION,
        "column": frozen.column,
        "split_hash": frozen.split_hash,
        "vocabulary_hash": frozen.vocabulary_hash,
        "vocabulary": frozen.vocabulary,
        "ids": frozen.ids,
    }
    write_atomic(path, json.dumps(tree, indent=1, ensure_ascii=False))


def load_split(path: Path) -> FrozenSplit:
    """Read a frozen split.

    Raises:
        UserError: if the file is missing, or its content does not fit its hashes.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if tree["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {tree['schema_version']}, this release reads {SCHEMA_VERSION}")
        ids = {split: tuple(map(str, tree["ids"][split])) for split in SPLITS}
        found = FrozenSplit(str(tree["column"]), tuple(map(str, tree["vocabulary"])), ids)
        if (tree["split_hash"], tree["vocabulary_hash"]) != (found.split_hash, found.vocabulary_hash):
            raise ValueError("its content does not fit its hashes: edited or damaged")
        if len({key for split in ids.values() for key in split}) < sum(map(len, ids.values())):
            raise ValueError("it has a duplicate clip")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a frozen split ({error}); a report's folder has them in splits/") from None
    return found


def hold_to(frozen: FrozenSplit, name: str, index: ShardIndex, target: Target) -> Target:
    """A target reduced to the clips of a frozen split, in its splits.

    Raises:
        UserError: if a clip is missing or a track would be in two splits.
    """
    place = {key: at for at, key in enumerate(np.asarray(index.key, np.str_)[target.rows_K].tolist())}
    split_of = {key: split for split in SPLITS for key in frozen.ids[split]}
    missing = sorted(set(split_of) - set(place))
    if missing:
        raise UserError(
            f"task {name}: {len(missing)} clips of its frozen split are not in the shards or have no "
            f"{frozen.column}: {', '.join(missing[:5])}"
        )
    at = np.array(sorted(place[key] for key in split_of), np.int64)
    keys = np.asarray(index.key, np.str_)[target.rows_K[at]].tolist()
    held = replace(
        target,
        rows_K=target.rows_K[at],
        split_K=np.array([split_of[key] for key in keys], np.str_),
        track_K=target.track_K[at],
        artist_K=target.artist_K[at],
        values=target.values[at],
        texts_K=tuple(target.texts_K[k] for k in at) if target.texts_K else (),
    )
    check_leaks(f"task {name}", held.track_K.tolist(), held.split_K.tolist())
    return held


def check_leaks(what: str, tracks: Sequence[str], splits: Sequence[str]) -> None:
    """Refuse splits that share a track. The UserError names the tracks."""
    place: dict[str, str] = {}
    leaking: dict[str, set[str]] = {}
    for track, split in zip(tracks, splits, strict=True):
        if place.setdefault(track, split) != split:
            leaking.setdefault(track, {place[track]}).add(split)
    if leaking:
        shown = ", ".join(f"{track} ({' and '.join(sorted(leaking[track]))})" for track in sorted(leaking)[:5])
        raise UserError(
            f"{what}: {len(leaking)} tracks are in more than one split: {shown}; split by track_id and build again"
        )


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
