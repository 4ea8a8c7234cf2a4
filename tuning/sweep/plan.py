"""A sweep resolved and checked, before anything is taken: its space, its experiment, its objective, its trials."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.files.outputs import require_writable_folder
from cluster.machine.resources import ResourcesConfig
from cluster.refusals import Refusals
from cluster.settings import UserError, flatten, put, to_tree, validate
from cluster.tracking.config import store_uri
from data_shards.format.paths import INDEX_NAME
from data_shards.sampling.sampler import check_world
from evaluation.config import EvaluationConfig
from trainers.config import ExperimentConfig, may_differ_on_resume, without_ray_train
from trainers.state.places import absolute, absolute_source
from tuning.own_parts import try_own_parts
from tuning.placement import Need, cores, here, need, threads, wanted
from tuning.sweep.config import SweepConfig, experiment_tree
from tuning.sweep.jobs import Job
from tuning.sweep.objective import check_targets, objective_evaluation, on_split
from tuning.sweep.space import (
    Space,
    Value,
    as_optuna,
    check_space,
    defaults,
    describe,
    ends_of,
    place,
    read_space,
    tried,
)

PLACES = ("data.labelled", "data.unlabelled", "data.cache", "init_from")


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """All that a sweep needs to know."""

    config: SweepConfig
    folder: Path
    space: Space
    base: dict[str, Any]
    """Tree of the experiment that every trial starts from; its places are absolute."""
    experiment: ExperimentConfig
    """The same, validated: the preset that the best is compared with."""
    evaluation: EvaluationConfig
    build: bool
    """Whether the corpus must be built first."""

    @property
    def resources(self) -> ResourcesConfig:
        """Of a trial; one of a single worker trains in its own actor."""
        return without_ray_train(self.experiment).resources

    @property
    def first(self) -> dict[str, Value] | None:
        """The preset as a point of the space, if it lies in it."""
        return defaults(self.space, self.base)

    def job(self, name: str, folder: Path, values: Mapping[str, Value], *, one: Need, seed: int | None = None) -> Job:
        """A run of this sweep in its folder, called ``name`` in the tracker, with values at their dotted paths. With a
        seed it is evaluated on the test split, and nothing stops it.
        """
        tree = place(self.base, values)
        resources, evaluated = self.resources, None if one.alone else one.worker
        home = replace(self.config.tracking, uri=store_uri(self.config.tracking, self.folder), system_metrics_s=0.0)
        put(tree, "tracking", to_tree(replace(home, name=name)))
        put(tree, "resources.threads_per_worker", threads(resources))
        put(tree, "resources.num_workers", resources.num_workers)
        put(tree, "run.dir", str(folder))
        put(tree, "run.keep", 1)
        if seed is not None:
            put(tree, "seed", seed)
        return Job(
            name=name,
            experiment=to_tree(validate(ExperimentConfig, tree, name)),
            evaluation=on_split(self.evaluation, "valid" if seed is None else "test", "cuda" if one.gpus else "cpu"),
            metrics=self.config.objective.metrics,
            parent=str(self.folder),
            metric=self.config.stop.metric,
            evaluation_cpus=evaluated.cpus if evaluated else 0.0,
            evaluation_gpus=evaluated.gpus if evaluated else 0.0,
        )

    def identity(self) -> dict[str, Any]:
        """What makes it this sweep and no other."""
        flat = flatten(to_tree(self.experiment))
        kept = {key: value for key, value in flat.items() if key == "optim.steps" or not may_differ_on_resume(key)}
        settings = self.config.sweep
        return {
            "space": describe(self.space),
            "experiment": kept,
            "objective": to_tree(self.config.objective) | {"shards": None},
            "stop": to_tree(self.config.stop),
            "sweep": {"seed": settings.seed, "sampler": settings.sampler, "startup": settings.startup},
        }


def plan_sweep(config: SweepConfig, where: str, given: Mapping[str, str] | None = None) -> SweepPlan:
    """Resolve a sweep, without taking anything; refuse what cannot be by one message that names it and the remedy.

    Args:
        config: the sweep.
        where: its file, for messages.
        given: where some keys of the experiment were given instead, by dotted key.
    """
    folder = Path(config.sweep.dir).expanduser().absolute()
    refusals = Refusals()
    with refusals.noted():
        require_writable_folder(Path(config.sweep.dir).expanduser(), "sweep.dir")
    _refuse_owned(config, where, refusals)
    space: Space = {}
    with refusals.noted():
        space = read_space(config.space, where)
    base = experiment_tree(config)
    composed = bool(config.corpora) and not flatten(base).get("data.labelled")
    if composed:
        put(base, "data.labelled", str(folder / "shards" / "labelled"))
        second = "unlabelled" if "unlabelled" in config.corpora else "labelled"
        put(base, "data.unlabelled", str(folder / "shards" / second))
    for path in PLACES:
        if isinstance(there := flatten(base).get(path), str):
            put(base, path, absolute_source(there) if path == "init_from" else absolute(there))
    evaluated_on = config.objective.shards or flatten(base).get("data.labelled")
    with refusals.noted():
        evaluation = objective_evaluation(config.objective, absolute(evaluated_on) if evaluated_on else None)
    if not evaluated_on:
        refusals.add(f"{where}: objective.shards is not set, nor data.labelled; give data.labelled=DIR")
    with refusals.noted():
        experiment = validate(ExperimentConfig, base, where, given=given)
        with refusals.noted():
            _check_stop(config, experiment, where)
        try_own_parts(experiment)  # what fails in the preset itself is no fault of the space
        check_space(space, base, where, _check_batch)
    refusals.require_none()
    built = not composed or all((Path(base["data"][name]) / INDEX_NAME).exists() for name in ("labelled", "unlabelled"))
    plan = SweepPlan(
        config=config,
        folder=folder,
        space=space,
        base=base,
        experiment=experiment,
        evaluation=evaluation,
        build=not built,
    )
    if built:
        check_data(plan, where)
    return plan


def check_data(plan: SweepPlan, where: str) -> None:
    """Refuse what only the shards show: columns, splits, and shares that leave no clip."""
    from trainers.checks.start_up import check  # torch is imported here: what the keys alone show is refused before

    check_targets(plan.evaluation)

    def check_tree(tree: Mapping[str, Any]) -> None:
        check(validate(ExperimentConfig, place(tree, {"run.dir": str(plan.folder / "trials")}), where))

    check_tree(plan.base)
    for path, distribution in plan.space.items():
        if path.split(".")[0] in ("data", "views", "augment"):
            for value in {ends_of(distribution)[0], ends_of(distribution)[-1]}:
                try:
                    check_tree(place(plan.base, {path: value}))
                except UserError as error:
                    raise UserError(f"{where}: space: {path} = {value} is in the space, but {error}") from None


def describe_plan(plan: SweepPlan) -> dict[str, Any]:
    """What --dry-run prints; two steps of the preset are timed where its shards are there."""
    import optuna

    from tuning.sweep.journal import SAMPLERS

    config, settings = plan.config, plan.config.sweep
    one = need(plan.experiment, here(cores(plan.experiment)), "a trial")
    at_a_time = wanted(settings.concurrency, plan.experiment)
    sampler = SAMPLERS[settings.sampler](settings.seed, settings.startup)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    asked = optuna.create_study(sampler=sampler, directions=["maximize"] * len(config.objective.metrics)).ask(
        {path: as_optuna(distribution) for path, distribution in plan.space.items()}
    )
    estimate: dict[str, Any] = {"hours": None, "basis": "unknown until the corpus is built"}
    if not plan.build:
        from trainers.checks.dry_run import plan as plan_run

        unused = place(plan.base, {"run.dir": str(plan.folder / "trials")})
        run = plan_run(validate(ExperimentConfig, unused, "the preset"))
        confirming = 2 * settings.confirm_seeds
        steps = plan.experiment.optim.steps * (settings.trials + confirming)
        hours = run["worker"]["seconds_a_step"] * steps / at_a_time / 3600
        estimate = {
            "hours": float(f"{hours:.3g}"),
            "basis": f"{settings.trials} whole trials and {confirming} runs that confirm, {at_a_time} at a time; "
            "early stopping shortens it, evaluation and start-up lengthen it; " + run["estimate"]["basis"],
        }
    return {
        "space": describe(plan.space),
        "sample": tried(asked.params),
        "first": "the preset" if plan.first else "drawn: the preset lies outside the space",
        "trials": settings.trials,
        "at_a_time": at_a_time,
        "a_trial": {
            "steps": plan.experiment.optim.steps,
            "workers": plan.resources.num_workers,
            "cores": one.cpus,
            "gpus": one.gpus,
        },
        "objective": list(config.objective.metrics),
        "evaluated": {"split": "valid", "shards": plan.evaluation.data.shards},
        "stop": to_tree(config.stop),
        "confirm": f"{settings.confirm_seeds} fresh seeds of the best and of the preset, on the test split",
        "dir": str(plan.folder),
        "experiment": {
            name: part for name, part in to_tree(plan.experiment).items() if name not in ("run", "tracking")
        },
        "estimate": estimate,
    }


def _check_batch(experiment: ExperimentConfig) -> None:
    check_world(experiment.data.batch, max(1, experiment.resources.num_workers))
    try_own_parts(experiment)


def _check_stop(config: SweepConfig, experiment: ExperimentConfig, where: str) -> None:
    stop, steps = config.stop, experiment.optim.steps
    if stop.rule == "none":
        return
    if stop.metric.startswith("quick/") and not experiment.run.quick_every:
        every = max(1, steps // 4)
        raise UserError(
            f"{where}: stop.metric={stop.metric} is measured every run.quick_every steps, which is 0; set experiment: "
            f"run: {{quick_every: {every}, snapshot_every: {every}}}, or stop.rule=none"
        )
    if stop.grace_steps >= steps:
        raise UserError(f"{where}: stop.grace_steps={stop.grace_steps} must be < optim.steps={steps}, or nothing stops")


def _refuse_owned(config: SweepConfig, where: str, refusals: Refusals) -> None:
    for key in flatten(config.experiment):
        if key.startswith("tracking."):
            refusals.add(f"{where}: write {key} beside experiment, for the sweep and its trials together")
        if key in ("run.dir", "run.keep"):
            refusals.add(f"{where}: {key} is the sweep's; trials lie in sweep.dir with one snapshot each")
