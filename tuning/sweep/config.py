"""What a sweep is: an experiment, the space around it, what is maximised, when a trial is stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.settings import COMMAND_LINE, ROOT, Config, UserError, flatten, parse_overrides, put, read_yaml, validate
from cluster.tracking.config import TrackingConfig
from data_shards.sources.synthetic.corpus import SyntheticConfig

SECTIONS = ("sweep", "objective", "stop", "preset", "corpora", "space")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Config):
    """What is maximised: metrics of a frozen encoder on clips of the validation split."""

    evaluation: str = "conf/evaluation/quickstart.yaml"
    """Preset whose tasks are known; only those of ``metrics`` are run."""
    metrics: tuple[str, ...] = ("tags/ap",)
    """``task/metric``; all are better when higher. Several make a front."""
    shards: str | None = None
    """Shards with the tasks' columns; none: those of data.labelled."""
    seeds: int = 3
    """Heads trained per probe, > 0."""

    def __post_init__(self) -> None:
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics must be one or more different names, got {list(self.metrics)}")
        if any("/" not in metric for metric in self.metrics):
            raise ValueError(f"metrics are written task/metric, such as tags/ap, got {list(self.metrics)}")
        self.require("> 0", "seeds")


@dataclass(frozen=True, kw_only=True)
class StopConfig(Config):
    """When a running trial stops early: compared with the others at the same step on a metric of metrics.jsonl."""

    rule: Literal["asha", "median", "none"] = "asha"
    """asha: only the better 1/``reduction`` go on past each rung; median: those below the median of the others stop."""
    metric: str = "quick/knn"
    """Column of metrics.jsonl. It must mean the same in every trial: a loss does not where its temperature is swept."""
    mode: Literal["max", "min"] = "max"
    """Whether more of it is better."""
    grace_steps: int = 0
    """Steps that every trial may take, ≥ 0; 0 = a quarter of optim.steps."""
    reduction: int = 2
    """ASHA's factor between rungs, ≥ 2."""
    min_trials: int = 3
    """Trials that a median needs, ≥ 1."""

    def __post_init__(self) -> None:
        self.require(">= 0", "grace_steps")
        self.require(">= 2", "reduction")
        self.require(">= 1", "min_trials")


@dataclass(frozen=True, kw_only=True)
class SettingsConfig(Config):
    """Keys ``sweep.*`` of the command line."""

    trials: int = 20
    """Trials in all, ≥ 1; raised on a finished sweep it goes on."""
    dir: str = "outputs/sweep"
    """Folder of the sweep: study, trials, best.yaml. The same folder and command resume it."""
    seed: int = 0
    """Decides what is sampled."""
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    """tpe: one or several objectives; nsga2: for several; random: the baseline of both."""
    startup: int = 8
    """Trials drawn at random before TPE models what it has seen, or the population of NSGA-II; ≥ 1."""
    concurrency: int = 0
    """Trials at a time, ≥ 0; 0 = as many as the cores, or the GPUs that they use, allow."""
    retries: int = 1
    """Times a crashed trial is started again from its last snapshot, ≥ 0."""
    confirm_seeds: int = 3
    """Fresh seeds on which the best and the preset are run and evaluated on the test split, ≥ 0; 0 = not at all."""

    def __post_init__(self) -> None:
        self.require(">= 1", "trials", "startup")
        self.require(">= 0", "seed", "concurrency", "retries", "confirm_seeds")


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Config):
    """One sweep, as conf/sweep/NAME.yaml declares it."""

    preset: str | None = None
    """Preset of conf/pretrain that is varied."""
    experiment: dict[str, Any] = field(default_factory=dict)
    """Differences of every trial from the preset: the tree of `counterpoint pretrain`."""
    corpora: dict[str, SyntheticConfig] = field(default_factory=dict)
    """``labelled``, and ``unlabelled`` if it is another: tracks composed below ``sweep.dir`` where data.labelled is not
    given."""
    space: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    """Dotted path → ``{kind: [numbers]}``."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    sweep: SettingsConfig = field(default_factory=SettingsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Where the sweep and its trials are tracked."""

    def __post_init__(self) -> None:
        if self.corpora and not {"labelled"} <= set(self.corpora) <= {"labelled", "unlabelled"}:
            raise ValueError(f"corpora are called labelled and unlabelled, got {', '.join(self.corpora)}")
        if self.sweep.sampler == "nsga2" and len(self.objective.metrics) < 2:
            raise ValueError("sweep.sampler=nsga2 is for several objective.metrics; take tpe for one")


def load_sweep(path: Path, overrides: Sequence[str]) -> SweepConfig:
    """A sweep from its file; overrides of ``sweep.*``, ``objective.*``, ``stop.*`` and ``tracking.*`` are its own.

    Every other dotted key is the experiment's, as on the command line of ``pretrain``.
    The UserError names the file, the key and the remedy.
    """
    tree = read_yaml(path)
    tree["experiment"] = tree.get("experiment") or {}
    pairs = parse_overrides(overrides)
    given = dict.fromkeys(pairs, COMMAND_LINE)
    for key, value in pairs.items():
        head = key.split(".")[0]
        if head == "space":
            raise UserError(f"{key}: the space is set in {path}; write it there")
        if head in SECTIONS or head == "tracking":
            put(tree, key, value)
        elif head == "experiment":
            raise UserError(f"{key}: write {key.removeprefix('experiment.')}=…, as for pretrain")
        else:
            put(tree["experiment"], key, value)
    try:
        return validate(SweepConfig, tree, str(path), given=given)
    except UserError as error:
        raise UserError("\n".join([str(error), *_also_wrong(tree, str(path), given)])) from None


def _also_wrong(tree: Mapping[str, Any], where: str, on_command_line: Mapping[str, str]) -> list[str]:
    """What is wrong in the experiment of a sweep whose own keys are wrong: one message names all."""
    from trainers.config import ExperimentConfig

    preset, given = tree.get("preset"), tree["experiment"]
    if not isinstance(given, dict) or not isinstance(preset, str | None):
        return []
    try:
        tree = experiment_tree(SweepConfig(preset=preset, experiment=given))
        validate(ExperimentConfig, tree, where, given=on_command_line)
    except UserError as error:
        return [str(error)]
    return []


def experiment_tree(config: SweepConfig) -> dict[str, Any]:
    """The tree that every trial starts from: the preset with the sweep's differences."""
    base = read_yaml(_found(config.preset)) if config.preset else {}
    for key, value in flatten(config.experiment).items():
        put(base, key, value)
    return base


def _found(preset: str) -> Path:
    """A preset by its path from here, or from the checkout."""
    return Path(preset) if Path(preset).exists() else ROOT / preset


def read_evaluation(config: ObjectiveConfig) -> Mapping[str, Any]:
    """The tree of the objective's evaluation preset."""
    return read_yaml(_found(config.evaluation))
