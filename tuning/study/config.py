"""A study as data: rows of one experiment, how each is evaluated, and what the paper found.

`conf/study/NAME.yaml` holds the paper's grid. Its scales replace what a smaller machine cannot do; nothing else
differs, and `tuning.study.plan` lists what does.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.settings import Config, UserError
from data_shards.sources.synthetic.corpus import SyntheticConfig

COLUMNS, SPACES = "columns", "spaces"
"""As a plot's x: the table's columns along the bottom, a curve a row; or a panel a metric, with the spaces of the
encoder along the bottom and a dot a row."""
Overrides = dict[str, Any]
"""Dotted keys of an experiment (or an evaluation) and their values; ``$NAME`` stands for a set of shards."""
_GRAMMAR = re.compile(r"(?P<name>.+?)(?: in (?P<space>\S+))?(?: (?P<change>change )?under (?P<condition>.+))?")


@dataclass(frozen=True, kw_only=True)
class Axis(Config):
    """One thing that is varied."""

    name: str
    """What its levels are levels of."""
    levels: dict[str, Overrides]
    """Level → keys of the experiment."""

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError(f"axis {self.name} has no levels")


@dataclass(frozen=True, kw_only=True)
class Start(Config):
    """A run that rows start from: trained once a seed, before them, and no row itself."""

    pretrain: str
    """A preset of conf/pretrain."""
    set: Overrides = field(default_factory=dict)
    """Its keys."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Config):
    """One evaluation of every row."""

    preset: str
    """A preset of conf/evaluation."""
    shards: str = "$evaluation"
    """The set it is evaluated on."""
    rows: tuple[str, ...] = ()
    """Rows that it evaluates; empty: all."""
    metrics: dict[str, str]
    """Column of the table → metric of the report: ``tags/ap``; ``tags/ap in pitch`` where the evaluation's ``spaces``
    have pitch; ``tags/ap under severity 3`` where robustness is asked for, or its relative change from clean audio,
    ``tags/ap change under reverb``; ``distance/semitones@±4`` where equivariance is asked for: the cosine distance of
    music moved by so much, over the mean distance between clips."""
    set: Overrides = field(default_factory=dict)
    """Keys of the evaluation."""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError(f"{self.preset}: no metrics")


@dataclass(frozen=True, kw_only=True)
class Claim(Config):
    """A statement on two rows, or on two columns of one, made before the study is run."""

    statement: str
    """The statement in words."""
    metric: str
    """Column that decides."""
    row: str
    """Row that is compared."""
    over: str
    """Row it is compared with; ``untrained`` is the network of the first row at its first weights."""
    over_metric: str = ""
    """Column of ``over`` that it is compared with, such as another space of the same row; empty for ``metric``."""
    sign: Literal["higher", "lower"]
    """The direction that was claimed."""
    more_seeds: str = ""
    """What runs of more seeds gave, shown beside the verdict of one; empty where none were made."""

    @property
    def baseline(self) -> str:
        """Column of ``over`` that it is compared with."""
        return self.over_metric or self.metric


@dataclass(frozen=True, kw_only=True)
class Plot(Config):
    """Columns as curves over an axis; without it every row is a dot."""

    x: str
    """Axis along the bottom, ``columns``, or ``spaces``: a panel a metric, in each space that has a column."""
    lines: str | None = None
    """Axis with a curve for each level."""


@dataclass(frozen=True, kw_only=True)
class Scale(Config):
    """What a size of machine changes; a field that is not given stays the paper's."""

    about: str
    """For whom it is, and what it cannot show."""
    pretrain: str | None = None
    """Another preset of conf/pretrain."""
    set: Overrides = field(default_factory=dict)
    """Laid over the study's own ``set``."""
    axes: tuple[Axis, ...] | None = None
    rows: dict[str, Overrides] | None = None
    """Other rows beside those of the axes."""
    evaluations: tuple[Evaluation, ...] | None = None
    claims: tuple[Claim, ...] | None = None
    starts: dict[str, Start] | None = None
    seeds: int | None = None
    """Another number of runs a row."""
    corpora: dict[str, SyntheticConfig] = field(default_factory=dict)
    """Composed and rendered music by the name of a set, for machines without the papers' audio."""


@dataclass(frozen=True, kw_only=True)
class Study(Config):
    """A table or figure of a paper, or a study of scale."""

    title: str
    """Title of the table."""
    source: str
    """Paper and section."""
    pretrain: str
    """A preset of conf/pretrain that every row starts from."""
    set: Overrides = field(default_factory=dict)
    """Keys of every row."""
    axes: tuple[Axis, ...] = ()
    """Rows are all combinations of their levels, the last axis fastest."""
    rows: dict[str, Overrides] = field(default_factory=dict)
    """Rows beside those of the axes."""
    starts: dict[str, Start] = field(default_factory=dict)
    """Runs that rows start from, by name: ``init_from: $NAME`` in a row is the one of its seed."""
    evaluations: tuple[Evaluation, ...] = ()
    metrics: dict[str, str] = field(default_factory=dict)
    """Column → metric of metrics.jsonl; the median of the second half of the run's steps."""
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    """Row → column → the paper's value."""
    notes: tuple[str, ...] = ()
    """What a reader of the paper's values must know."""
    claims: tuple[Claim, ...] = ()
    plot: Plot | None = None
    project: bool = False
    """Fit the cost model to the measured steps and project it to more workers."""
    seeds: int = 1
    """Runs a row, of different seeds."""
    scales: dict[str, Scale]
    """``paper``, ``small``, ``tiny``."""

    def __post_init__(self) -> None:
        if not self.axes and not self.rows:
            raise ValueError("a study needs axes or rows")
        if not self.evaluations and not self.metrics:
            raise ValueError("a study needs evaluations or metrics")
        self.require(">= 1", "seeds")
        if "paper" not in self.scales:
            raise ValueError("scales needs paper")


@dataclass(frozen=True, kw_only=True)
class StudySettings(Config):
    """Keys ``study.*`` of the command line: where and how, never what."""

    dir: str = "outputs/study"
    """Folder of the rows and of the table. The same folder and command resume it."""
    seeds: int | None = None
    """Runs a row; none: the study's own."""
    parallel: int | None = None
    """Rows at once, each in a process of its own, ≥ 1; none: one here, on Ray as many as fit."""
    machine_wait_s: float = 600.0
    """On a cluster that lost machines, longest wait for others where no row fits what is left, seconds, ≥ 0; then those
    rows are named in the table."""
    sets: dict[str, str] = field(default_factory=dict)
    """Sets of shards by name: study.sets.labelled=DIR."""

    def __post_init__(self) -> None:
        self.require(">= 0", "machine_wait_s")
        self.require(">= 1", "parallel", "seeds")


@dataclass(frozen=True, kw_only=True)
class StudyKeys(Config):
    """`StudySettings` where the command line has them."""

    study: StudySettings = field(default_factory=StudySettings)
    """Where and how a study runs."""


@dataclass(frozen=True)
class Metric:
    """What a column shows."""

    name: str
    """Of the report: ``task/metric``."""
    space: str = ""
    """Space of the encoder; empty for its whole embedding."""
    condition: str = ""
    """What the audio is corrupted by; empty for clean audio."""
    change: bool = False
    """The relative change from clean audio instead of the value."""

    def on(self, condition: str) -> str:
        """What the report calls it under a condition."""
        return f"{self.name} under {condition}" if condition else self.name


def parse_metric(text: str) -> Metric:
    """Read a column's metric; raises UserError for parts in another order.

    >>> parse_metric("tags/ap in pitch change under reverb")
    Metric(name='tags/ap', space='pitch', condition='reverb', change=True)
    >>> parse_metric("key/weighted@10 in pitch").space, parse_metric("tags/ap under severity 3").condition
    ('pitch', 'severity 3')
    """
    found = _GRAMMAR.fullmatch(text)
    if found is None or " in " in f"{found['name']} {found['condition']}":
        raise UserError(f"metric {text!r}: the order is NAME in SPACE change under CONDITION, each at most once")
    return Metric(found["name"], found["space"] or "", found["condition"] or "", bool(found["change"]))
