"""The search space: a distribution for each dotted path of the experiment, checked before anything starts.

In YAML a path and one line, ``loss.temperature: {log_uniform: [0.02, 0.5]}``; the kinds are those of `KINDS`.
"""

import difflib
import itertools
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from cluster.refusals import Refusals
from cluster.settings import Config, UserError, put, to_tree, validate
from trainers.config import ExperimentConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = float | int | str | bool | None
OWNED = ("run", "tracking", "resources", "seed", "init_from")
"""Sections that the sweep itself sets, or whose change makes no other experiment."""
DIGITS = 6
"""Significant digits of a sampled number: what is tried can be typed."""


@dataclass(frozen=True, kw_only=True)
class Uniform(Config):
    """Any number between two, each as likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"its ends must be finite, got {self.low:g} and {self.high:g}")
        if self.low >= self.high:
            raise ValueError(f"its low end must be < its high end, got {self.low:g} and {self.high:g}; swap them")


@dataclass(frozen=True, kw_only=True)
class LogUniform(Uniform):
    """Any number between two, each order of magnitude as likely: for rates and temperatures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise ValueError(f"its low end must be > 0 (a logarithm), got {self.low:g}; take uniform, or a low end > 0")


@dataclass(frozen=True, kw_only=True)
class Quantised(Uniform):
    """``low``, ``low`` + ``step``, … up to ``high``."""

    step: float

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high, step = self.low, self.high, self.step
        if step <= 0:
            raise ValueError(f"its step must be > 0, got {step:g}")
        if not _is_whole((high - low) / step):
            raise ValueError(
                f"its high end must be low + a whole number of steps, got {low:g}, {high:g}, step {step:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Whole(Quantised):
    """A whole number from ``low`` to ``high``, both included, by steps."""

    low: int
    high: int
    step: int = 1


@dataclass(frozen=True, kw_only=True)
class Choice(Config):
    """One of several values, without an order."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if len(set(map(repr, self.values))) < max(2, len(self.values)):
            raise ValueError(f"needs two or more different values, got {list(self.values)}")


Distribution = Uniform | Choice
KINDS: dict[str, type[Distribution]] = {
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "int": Whole,
    "quantised": Quantised,
    "choice": Choice,
}
Space = dict[str, Distribution]
"""Dotted path → distribution, in the order of the file."""


def as_optuna(distribution: Distribution) -> "BaseDistribution":
    """As Optuna samples it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, Choice):
        return CategoricalDistribution(distribution.values)
    if isinstance(distribution, Whole):
        return IntDistribution(distribution.low, distribution.high, step=distribution.step)
    step = distribution.step if isinstance(distribution, Quantised) else None
    log = isinstance(distribution, LogUniform)
    return FloatDistribution(distribution.low, distribution.high, log=log, step=step)


def ends_of(distribution: Distribution) -> tuple[Value, ...]:
    """The values that decide whether all fit: every one, where there are few."""
    if isinstance(distribution, Choice):
        return distribution.values
    low, high = distribution.low, distribution.high
    if isinstance(distribution, Whole):
        values = range(distribution.low, distribution.high + 1, distribution.step)
        return tuple(values) if len(values) <= 32 else (*values[:2], values[-1])
    if isinstance(distribution, Quantised) and (count := round((high - low) / distribution.step) + 1) <= 32:
        return tuple(_rounded(low + i * distribution.step) for i in range(count))
    return (low, high)


def read_space(tree: Mapping[str, Mapping[str, Any]], where: str) -> Space:
    """Distributions from their YAML form.
    The UserError names the path, what is impossible in it, and how it is written.

    >>> read_space({"data.b_s": {"uniform": [0.1, 0.9]}}, "sweep.yaml")
    {'data.b_s': Uniform(low=0.1, high=0.9)}
    """
    if not tree:
        raise UserError(f"{where}: space is empty; give it a line like loss.temperature: {{log_uniform: [0.02, 0.5]}}")
    refusals, space = Refusals(), {}
    for path, spec in tree.items():
        with refusals.noted():
            space[path] = _read(path, spec, f"{where}: space.{path}")
    refusals.require_none()
    return space


def _read(path: str, spec: Mapping[str, Any], where: str) -> Distribution:
    forms = "{uniform: [low, high]}, {log_uniform: [low, high]}, {int: [low, high]}, {int: [low, high, step]}, "
    forms += "{quantised: [low, high, step]} or {choice: [values]}"
    if path.split(".")[0] in OWNED:
        raise UserError(f"{where}: the sweep sets {', '.join(OWNED)} itself; search over what changes the experiment")
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise UserError(f"{where}: is written {forms}; got {spec!r}")
    (kind, numbers), *_ = spec.items()
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KINDS)}"
        raise UserError(f"{where}: unknown distribution {kind}; {hint}")
    schema = KINDS[kind]
    if not isinstance(numbers, list):
        raise UserError(f"{where}: {kind} takes a list; write {forms}")
    if schema is Choice:
        return _build(schema, {"values": numbers}, f"{where}: {kind}")
    names = [field.name for field in fields(schema)]
    if not 2 <= len(numbers) <= len(names) or (schema is Quantised and len(numbers) < 3):
        raise UserError(f"{where}: {kind} takes [{', '.join(names)}], got {numbers}")
    return _build(schema, dict(zip(names, numbers, strict=False)), f"{where}: {kind}")


def _build(schema: type[Distribution], tree: dict[str, Any], where: str) -> Distribution:
    try:
        return validate(schema, tree, where)
    except UserError as error:
        raise UserError(str(error).splitlines()[0]) from None  # both ends wrong is one mistake


def tried(values: Mapping[str, Value]) -> dict[str, Value]:
    """Sampled values as a run takes them: numbers to `DIGITS` significant digits."""
    return {path: _rounded(value) if isinstance(value, float) else value for path, value in values.items()}


def place(tree: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """A configuration tree with sampled values at their paths."""
    placed = deepcopy(dict(tree))
    for path, value in tried(values).items():
        put(placed, path, value)
    return placed


def check_space(space: Space, base: Mapping[str, Any], where: str, check: Callable[[ExperimentConfig], object]) -> None:
    """Build the configuration at every end of every distribution, alone and in pairs, and let ``check`` refuse what
    only a whole configuration shows, such as workers that do not divide its batch.

    Pairs find what two paths forbid together: a least above a greatest, a share of a batch that is no clip.
    The UserError names the path, the value and the remedy.
    """
    refusals = Refusals()
    for path, distribution in space.items():
        with refusals.noted():  # of the values of one path the first that does not fit
            for value in ends_of(distribution):
                _check_values({path: value}, distribution, base, where, check)
    refusals.require_none()
    for (one, first), (two, second) in itertools.combinations(space.items(), 2):
        if {one.split(".")[0]} != {two.split(".")[0]}:
            continue  # sections are independent but for what the single ends have shown
        for value, other in itertools.product(_extremes(first), _extremes(second)):
            _check_values({one: value, two: other}, None, base, where, check)


def _extremes(distribution: Distribution) -> tuple[Value, ...]:
    ends = ends_of(distribution)
    return ends if isinstance(distribution, Choice) else (ends[0], ends[-1])


def _check_values(
    values: Mapping[str, Value],
    alone: Distribution | None,
    base: Mapping[str, Any],
    where: str,
    check: Callable[[ExperimentConfig], object],
) -> None:
    try:
        check(validate(ExperimentConfig, place(base, values), where))
    except UserError as error:
        shown = " with ".join(f"{path} = {value}" for path, value in values.items())
        message = str(error).removeprefix(f"{where}: ")
        hint = "; take {int: [low, high]} for a whole number" if alone and "valid integer" in message else ""
        if "unknown key" in message:
            raise UserError(f"{where}: space: {message}") from None
        raise UserError(f"{where}: space: {shown} is in the space, but {message}{hint}") from None


def defaults(space: Space, base: Mapping[str, Any]) -> dict[str, Value] | None:
    """The preset's own values as a point of the space; None where one of them lies outside."""
    flat = to_tree(validate(ExperimentConfig, base, "the preset"))
    point: dict[str, Value] = {}
    for path, distribution in space.items():
        node: Any = flat
        for name in path.split("."):
            node = node.get(name) if isinstance(node, Mapping) else None
        if not _holds(distribution, node):
            return None
        point[path] = node
    return point


def _holds(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, Choice):
        return any(value == known and type(value) is type(known) for known in distribution.values)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    step = getattr(distribution, "step", None)
    return step is None or _is_whole((value - distribution.low) / step)


def describe(space: Space) -> dict[str, dict[str, Any]]:
    """The space as plain JSON types: what identifies a sweep, and what --dry-run prints."""
    names = {schema: kind for kind, schema in KINDS.items()}
    return {
        path: {names[type(distribution)]: [part for value in asdict(distribution).values() for part in _listed(value)]}
        for path, distribution in space.items()
    }


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _is_whole(number: float) -> bool:
    return math.isclose(number, round(number), abs_tol=1e-9)
