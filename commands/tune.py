"""`counterpoint quickstart`, `sweep` and `study`: what uses all the other packages."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.imports import uncollected
from cluster.settings import COMMAND_LINE, ROOT, PreemptedError, load_config, parse_overrides
from commands.console import (
    AsJson,
    DryRun,
    Overrides,
    console,
    made,
    positional,
    print_json,
    progress,
    quoted,
    say,
    show,
    then,
)


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of everything it makes.")] = Path("outputs/quickstart"),
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Synthetic music, shards, pretraining on two workers, evaluation, MLflow: minutes on two cores."""
    from trainers.config import ExperimentConfig

    given = parse_overrides(overrides or [])
    config = load_config(ExperimentConfig, ROOT / "conf/pretrain/quickstart.yaml", overrides or [])  # before torch
    with uncollected():
        from tuning.quickstart import run_quickstart

    result = run_quickstart(out, given, progress=progress(as_json=as_json))
    files = {"report": out / "report.json", "page": out / "report.html", "snapshot": result.snapshot}
    if as_json:
        times = {"seconds": dict(result.seconds), "cpu_seconds": dict(result.cpu_seconds)}
        print_json({**files, "tracking": result.tracking, **times})
        return
    console.print(result.report.table())
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in result.seconds.items())
    console.print(f"Time: {stages}.", highlight=False)
    processes = ", ".join(f"{kind} {seconds:.0f} s" for kind, seconds in result.cpu_seconds.items())
    total = sum(result.cpu_seconds.values())
    console.print(f"Processor time: {total:.0f} s, of which {processes}.", highlight=False)
    made(**files, tracking=result.tracking)
    trusted = ["--trust-code"] * bool(config.own_parts())
    then(
        "counterpoint ui",
        quoted("counterpoint", "embed", out, "SONG.mp3", "--out", "song.parquet", *trusted),
        "counterpoint shards build folder --audio DIR --labels FILE.csv --out outputs/shards/mine",
        "counterpoint pretrain conf/pretrain/open_music.yaml data.labelled=outputs/shards/mine "
        "data.unlabelled=outputs/shards/mine run.dir=outputs/mine",
    )


def sweep(
    space: Annotated[Path, positional("SPACE", "A sweep of conf/sweep, or your own YAML.")],
    overrides: Annotated[
        list[str] | None,
        positional("[KEY=VALUE]...", "sweep.trials=N sweep.dir=DIR; other keys as for pretrain."),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Trials over a search space with Ray Tune and Optuna; the best is confirmed on fresh seeds. Resumes."""
    from tuning.sweep.config import load_sweep
    from tuning.sweep.plan import describe_plan, plan_sweep

    given = dict.fromkeys(parse_overrides(overrides or []), COMMAND_LINE)
    plan = plan_sweep(load_sweep(space, overrides or []), str(space), given)
    if dry_run:
        show(describe_plan(plan), as_json=as_json)
        return
    with uncollected():
        from tuning.sweep.outcome import as_json as plain
        from tuning.sweep.outcome import shown
        from tuning.sweep.sweep import run_sweep

    result = run_sweep(plan, progress=progress(as_json=as_json))
    if as_json:
        print_json(plain(result))
    else:
        console.print(shown(result.rows, plan, result.importances, console.width))
        for words in result.words:
            say(words)
        made(**result.files, tracking=result.tracking)
    if result.code:
        raise PreemptedError(f"stopped; every trial saved itself in {plan.folder}/trials; the same command resumes")
    if not as_json:
        then(quoted("counterpoint", "pretrain", plan.folder / "best.yaml", "run.dir=DIR"), "counterpoint ui")


def study(
    name: Annotated[str, positional("NAME", "A study of conf/study, or your own YAML.")],
    overrides: Annotated[
        list[str] | None,
        positional("[KEY=VALUE]...", "study.dir=DIR study.seeds=3; other keys as for pretrain."),
    ] = None,
    scale: Annotated[str, typer.Option(help="paper, small or tiny; the output lists what is reduced.")] = "paper",
    ray: Annotated[
        bool | None,
        typer.Option(
            "--ray/--no-ray",
            help="Rows as Ray tasks, else in local processes. Default: where there is a cluster.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """A table or figure of the papers, or a study of scale, beside the published values; resumes row by row."""
    from tuning.study.plan import plan_study

    plan, settings = plan_study(name, scale, parse_overrides(overrides or []))
    with uncollected():
        from cluster.ray_runtime.session import has_cluster
        from tuning.study.study import outline, run_study

    on_ray = has_cluster() if ray is None else ray
    if dry_run:
        show(outline(plan, settings, ray=on_ray), as_json=as_json)
        return
    result = run_study(plan, settings, progress=progress(as_json=as_json), ray=on_ray)
    if as_json:
        print_json(result.tree)
    else:
        say(result.files["md"].read_text(encoding="utf-8"))
        made(table=result.files["md"], plot=result.files["png"], data=result.files["json"], tracking=result.tracking)
        then("counterpoint ui")
    if result.tree["failed"] or any(claim["holds"] is False for claim in result.tree["claims"]):
        raise typer.Exit(1)
