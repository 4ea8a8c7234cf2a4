"""`counterpoint config`: every key of a configuration with its type, range, default and meaning."""

import difflib
from dataclasses import asdict
from typing import Annotated

from cluster.reference import NEEDED, Key, keys_of
from cluster.settings import UserError
from cluster.validation.messages import nearest
from commands.console import AsJson, console, positional, print_json, say

ROOTS = {
    "pretrain": "counterpoint pretrain, conf/pretrain/*.yaml, counterpoint views",
    "evaluate": "counterpoint evaluate, conf/evaluation/*.yaml",
    "sweep": "counterpoint sweep, conf/sweep/*.yaml; every other key is one of pretrain",
    "study": "study.* on the command line of counterpoint study, the rest in conf/study/*.yaml",
    "shards": "counterpoint shards build",
}
"""What has a configuration, and where its keys are written."""


Root = Annotated[str | None, positional("[ROOT]", f"{', '.join(ROOTS)}; all of them unless given.")]
KeyOrSection = Annotated[str | None, positional("[KEY]", "A key, or a section: loss.temperature, loss.")]


def config(root: Root = None, key: KeyOrSection = None, as_json: AsJson = False) -> None:
    """Print the keys of a configuration: type, range, default and meaning, one key a line."""
    if root is not None and root not in ROOTS:
        raise UserError(f"no configuration {root!r}{nearest(root, ROOTS)}; known are {', '.join(ROOTS)}")
    found = {name: _matching(name, keys_in(name), key) for name in ([root] if root else ROOTS)}
    if as_json:
        trees = {name: [asdict(row) for row in rows] for name, rows in found.items()}
        print_json(trees[root] if root else trees)
        return
    for name, rows in found.items():
        if root is None:
            console.print(f"# {name}: {ROOTS[name]}", highlight=False, soft_wrap=True)
        width = max(len(row.key) for row in rows)
        for row in rows:
            line = f"{row.key:<{width}}  {describe(row)}"
            say(line)


def describe(row: Key) -> str:
    """Type, range, default and meaning in a line.

    >>> describe(Key(key="seed", type="whole number", range="≥ 0", default="0", meaning="Root of every draw."))
    'whole number, ≥ 0; default 0. Root of every draw.'
    """
    default = "must be given" if row.default == NEEDED else f"default {row.default}"
    return f"{row.type}{row.range and ', '}{row.range}; {default}. {row.meaning}"


def keys_in(root: str) -> list[Key]:
    """All keys of one of `ROOTS`; nothing but its own package is imported, and torch never."""
    if root == "pretrain":
        from trainers.config import ExperimentConfig

        return _with_presets(keys_of(ExperimentConfig))
    if root == "evaluate":
        from evaluation.config import EvaluationConfig

        return _with_presets(keys_of(EvaluationConfig))
    if root == "sweep":
        from tuning.sweep.config import SweepConfig

        return keys_of(SweepConfig)
    if root == "study":
        from tuning.study.config import Study, StudySettings

        return [*keys_of(StudySettings, "study."), *keys_of(Study)]
    from data_shards.build.build import ShardsConfig

    return keys_of(ShardsConfig)


def _with_presets(rows: list[Key]) -> list[Key]:
    """The keys with `augment.preset`, which stands for the values of a preset and is no field."""
    from trainers.augment.parameters import PRESETS

    place = next(place for place, row in enumerate(rows) if row.key.endswith("augment.p"))
    meaning = "All values of a preset (docs/augmentation.md); keys beside it differ from it."
    key = f"{rows[place].key}reset"
    preset = Key(key=key, type=" | ".join(PRESETS), range="", default="paper", meaning=meaning)
    return [*rows[:place], preset, *rows[place:]]


def _matching(root: str, rows: list[Key], key: str | None) -> list[Key]:
    """The rows of a key, or of all keys below a section. For an unknown one the UserError names the nearest."""
    if key is None:
        return rows
    parts = key.rstrip(".").split(".")
    found = [row for row in rows if _begins(row.key, parts)]
    if found:
        return found
    sections = {row.key[:place] for row in rows for place, sign in enumerate(row.key) if sign == "."}
    known = [*(row.key for row in rows), *sorted(sections)]
    near = [name for name in known if name.endswith(f".{key}")] or difflib.get_close_matches(
        key, known, n=1, cutoff=0.5
    )
    near = near or [name for name in known if name.rpartition(".")[2] == parts[-1]]
    hint = f"; did you mean {near[0]}?" if near else f"; counterpoint config {root} lists all"
    raise UserError(f"unknown key {key} of {root}{hint}")


def _begins(key: str, parts: list[str]) -> bool:
    """Whether a key begins with these parts; any name stands for ``NAME``, and brackets may be left out."""
    own = key.split(".")
    if len(parts) > len(own):
        return False
    return all(
        known in (part, "NAME") or known.removesuffix("[]") == part for known, part in zip(own, parts, strict=False)
    )
