"""One wrong value is one line: of every key of the two largest configurations, whatever pydantic makes of it."""

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.reference import keys_of
from cluster.settings import Config, UserError, read_yaml, validate
from evaluation.config import EvaluationConfig
from trainers.config import ExperimentConfig

PRESETS = {ExperimentConfig: Path("conf/pretrain/music_text.yaml"), EvaluationConfig: Path("conf/evaluation/mtat.yaml")}
WRONG = ("?", -1, [None], {"a": 1})
NEEDED = {"augment.filter": ("min_cutoff_freq", "max_cutoff_freq"), "augment.extra": ("name",)}
"""Sections that have keys without a default: a value alone leaves others missing."""


def with_value(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any] | None:
    """A tree with a value at a key; a name that users choose is the first there is. None where there is none."""
    tree = deepcopy(tree)
    node, parts = tree, key.split(".")
    for part in parts[:-1]:
        part = next(iter(node), part) if part == "NAME" else part
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            return None
    node[parts[-1]] = value
    return tree


def wrong_trees(schema: type) -> Iterator[tuple[str, dict[str, Any]]]:
    tree = read_yaml(PRESETS[schema])
    for row in keys_of(schema):
        if "[]" in row.key or any(section in row.key for section in NEEDED):
            continue
        for value in WRONG:
            if (wrong := with_value(tree, row.key, value)) is not None:
                yield row.key, wrong


@pytest.mark.parametrize("schema", list(PRESETS))
def test_a_wrong_value_never_brings_a_line_on_a_key_that_is_missing_or_a_name_of_pydantic(schema: type) -> None:
    for key, tree in wrong_trees(schema):
        try:
            validate(schema, tree, "F")
        except UserError as error:
            lines = str(error).splitlines()
            assert not any("is missing" in line for line in lines), (key, lines)
            named = [re.match(r"F: (?:unknown key )?([\w.]+\[?)", line) for line in lines]
            assert not any(found and found[1].endswith(("[", ".bool", ".int", ".str")) for found in named), (key, lines)
            assert len(lines) == 1, (key, lines)


@pytest.mark.parametrize(
    ("schema", "key", "value", "message"),
    [
        (ExperimentConfig, "optim.channels_last", "x", "Input should be a valid boolean or 'auto', got 'x'"),
        (ExperimentConfig, "optim.channels_last", {}, "Input should be a valid boolean or 'auto'"),
        (EvaluationConfig, "tasks.top50.knd", "tags", "unknown key tasks.top50.knd; did you mean tasks.top50.kind?"),
        (EvaluationConfig, "tasks.top50.kind", "tgs", "tasks.top50: kind must be tags, .* did you mean tags?"),
        (ExperimentConfig, "augment.extra", [{"name": "a:b", "q": 1}], r"unknown key augment\.extra\.0\.q; .*\.0\.p"),
        (ExperimentConfig, "loss", {}, r"text\.\w+.*: keys of a text tower, which loss\.objective=contrastive has not"),
    ],
)
def test_a_value_of_several_types_or_a_key_of_a_named_section_is_one_line(
    schema: type, key: str, value: Any, message: str
) -> None:
    tree = with_value(read_yaml(PRESETS[schema]), key, value)
    assert tree is not None
    with pytest.raises(UserError) as caught:
        validate(schema, tree, "F")
    assert re.search(message, str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


@dataclass(frozen=True, kw_only=True)
class Sized(Config):
    """A key of several types, one with parts."""

    size: list[int] | bool = False


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, "x"], "F: size.1: Input should be a valid integer, got 'x'"),
        (
            [1, "x", None],
            "F: size.1: Input should be a valid integer, got 'x'\nF: size.2: Input should be a valid integer, got None",
        ),
        ("x", "F: size: Input should be a valid array or a valid boolean, got 'x'"),
    ],
)
def test_of_a_value_of_several_types_the_part_that_is_wrong_is_named_where_it_has_parts(
    value: Any, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        validate(Sized, {"size": value}, "F")
    assert str(caught.value) == message
