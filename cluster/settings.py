"""One typed configuration: defaults in frozen dataclasses, differences in YAML, dotted overrides on the command line.

The dataclasses need nothing but the standard library, so the mathematics may own some; only `load_config` needs
pydantic and PyYAML.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, get_type_hints

MAX_PRESET_BYTES = 1 << 20
COMMAND_LINE = "command line"
"""Where a key was given, in messages."""
ROOT = Path(__file__).resolve().parent.parent
"""The checkout: what runs, and where conf/ is found."""

Schema = TypeVar("Schema")
_WORDS = re.compile(r"\[([^\[\]{}\"']+)\]")
"""A list of words without quotes."""
_hints = cache(get_type_hints)


class UserError(ValueError):
    """Bad input, usage or configuration: one message that names the thing and the remedy."""

    exit_code: ClassVar[int] = 2


class RunError(RuntimeError):
    """The work itself failed for a reason the user can act on."""

    exit_code: ClassVar[int] = 1


class PreemptedError(RunError):
    """A stop was requested; the work has saved its state, and the same command resumes it."""

    exit_code: ClassVar[int] = 143


def first_line(error: BaseException) -> str:
    """The first line of an error; its class name where it has no message.

    >>> first_line(ValueError("no such key")), first_line(TimeoutError())
    ('no such key', 'TimeoutError')
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class Config:
    """Base of every configuration dataclass: an unknown key is an error, and so are text for a number, NaN and Inf."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    def require(self, rule: str, *names: str) -> None:
        """Refuse numbers of these fields that are out of a range, as `in_range` reads ``rule``; a field that is None
        has none.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None and not in_range(value, rule):
                raise ValueError(f"{name} must be {rule}, got {value}")


def in_range(value: float, rule: str) -> bool:
    """Whether a number obeys ``> 0``, ``>= 1``, or an interval such as ``in (0, 1]``; NaN obeys nothing.

    >>> in_range(1, ">= 1"), in_range(0, "> 0"), in_range(0, "in (0, 1]"), in_range(1, "in (0, 1]")
    (True, False, False, True)
    """
    sign, _, ends = rule.partition(" ")
    if sign != "in":
        return value >= float(ends) if sign == ">=" else value > float(ends)
    low, high = map(float, ends[1:-1].split(", "))
    return (low < value or (value == low and ends[0] == "[")) and (value < high or (value == high and ends[-1] == "]"))


def leaf_paths(schema: type, prefix: str = "") -> list[str]:
    """Dotted paths of every field of a configuration dataclass, nested ones included.

    >>> from dataclasses import dataclass, field
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Loss(Config):
    ...     temperature: float = 0.1
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Experiment(Config):
    ...     seed: int = 0
    ...     loss: Loss = field(default_factory=Loss)
    >>> leaf_paths(Experiment)
    ['seed', 'loss.temperature']
    """
    hints = _hints(schema)
    paths: list[str] = []
    for field in fields(schema):
        kind = hints[field.name]
        path = f"{prefix}{field.name}"
        paths += leaf_paths(kind, f"{path}.") if isinstance(kind, type) and is_dataclass(kind) else [path]
    return paths


def keys_at(schema: type, place: Sequence[Any]) -> list[str]:
    """`leaf_paths`, with the keys of the named section or the item of a list that a place is in.

    >>> from trainers.config import ExperimentConfig
    >>> [key for key in keys_at(ExperimentConfig, ("augment", "extra", 0, "nme")) if key.startswith("augment.extra")]
    ['augment.extra', 'augment.extra.0.name', 'augment.extra.0.p', 'augment.extra.0.settings']
    """
    from cluster.reference import inner_dataclass  # only where something is wrong

    inner, prefix, parts = schema, "", iter(map(str, place))
    for part in parts:
        if not (found := inner_dataclass(_hints(inner).get(part))):
            break
        inner, between = found
        prefix += f"{part}." if between == "." else f"{part}.{next(parts, '')}."
    return list(dict.fromkeys(leaf_paths(schema) + leaf_paths(inner, prefix)))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys, the form the tracker and the command line share.

    >>> flatten({"loss": {"temperature": 0.1}, "seed": 0})
    {'loss.temperature': 0.1, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set ``tree["a"]["b"]`` for the dotted path ``a.b``."""
    *parents, leaf = path.split(".")
    for name in parents:
        if tree.get(name) is None:  # `name:` with nothing below it is an empty section
            tree[name] = {}
        tree = tree[name]
        if not isinstance(tree, dict):
            raise UserError(f"{path}: {name} is a value, not a section")
    tree[leaf] = value


def scalar(text: str) -> Any:
    """Read an override's value: JSON where it parses (``1e-4``, ``true``, ``[1, 2]``), else the string itself.

    A list of words needs no quotes, as in YAML.

    >>> scalar("1e-4"), scalar("true"), scalar("paper"), scalar("[pitch, stretch]")
    (0.0001, True, 'paper', ['pitch', 'stretch'])
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
        words = _WORDS.fullmatch(text)
        return [scalar(word.strip()) for word in words[1].split(",")] if words else text


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """``["loss.temperature=0.05"]`` to ``{"loss.temperature": 0.05}``; of a key that comes twice the last holds.
    Raises UserError for a word that is not ``key=value``, and for a section after one of its keys, which it would undo.
    """
    pairs: dict[str, Any] = {}
    wrong = []
    for word, apart in _apart(words):
        key, sign, value = word.partition("=")
        if apart:
            wrong.append(f"{apart!r} is not an override; write {word} in one word")
        elif not sign or not all(key.split(".")):
            wrong.append(f"{word!r} is not an override; write key=value, for example loss.temperature=0.05")
        for other in pairs:
            if other.startswith(f"{key}."):
                wrong.append(
                    f"{key} would undo {other}={json.dumps(pairs[other])}; give {key} before it, or leave it out"
                )
        pairs[key] = scalar(value)
    if wrong:
        raise UserError("\n".join(wrong))
    return pairs


def _apart(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every override; with what was written where spaces or a colon cut it into several words.

    >>> list(_apart(["seed=1", "data.batch", "=", "8", "run.dir:", "out"]))
    [('seed=1', ''), ('data.batch=8', 'data.batch = 8'), ('run.dir=out', 'run.dir: out')]
    """
    rest = list(words)
    while rest:
        found, count = rest[0], 1
        match rest[:3]:
            case [key, "=", value] if "=" not in key + value:
                found, count = f"{key}={value}", 3
            case [key, value, *_] if value[:1] == "=" and "=" not in key + value[1:] and value[1:]:
                found, count = f"{key}{value}", 2
            case [key, value, *_] if key[-1:] in ("=", ":") and "=" not in key[:-1] + value:
                found, count = f"{key[:-1]}={value}", 2
        yield found, " ".join(rest[:count]) if count > 1 else ""
        del rest[:count]


def require_config(name: str, value: object, schema: type) -> None:
    """Refuse an argument of the library that is no configuration, such as the path of a preset; the TypeError says how
    one is made.
    """
    if not isinstance(value, schema):
        raise TypeError(
            f"{name} must be a {schema.__name__}, got {value!r}; load_config({schema.__name__}, Path) makes one of a "
            "preset"
        )


def load_config(
    schema: type[Schema],
    preset: Path | str | None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    given: Mapping[str, str] | None = None,
) -> Schema:
    """Validate a preset and its overrides against a configuration dataclass.

    Args:
        schema: the root dataclass.
        preset: path of a YAML file that holds only differences from the defaults, or None.
        overrides: ``{"loss.temperature": 0.05}`` or ``["loss.temperature=0.05"]``; they win over the preset.
        given: where some keys of a mapping were given, by dotted key; for messages.

    Raises:
        UserError: names the file, the dotted path, what is wrong, and for an unknown key the nearest right one.
    """
    if isinstance(overrides, str):
        raise UserError(f"overrides must be a list or a mapping, got the text {overrides!r}; write [{overrides!r}]")
    tree = read_yaml(Path(preset)) if preset else {}
    where = str(preset) if preset else COMMAND_LINE
    pairs = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    for path, value in pairs.items():
        put(tree, path, value)
    places = dict.fromkeys(pairs, "overrides" if isinstance(overrides, Mapping) else COMMAND_LINE)
    return validate(schema, tree, where, given=places | dict(given or {}))


def validate(
    schema: type[Schema], tree: Mapping[str, Any], where: str, *, given: Mapping[str, str] | None = None
) -> Schema:
    """Build ``schema`` from a plain tree by strict JSON rules: a list for a tuple, but no string for a number.

    Args:
        schema: the root dataclass.
        tree: the configuration.
        where: the tree was read, for messages.
        given: where some keys were given instead, by dotted key.

    Raises:
        UserError: names every fault of the tree, one a line.
    """
    from cluster.validation.problems import all_problems, build  # brings pydantic

    tree = _without_empty_sections(schema, tree)
    built, problems = build(schema, tree)
    if built is None:
        from cluster.validation.messages import explain, place_of  # only where something is wrong

        found = [
            explain(problem, place_of(problem, where, given or {}), schema.__name__, keys_at(schema, problem["loc"]))
            for problem in all_problems(schema, tree, problems)
        ]
        raise UserError("\n".join(dict.fromkeys(found)))
    return cast(Schema, built)


def _without_empty_sections(schema: type, tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree without sections that hold nothing, such as ``optim:`` whose lines are all comments."""
    hints = _hints(schema)
    sections = {name for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}
    kept = {name: value for name, value in tree.items() if value is not None or name not in sections}
    return {
        name: _without_empty_sections(hints[name], value) if name in sections and isinstance(value, Mapping) else value
        for name, value in kept.items()
    }


def to_tree(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types: what goes into a snapshot, a preset or the tracker."""
    tree: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return tree


def read_yaml(path: Path) -> dict[str, Any]:
    """A preset as a plain tree. Raises UserError if the file is missing, too large, not YAML, or not a mapping, and for
    aliases and duplicate keys (docs/faults.md, 31, 32).
    """
    import yaml

    if not path.is_file():
        if "=" in path.name:
            raise UserError(f"{path}: a key where the YAML file belongs; give the file first, and the keys behind it")
        raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}{_nearest_preset(path)}")
    if path.stat().st_size > MAX_PRESET_BYTES:
        raise UserError(f"{path}: {path.stat().st_size} bytes; a configuration has at most {MAX_PRESET_BYTES}")
    try:
        tree = deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"{path}: byte 0x{byte:02x} at {error.start} is not UTF-8; save the file as UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        from cluster.validation.messages import look_alikes

        message = " ".join(str(error).replace('"<unicode string>", ', "").split())
        remedy = "; YAML is indented with spaces, not tabs" if r"character '\t'" in message else ""
        raise UserError(f"{path}: {message}{remedy}{look_alikes(path.read_text(encoding='utf-8'))}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds a {type(tree).__name__}, a configuration is a mapping of keys to values")
    return tree


@lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """A text of YAML as a tree, which nobody may change: a study reads the same presets for each of its rows."""
    import yaml

    from cluster.validation.strict_yaml import strict_loader  # brings PyYAML

    return yaml.load(text, Loader=strict_loader())  # noqa: S506  # a subclass of the safe loader


def _nearest_preset(path: Path) -> str:
    """The file of the same folder, else those of conf/, whose name is nearest."""
    for known in (sorted(path.parent.glob("*.yaml")), sorted((ROOT / "conf").glob("*/*.yaml"))):
        files = [file for file in known if file.is_file() and file != path]
        near = difflib.get_close_matches(path.stem, [file.stem for file in files], n=1)
        if near:
            return f"; did you mean {' or '.join(str(file) for file in files if file.stem == near[0])}?"
    return ""
