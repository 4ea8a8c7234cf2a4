"""Published splits, pinned: the lists are their owners' and do not ship, their facts do.

`conf/evaluation/published/splits.yaml` has, for every published task, the number of clips and a SHA-256 of the ids of
each split, and the classes in their order. `tests/golden/published_splits.py` writes it from the real lists. A report
states whether a task was evaluated on exactly that split, and names what differs otherwise.
"""

from collections.abc import Mapping
from typing import Any

from cluster.settings import ROOT, read_yaml
from evaluation.targets.splits import SPLITS, FrozenSplit

PINS = ROOT / "conf" / "evaluation" / "published" / "splits.yaml"
SHOWN = 12
"""Hexadecimal digits of a hash that words quote."""


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
