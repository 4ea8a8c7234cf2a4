"""The message of a problem: the file, the dotted key, what is wrong, and the nearest right key or its new name."""

import difflib
import json
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MISSING = ("missing", "missing_argument")
"""What pydantic calls a key without a default that is not given."""
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
"""What it calls a key that there is not."""
MOST_KEYS = 40
"""Named where a key is unknown and none is near; of more their sections are."""
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


def nearest(word: str, known: Iterable[str]) -> str:
    """The nearest of some names, to end a refusal with; nothing where none is near.

    >>> nearest("pich", ["pitch", "tempo"]), nearest("gain", ["pitch", "tempo"])
    ('; did you mean pitch?', '')
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def nearest_key(path: str, known: Sequence[str], siblings: Sequence[str] = ()) -> str:
    """The key that was meant: one of the same name in another section, else one beside it, else one that looks alike.

    Args:
        path: dotted, and unknown.
        known: all keys.
        siblings: those of its section, where there is one.

    >>> keys = ["data.batch", "optim.steps", "optim.schedule"]
    >>> nearest_key("optim.batch", keys, keys[1:]), nearest_key("optim.stps", keys, keys[1:]), nearest_key("lr", keys)
    ('data.batch', 'optim.steps', '')
    """
    name, names = path.rpartition(".")[2], {key: key.rpartition(".")[2] for key in known}
    same = [key for key in known if names[key] == name]
    alike = difflib.get_close_matches(name, [names[key] for key in siblings], n=1)
    cut = [key for key in siblings if name.startswith(names[key]) or names[key].startswith(name)]
    beside = [key for key in siblings if names[key] in alike] or cut
    others = known if not siblings or siblings == known else []
    found = difflib.get_close_matches(path, same, n=1, cutoff=0) or beside
    return next(iter(found or difflib.get_close_matches(path, others, n=1, cutoff=0.5)), "")


def place_of(problem: Mapping[str, Any], where: str, given: Mapping[str, str]) -> str:
    """Where a problem's key was given: its file, or what set it over the file; both where it is of several keys.

    >>> place_of({"loc": ("optim", "steps"), "type": "missing"}, "a.yaml", {"optim.steps": "command line"})
    'command line'
    """
    path = ".".join(map(str, problem["loc"]))
    for key, place in given.items():
        if path == key or path.startswith(f"{key}."):
            return place
        if where != place and (not path or key.startswith(f"{path}.")):
            where = place if problem["type"] in UNKNOWN else f"{where} and {place}"
            break
    return where


def look_alikes(text: str) -> str:
    r"""The first sign that looks like another one of YAML, to end a refusal with; nothing where there is none.

    >>> look_alikes("a: 1\nb:\u00a02")
    '; line 2 has U+00A0 (NO-BREAK SPACE): type it again'
    """
    for number, line in enumerate(text.split("\n"), start=1):
        for sign in line:
            if not sign.isascii() and (unicodedata.category(sign) in ("Cf", "Zs", "Pi", "Pf") or sign == "\uff1a"):
                return f"; line {number} has U+{ord(sign):04X} ({unicodedata.name(sign, 'no name')}): type it again"
    return ""


def _visible(name: str) -> str:
    """A key as it is; in escapes where some of its signs are not ASCII, as they may look like others."""
    return name if name.isascii() and name.isprintable() else ascii(name)


def explain(problem: Mapping[str, Any], where: str, schema: str, leaves: Sequence[str]) -> str:
    """A problem of pydantic in words."""
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in UNKNOWN:
        if new := new_name(schema, path):
            return f"{where}: unknown key {path}; it is called {new} now"
        dotted = next((part for part in map(str, problem["loc"]) if "." in part), "")
        if dotted:
            first, _, rest = dotted.partition(".")
            return f"{where}: unknown key {path}; in YAML a dot makes no section: write {rest} below {first}:"
        sections = {p.rpartition(".")[0] for p in leaves} - {""}
        known = [key for key in (*leaves, *sorted(sections)) if not path.startswith(f"{key}.")]
        section = path.rpartition(".")[0]
        siblings = [key for key in known if key.startswith(f"{section}.")] if section else known
        near = nearest_key(path, known, siblings)
        if len(siblings or known) > MOST_KEYS:
            siblings = list(dict.fromkeys(p.partition(".")[0] for p in leaves))
        others = f"known are {', '.join(siblings or known)}" if siblings or known else "there are none"
        hint = f"; did you mean {near}?" if near else f"; {others}"
        return f"{where}: unknown key {_visible(path)}{hint}"
    if problem["type"] in MISSING:
        return f"{where}: {path} is missing; give it a value"
    message, given = problem["msg"].removeprefix("Value error, "), problem["input"]
    value = f", got {reprlib.repr(given)}" if "got" not in message and not isinstance(given, dict) else ""
    if problem["type"] == "string_type" and isinstance(given, int | float):
        value += f"; text that looks like something else takes quotes: {path}='\"{json.dumps(given)}\"'"
    return f"{where}: {path}: {message}{value}" if path else f"{where}: {message}{value}"


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
