"""`counterpoint config`: every key has its row, every row its meaning, and an unknown key its nearest."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.reference import keys_of
from cluster.settings import Config, UserError, leaf_paths, load_config
from commands.app import app
from commands.config import ROOTS, keys_in
from trainers.config import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class Part(Config):
    """A part."""

    size: int
    """Metres, > 0."""


@dataclass(frozen=True, kw_only=True)
class Whole(Config):
    """All of it."""

    parts: dict[str, Part] = field(default_factory=dict)
    """Name → part."""
    listed: tuple[Part, ...] = ()
    one: Part | None = None
    inner: Part = field(default_factory=lambda: Part(size=3))
    share: float = 0.5
    """A share,
    in [0, 1]; used when size > 2."""


def printed(*words: str) -> list[str]:
    done = CliRunner().invoke(app, ["config", *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output.splitlines()


@pytest.mark.parametrize("root", ROOTS)
def test_every_key_has_a_meaning_and_a_line_of_its_own(root: str) -> None:
    rows = keys_in(root)
    assert [row.key for row in rows if not row.meaning] == []
    assert len({row.key for row in rows}) == len(rows)
    assert [line.split()[0] for line in printed(root)] == [row.key for row in rows]


def test_the_keys_are_those_of_the_configuration_and_its_defaults_validate() -> None:
    rows = [row for row in keys_in("pretrain") if "[]" not in row.key and row.key != "augment.preset"]
    assert [row.key for row in rows] == leaf_paths(ExperimentConfig)
    words = [f"{row.key}={row.default}" for row in rows]
    assert load_config(ExperimentConfig, None, words) == load_config(ExperimentConfig, None)


def test_a_range_is_what_the_check_states_where_the_docstring_states_none() -> None:
    ranges = {row.key: row.range for row in keys_in("pretrain")}
    assert ranges["loss.criterion"] == "≥ 1"
    assert ranges["optim.learning_rate"] == "> 0"
    assert ranges["run.keep"] == "≥ 1"
    assert ranges["data.labelled"] == "", "text has no range"


def test_a_preset_of_augmentation_has_a_row_although_it_is_no_field() -> None:
    assert printed("pretrain", "augment.preset")[0].startswith("augment.preset  paper | as_released | ")
    assert printed("evaluate", "robustness.augment.preset")[0].startswith("robustness.augment.preset  ")


def test_mappings_lists_and_optional_sections_have_the_keys_of_their_parts() -> None:
    rows = {row.key: row for row in keys_of(Whole)}
    assert list(rows) == [
        "parts", "parts.NAME.size", "listed", "listed[].size", "one", "one.size", "inner.size", "share"
    ]  # fmt: skip
    assert rows["parts.NAME.size"].default == "needed"
    assert rows["inner.size"].default == "3", "the section's own default, not the field's"
    assert rows["inner.size"].range == "> 0"
    assert rows["share"].range == "[0, 1]", "a condition is no range"
    assert rows["listed"].meaning == "A part.", "a field without docstring has its section's"


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["pretrain", "loss.temperature"], "loss.temperature"),
        (["pretrain", "loss"], "loss.objective"),
        (["pretrain", "loss."], "loss.objective"),
        (["evaluate", "tasks.mood.kind"], "tasks.NAME.kind"),
        (["study", "claims.says"], "claims[].says"),
        (["shards", "build.codec"], "build.codec"),
    ],
)
def test_a_key_or_a_section_is_found(words: list[str], first: str) -> None:
    assert printed(*words)[0].split()[0] == first


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["pretrain", "loss.temprature"], "did you mean loss.temperature?"),
        (["evaluate", "augment"], "did you mean robustness.augment?"),
        (["pretrain", "temperature"], "did you mean loss.temperature?"),
        (["pretrain", "zzzz"], "counterpoint config pretrain lists all"),
        (["pretain"], "did you mean pretrain?"),
    ],
)
def test_an_unknown_one_is_refused_with_the_nearest(words: list[str], near: str) -> None:
    with pytest.raises(UserError) as error:
        printed(*words)
    assert near in str(error.value)


def test_json_holds_the_same_rows() -> None:
    rows = json.loads("\n".join(printed("pretrain", "loss", "--json")))
    assert {"key", "type", "range", "default", "meaning"} == set(rows[0])
    assert [row["key"] for row in rows] == [line.split()[0] for line in printed("pretrain", "loss")]
    every: dict[str, list[Any]] = json.loads("\n".join(printed("--json")))
    assert set(every) == set(ROOTS)


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from commands.config import ROOTS, keys_in; [keys_in(root) for root in ROOTS]; "
        "sys.exit(' '.join({'torch', 'ray', 'mlflow'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
