"""Frozen splits: which clip is in which split under which tags, as a file with a hash that a report names.

An evaluation leaves one file a task in ``splits/``; ``tasks.NAME.frozen`` holds a later one to it: the same clips, the
same splits, the same tags in the same order, whatever else the shards hold.

Published splits are pinned: the lists are their owners' and do not ship, their facts do.
`conf/evaluation/published/splits.yaml` has, for every published task, the number of clips and a SHA-256 of the ids of
each split, and the classes in their order. `tests/golden/published_splits.py` writes it from the real lists. A report
states whether a task was evaluated on exactly that split, and names what differs otherwise.

Shape suffix: K clips whose target is known.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.files.storage import write_atomic
from cluster.settings import ROOT, UserError, read_yaml
from data_shards.format.index import ShardIndex
from evaluation.targets.target import Target

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test")
MAX_BYTES = 256 << 20
PINS = ROOT / "conf" / "evaluation" / "published" / "splits.yaml"
SHOWN = 12
"""Hexadecimal digits of a hash that words quote."""


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
    """Read a frozen split. Raises UserError if the file is missing, or its content does not fit its hashes."""
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
    Raises UserError if a clip is missing, or a track would be in two splits.
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


def facts(frozen: FrozenSplit) -> dict[str, Any]:
    """What pins a split: clips and hash of each part, and the hash of all, which a report names."""
    parts: dict[str, Any] = {
        split: {"clips": len(frozen.ids[split]), "sha256": frozen.part_hash(split)} for split in SPLITS
    }
    return parts | {"split_hash": frozen.split_hash}


def compare(protocol: str, frozen: FrozenSplit) -> dict[str, Any]:
    """How a task's split differs from the published one.

    Returns:
        ``same``: the split and the classes are the pinned ones, or those of a variant; ``missing``: clips that the
        pinned split has more, by split; ``words``: for the report.
    """
    pin = read_yaml(PINS).get(protocol)
    if pin is None or "unpinned" in pin:
        reason = pin["unpinned"] if pin else "no list of this protocol is known"
        return {"same": False, "missing": {}, "words": f"unknown: {reason}"}
    classes = _class_words(tuple(pin["classes"]), frozen.vocabulary)
    for variant, known in pin["variants"].items():
        if known["split_hash"] == frozen.split_hash and not classes:
            instead = f", {pin['instead']}" if "instead" in pin else ""
            words = f"{variant} ({frozen.split_hash[:SHOWN]}){instead}"
            return {"same": True, "missing": {}, "words": words}
    nearest = min(pin["variants"].values(), key=lambda known: sum(_off(known, frozen, split) for split in SPLITS))
    differing = [text for split in SPLITS if (text := _part_words(split, nearest[split], frozen))]
    missing = {split: nearest[split]["clips"] - len(frozen.ids[split]) for split in SPLITS}
    return {
        "same": False,
        "missing": {split: count for split, count in missing.items() if count > 0},
        "words": "differs: " + "; ".join([*differing, *classes]),
    }


def _off(known: Mapping[str, Any], frozen: FrozenSplit, split: str) -> int:
    """Clips too few or too many; one where they are others."""
    counted = abs(known[split]["clips"] - len(frozen.ids[split]))
    return counted or int(known[split]["sha256"] != frozen.part_hash(split))


def _part_words(split: str, known: Mapping[str, Any], frozen: FrozenSplit) -> str:
    ours, theirs = len(frozen.ids[split]), known["clips"]
    if ours < theirs:
        return f"{split}: {theirs - ours:,} of {theirs:,} clips missing"
    if ours > theirs:
        return f"{split}: {ours - theirs:,} clips more than the {theirs:,}"
    return "" if known["sha256"] == frozen.part_hash(split) else f"{split}: as many clips, but others"


def _class_words(known: tuple[str, ...], ours: tuple[str, ...]) -> list[str]:
    """Nothing for another order: names travel with their vectors, and every metric is a mean over classes."""
    missing, extra = sorted(set(known) - set(ours)), sorted(set(ours) - set(known))
    words = [f"without {len(missing)} classes: {', '.join(missing[:3])}"] if missing else []
    return words + ([f"{len(extra)} classes more: {', '.join(extra[:3])}"] if extra else [])
