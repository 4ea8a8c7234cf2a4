"""Keys of configurations that were renamed: an unknown key is answered with its new name."""

RENAMED: dict[str, dict[str, str]] = {
    "EvaluationConfig": {"judged": "split"},
    "Study": {
        "judges": "evaluations",
        "figures": "metrics",
        "claims.says": "claims.statement",
        "scales.*.judges": "scales.*.evaluations",
        "scales.*.claims.says": "scales.*.claims.statement",
    },
    "StudySettings": {"sets.judged": "sets.evaluation"},
    "SweepConfig": {"stop.figure": "stop.metric"},
}
"""Root dataclass → dotted key of 0.1 → key now. ``*`` stands for any one name; places in lists are left out."""


def new_name(schema: str, path: str) -> str | None:
    """What a key of an earlier version is called now, or None.

    >>> new_name("Study", "scales.tiny.claims.3.says"), new_name("Study", "claim")
    ('scales.tiny.claims.statement', None)
    """
    parts = [part for part in path.split(".") if not part.isdigit()]
    for old, new in RENAMED.get(schema, {}).items():
        pattern = old.split(".")
        if len(pattern) == len(parts) and all(mark in ("*", part) for mark, part in zip(pattern, parts, strict=True)):
            kept = iter(part for mark, part in zip(pattern, parts, strict=True) if mark == "*")
            return ".".join(next(kept) if part == "*" else part for part in new.split("."))
    return None
