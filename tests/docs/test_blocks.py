"""What pages show can be typed: commands, options, keys and presets exist, YAML fits a schema, Python compiles."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from cluster.settings import ROOT, UserError, load_config, parse_overrides, read_yaml, validate
from commands.app import app
from commands.config import ROOTS, keys_in
from commands.usage import KEYS
from commands.usage import ROOTS as ROOTS_OF
from data_shards.build.build import ShardsConfig
from data_shards.text.dictionary import SwapDictionary
from evaluation.config import EvaluationConfig
from trainers.config import ExperimentConfig
from tuning.study.config import Study, StudyKeys
from tuning.sweep.config import SweepConfig

GENERATED = ("command_line.md", "configuration.md", "python.md")
HISTORY = ("log.md", "decisions", "faults.md")
PAGES = [
    page
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    if page.name not in GENERATED and not any(part in HISTORY for part in page.parts)
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
PLACEHOLDER = re.compile(r"…|[A-Z][A-Z_]*")
SCHEMAS = (ExperimentConfig, EvaluationConfig, SweepConfig, Study, StudyKeys, SwapDictionary, ShardsConfig)
CONFIGURED = {"pretrain": ExperimentConfig, "views": ExperimentConfig, "evaluate": EvaluationConfig}
of_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, *kinds: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text(encoding="utf-8")) if kind in kinds]


def inline(page: Path) -> list[str]:
    return CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def commands_on(page: Path) -> Iterator[list[str]]:
    """The words of every command, of blocks and of the prose."""
    shown = "\n".join(blocks(page, "", "console", "bash")).replace("\\\n", " ")
    for line in (*shown.splitlines(), *inline(page)):
        optional = re.sub(r"\[(--[^\]]*)\]", r"\1", line.strip().removeprefix("$ "))
        words = shlex.split(optional, comments=True) if optional.startswith("counterpoint ") else []
        if words:
            yield words[1 : words.index(">") if ">" in words else None]


@cache
def keys_of_root(root: str) -> tuple[str, ...]:
    return tuple(row.key for row in keys_in(root))


def is_key(key: str, root: str) -> bool:
    """Whether a configuration has a key or a section; what users name themselves may have any name."""
    given = key.rstrip(".").split(".")
    for known in keys_of_root(root):
        parts = known.replace("[]", ".NAME").split(".")
        same = all(part in ("NAME", word) for part, word in zip(parts, given, strict=False))
        if same and (len(given) <= len(parts) or parts[-1] in ("settings", "tasks", "set", "sets", "extra", "space")):
            return True
    return False


def command_of(words: list[str]) -> tuple[list[str], Any, list[str]]:
    """The command that words name: its own words, the command, and what follows."""
    found: Any = typer.main.get_command(app)
    own: list[str] = []
    while hasattr(found, "commands") and words and not words[0].startswith("-"):
        name = "module:function" if ":" in words[0] else words[0]
        if name == "…":
            return own, found, words
        assert name in found.commands, f"no command {' '.join([*own, name])}"
        found, own, words = found.commands[name], [*own, name], words[1:]
    return own, found, words


def check_command(words: list[str]) -> None:
    own, command, rest = command_of(words)
    if hasattr(command, "commands"):
        return
    context = type(command).context_class(command, info_name=" ".join(own), resilient_parsing=True)
    rest = [word for word, last in zip(rest, ["", *rest], strict=False) if word != "…" or last.startswith("--")]
    if own == ["submit"]:  # the words of another command, or of a job
        return
    given, extra, _ = command.make_parser(context).parse_args(list(rest))
    assert not extra, f"no room for {' '.join(extra)}"
    arguments = [given.get(parameter.name) for parameter in command.params if parameter.param_type_name == "argument"]
    positional = [word for value in arguments for word in ([value] if isinstance(value, str) else value or [])]
    for word in positional:
        if word.startswith("conf/") and not PLACEHOLDER.search(Path(word).stem):
            assert (ROOT / word).is_file(), f"no preset {word}"
    if not any(parameter.metavar == KEYS for parameter in command.params):
        return
    pairs = [word for word in positional if "=" in word and not word.startswith("KEY")]
    for key in parse_overrides(pairs):
        assert any(is_key(key, root) for root in ROOTS_OF[own[0]]), f"no key {key} of {own[0]}"
    preset = next((word for word in positional if word.startswith("conf/") and (ROOT / word).is_file()), None)
    filled = [pair for pair in pairs if not PLACEHOLDER.fullmatch(pair.partition("=")[2])]
    if own[0] in CONFIGURED and preset:
        load_config(CONFIGURED[own[0]], ROOT / preset, filled)


@of_pages
def test_every_command_that_a_page_shows_parses_and_its_keys_and_presets_are_there(page: Path) -> None:
    for words in commands_on(page):
        try:
            check_command(words)
        except (Exception, SystemExit) as error:
            pytest.fail(f"counterpoint {shlex.join(words)}: {type(error).__name__}: {error}")


@of_pages
def test_every_option_that_a_page_names_is_one_of_a_command(page: Path) -> None:
    def options(group: Any) -> Iterator[str]:
        for command in group.commands.values():
            if hasattr(command, "commands"):
                yield from options(command)
            else:
                yield from (
                    name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
                )

    known = {"--help", "--version", "--debug", "--", *options(typer.main.get_command(app))}
    for code in inline(page):
        if found := re.match(r"--[a-z][\w-]*", code):
            assert found[0] in known | OF_OTHERS, code


OF_OTHERS = {"--allowed-hosts"}
"""Options of programs that are not this one."""


@of_pages
def test_every_key_that_a_page_names_is_one_of_a_configuration(page: Path) -> None:
    sections = {key.partition(".")[0] for root in ROOTS for key in keys_of_root(root) if "." in key}
    for code in inline(page):
        found = re.fullmatch(r"([a-z_]+)(\.[a-z_]+)+\.?(?:=\S*)?", code)
        if found and found[1] in sections and not code.endswith(FILES):
            key = code.partition("=")[0]
            assert any(is_key(key, root) for root in ROOTS) or key in NO_KEYS, code


FILES = (".py", ".yaml", ".md", ".json", ".jsonl", ".csv", ".png", ".safetensors", ".onnx", ".pt2")
NO_KEYS: set[str] = {"data.manifest", "study.trials", "encoder.spaces"}
"""What looks like a key and is none: what ``run.may_differ`` calls the shards, and attributes of objects."""


@of_pages
def test_every_yaml_block_is_one_of_the_configurations(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        (tmp_path / "shown.yaml").write_text(text)
        tree, refused = read_yaml(tmp_path / "shown.yaml"), []
        for schema in SCHEMAS:
            try:
                validate(schema, tree, schema.__name__)
                break
            except UserError as error:
                refused.append(str(error))
        else:
            pytest.fail(f"{text}\n" + "\n".join(refused))


@of_pages
def test_every_python_block_compiles_and_what_it_imports_is_there(page: Path) -> None:
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                for name in node.names:
                    importlib.import_module(name.name)
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    assert hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}"), text


def test_the_pages_have_blocks_of_each_kind() -> None:
    counts = {kind: sum(len(blocks(page, kind)) for page in PAGES) for kind in ("yaml", "python")}
    assert counts["yaml"] >= 6
    assert counts["python"] >= 9
    assert sum(1 for page in PAGES for _ in commands_on(page)) > 120
