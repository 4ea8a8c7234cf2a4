"""The JSON member of a clip: its labels, checked and in one normal form."""

import json
import math
from collections.abc import Mapping
from typing import Any

from data_shards.format.records import SPLITS
from data_shards.format.text import tidy


def parse_labels(key: str, text: bytes) -> dict[str, Any]:
    """A sample's JSON as keyword arguments of `Entry`, all text tidy; unknown fields are ignored.

    Raises:
        ValueError: if it is not an object, or a field of ours has the wrong type.

    >>> parse_labels("a", b'{"multilabel": {"tags": ["calm"]}}')["multilabel"]
    {'tags': ('calm',)}
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"a {type(tree).__name__}, not an object")
    split = tree.get("split", "train")
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; known are {', '.join(SPLITS)}")
    return {
        "track": _text(tree, "track") or key,
        "artist": _text(tree, "artist"),
        "split": split,
        "licence": _text(tree, "licence"),
        "multilabel": {column: _tags(column, tags) for column, tags in _columns(tree, "multilabel")},
        "categorical": {column: _class(column, value) for column, value in _columns(tree, "categorical")},
        "numeric": {column: _number(column, value) for column, value in _columns(tree, "numeric") if value is not None},
        "captions": (captions := _captions(tree.get("captions", []))),
        "caption_tags": _caption_tags(tree.get("caption_tags", []), len(captions)),
    }


def _columns(tree: Mapping[str, Any], kind: str) -> list[tuple[str, Any]]:
    columns = tree.get(kind, {})
    if not isinstance(columns, dict):
        raise ValueError(f"{kind} is a {type(columns).__name__}, not an object of columns")
    return sorted((tidy(column), value) for column, value in columns.items())


def _text(tree: Mapping[str, Any], field: str) -> str | None:
    value = tree.get(field)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{field} is {value!r}, not text")
    return (tidy(value) or None) if value else None


def _tags(column: str, tags: Any) -> tuple[str, ...]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tidy(tag) for tag in tags):
        raise ValueError(f"{column} is {tags!r}, not a list of tags")
    return tuple(sorted(set(map(tidy, tags))))


def _captions(texts: Any) -> tuple[str, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"captions is {texts!r}, not a list of texts")
    return tuple(map(tidy, texts))


def _caption_tags(tags: Any, num_captions: int) -> tuple[tuple[str, ...], ...]:
    if not isinstance(tags, list) or len(tags) not in (0, num_captions):
        raise ValueError(f"caption_tags is {tags!r}, not one list of tags for each of {num_captions} captions")
    return tuple(_tags("caption_tags", one) for one in tags)


def _class(column: str, value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and tidy(value)):
        raise ValueError(f"{column} is {value!r}, not text")
    return value if value is None else tidy(value)


def _number(column: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{column} is {value!r}, not a number")
    return float(value)
