"""The message of a problem: the file, the dotted key, what is wrong, and the nearest right key or its new name."""

import difflib
import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.validation.renamed import new_name


def explain(problem: Mapping[str, Any], where: str, schema: str, leaves: Sequence[str]) -> str:
    """A problem of pydantic in words."""
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        if new := new_name(schema, path):
            return f"{where}: unknown key {path}; it is called {new} now"
        known = [*leaves, *sorted({p.rpartition(".")[0] for p in leaves} - {""})]
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
        near = near or [p for p in known if p.rpartition(".")[2] == path.rpartition(".")[2]][:1]
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
        return f"{where}: unknown key {path}{hint}"
    message, given = problem["msg"].removeprefix("Value error, "), problem["input"]
    value = f", got {reprlib.repr(given)}" if "got" not in message and not isinstance(given, dict) else ""
    if problem["type"] == "string_type" and isinstance(given, int | float):
        value += f"; text that looks like something else takes quotes: {path}='\"{json.dumps(given)}\"'"
    return f"{where}: {path}: {message}{value}" if path else f"{where}: {message}{value}"
