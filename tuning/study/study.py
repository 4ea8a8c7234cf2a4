"""The papers' tables and the studies of scale: declared grids, run row by row, beside the published values.

Reading order: `config` (what a study is) → `plan` (its runs) → `runs` (training and evaluation; `on_ray` on a cluster)
→ `results` (the table) → `report` (its files).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.files.locks import sole_writer
from cluster.machine.process import num_cores
from cluster.machine.resources import num_gpus
from cluster.progress import Progress
from cluster.ray_runtime.session import has_cluster
from cluster.ray_runtime.shared import refuse_own_folder_of_a_job, require_shared
from cluster.settings import PreemptedError, RunError, to_tree
from cluster.tracking import Tracker
from cluster.tracking.config import TrackingConfig, store_uri
from cluster.tracking.pages import NOTE, curve_name, description, evaluation_name, picture, trials_link
from trainers.config import ExperimentConfig
from trainers.encoders.config import PROJECTION_WIDTH
from trainers.inference.frozen import load_encoder
from tuning.placement import here
from tuning.study.config import StudySettings, parse_metric
from tuning.study.plan import Plan, Run
from tuning.study.report import write_study
from tuning.study.results import collect, late_median, study_tree
from tuning.study.runs import Ended, Runner, in_pool, is_done, run_all
from tuning.study.scaling import Step, project
from tuning.study.sets import build_corpora, check_sets, is_there

COMPARE = trials_link("Compare the runs")
LAST_WORDS_S = 1.0
"""How long a study that was asked to stop waits for MLflow; `counterpoint replay` sends the rest."""


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A finished study."""

    tree: dict[str, Any]
    """What study.json holds."""
    files: dict[str, Path]
    tracking: str


def run_study(plan: Plan, settings: StudySettings, *, progress: Progress, ray: bool = False) -> StudyResult:
    """Run what is not done yet, and write the table of what is.

    Args:
        plan: of `tuning.study.plan.plan_study`.
        settings: folder, rows at once.
        progress: shows every stage.
        ray: rows run on Ray: on the job's cluster, that of RAY_ADDRESS, or a session of this machine.

    Raises:
        UserError: if another process runs in the study's folder; if a set leaves a row no clip; if the cluster can
            never hold a row, or one of its machines does not see the folder, the shards or MLflow.
        PreemptedError: if it was asked to stop; the same command resumes.
        RunError: if no row could be finished.
    """
    folder = Path(settings.dir).absolute()
    with sole_writer(folder, "choose another study.dir"):
        checked = check_sets(plan)
        plan = _tracked(plan, folder)
        with _runner(plan, settings, folder, ray=ray) as runner:
            build_corpora(plan, folder / "shards", progress)
            check_sets(plan, checked)
            return _run_alone(plan, runner, folder, progress)


@contextmanager
def _runner(plan: Plan, settings: StudySettings, folder: Path, *, ray: bool) -> Iterator[Runner]:
    """Where the runs are: a pool of this machine, or a session of Ray that holds each of them."""
    if not ray:
        yield in_pool(folder, settings.parallel or 1)
        return
    from tuning.study import on_ray

    refuse_own_folder_of_a_job("study.dir", folder)
    with on_ray.session_of(plan, settings) as session:
        needs = on_ray.needs_of(plan, session.machines)
        if not session.local:
            require_shared(on_ray.places_of(plan, folder), session.machines)
        most = on_ray.most_at_once(settings, plan, local=session.local)
        yield on_ray.on_ray(folder, needs, most=most, wait_s=settings.machine_wait_s)


def _run_alone(plan: Plan, runner: Runner, folder: Path, progress: Progress) -> StudyResult:
    tracking = plan.runs[0].experiment.tracking
    with Tracker(replace(tracking, name=f"{plan.study.title} ({plan.scale})"), folder) as tracker:
        tracker.params({"study": plan.study.title, "scale": plan.scale, "runs": len(plan.runs)})
        tracker.params({f"reduced.{key}": here for key, (_, here) in plan.reduced.items()})
        tracker.view(*columns_of(plan))
        tracker.tags({NOTE: COMPARE})
        before = run_all(replace(plan, runs=plan.starts), folder, runner=runner, progress=progress)
        ended = before if before.stopped else run_all(plan, folder, runner=runner, progress=progress)
        if ended.stopped:
            tracker.close("KILLED", wait_s=LAST_WORDS_S)
            raise PreemptedError(f"stopped; the runs saved themselves in {folder}/rows; the same command resumes")
        tree = study_tree(plan, collect(plan), _reasons(plan, before) | _reasons(plan, ended))
        if plan.study.project and tree["rows"]:
            tree["projection"] = project(measured_steps(plan), places=num_gpus() or num_cores())
        if not tree["rows"]:
            raise RunError(f"no row could be finished: {'; '.join(tree['failed'].values())}")
        files = write_study(tree, folder, plan.study.plot)
        for file in files.values():
            tracker.artifact(file)
        tracker.tags({NOTE: description(COMPARE, picture("study.png"), files["md"].read_text(encoding="utf-8"))})
        return StudyResult(tree=tree, files=files, tracking=tracker.trials_url)


def columns_of(plan: Plan) -> tuple[list[str], list[str]]:
    """What tells the rows of a study apart in the tracker: curves with what the study reports, keys that rows set."""
    evaluated = dict.fromkeys(
        evaluation_name(parse_metric(metric).name, Path(one.preset).stem)
        for one in plan.study.evaluations
        for metric in one.metrics.values()
    )
    logged = [curve_name(metric) for metric in plan.study.metrics.values()]
    keys = dict.fromkeys(key for row in plan.rows for key in row.overrides)
    return [*evaluated, *logged] or [curve_name("loss")], list(keys)


def outline(plan: Plan, settings: StudySettings, *, ray: bool = False) -> dict[str, Any]:
    """What a study would do: rows and their keys, what the scale reduces, steps, time; plain JSON types.

    Shares, memory and time are measured on two real steps of the first run, where its shards are there. On Ray also
    where each run would lie on the machines that are there.
    Raises UserError if a set leaves a row no clip, or the cluster can never hold a row.
    """
    from trainers.checks.dry_run import plan as plan_run

    check_sets(plan)
    placement = {"placement": _placement(plan, settings)} if ray else {}
    first = plan.runs[0].experiment
    tree: dict[str, Any] = {
        "title": plan.study.title,
        "source": plan.study.source,
        "scale": {plan.scale: plan.about},
        "reduced": {key: {"paper": there, "here": here} for key, (there, here) in plan.reduced.items()},
        "rows": {row.name: row.overrides for row in plan.rows},
        "runs": len(plan.runs),
        "done": sum(is_done(run) for run in plan.runs),
        "steps": sum(run.experiment.optim.steps for run in plan.runs),
        "evaluations": [one.preset for one in plan.study.evaluations],
        "claims": [claim.statement for claim in plan.study.claims],
    } | placement
    if not is_there(first):
        return tree | {"first run": to_tree(first), "estimate": "none: its shards are not there yet"}
    outline = plan_run(first)
    seconds = outline["worker"]["seconds_a_step"] / _views(first)
    left = [run.experiment for run in plan.runs if not is_done(run)]
    hours = sum(one.optim.steps * _views(one) for one in left) * seconds / 3600
    estimate = {
        "hours": round(hours, 3),
        "basis": "seconds a view of the first run's steps; evaluation is not included",
    }
    return tree | {"first run": outline, "estimate": estimate}


def _placement(plan: Plan, settings: StudySettings) -> dict[str, Any]:
    """Where the runs would lie. A cluster is asked for its machines; no session is started for that of this machine."""
    from tuning.study import on_ray

    if has_cluster():
        with on_ray.session_of(plan, settings) as session:
            machines = session.machines
    else:
        machines = here(on_ray.local_cores(settings, plan))
    most = on_ray.most_at_once(settings, plan, local=not has_cluster())
    return on_ray.preview(plan, on_ray.needs_of(plan, machines), machines, most)


def _views(config: ExperimentConfig) -> int:
    return config.data.batch * config.views.count


def measured_steps(plan: Plan) -> list[Step]:
    """The steps of all finished runs, median seconds of their second half."""
    steps = []
    for run in plan.runs:
        if not is_done(run):
            continue
        config = run.experiment
        encoder = load_encoder(run.folder, trust_code=True)
        steps.append(
            Step(
                world=max(1, config.resources.num_workers),
                batch=config.data.batch,
                views=config.views.count,
                width=(config.head.width or PROJECTION_WIDTH) * (1 + len(config.head.variant)),
                parameters=sum(weight.numel() for weight in encoder.parameters()),
                seconds=late_median(run, "step_s"),
            )
        )
    return steps


def _tracked(plan: Plan, folder: Path) -> Plan:
    """All runs in one store: by default each would have one beside its own folder."""

    def here(config: ExperimentConfig) -> ExperimentConfig:
        tracking: TrackingConfig = replace(config.tracking, uri=store_uri(config.tracking, folder))
        return replace(config, tracking=tracking)

    def tracked(runs: tuple[Run, ...]) -> tuple[Run, ...]:
        return tuple(replace(run, experiment=here(run.experiment)) for run in runs)

    return replace(plan, runs=tracked(plan.runs), starts=tracked(plan.starts))


def _reasons(plan: Plan, ended: Ended) -> dict[str, str]:
    runs = {run.folder: f"{run.row}, seed {run.seed}" for run in (*plan.starts, *plan.runs)}
    return {runs[folder]: reason for folder, reason in ended.failed.items()}
