"""`counterpoint pretrain`, `views` and `export`: an encoder is made, listened with, and handed on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.refusals import Refusals
from cluster.settings import PreemptedError, load_config
from commands.console import (
    AsJson,
    DryRun,
    Overrides,
    Preset,
    console,
    errors,
    made,
    progress,
    quoted,
    show,
    tell,
    then,
)

if TYPE_CHECKING:
    from trainers.config import ExperimentConfig


def _experiment(preset: Path, overrides: list[str] | None) -> "ExperimentConfig":
    """The configuration of a command: refused, with its places, before torch is imported."""
    from data_shards.format.paths import check_set
    from trainers.config import ExperimentConfig
    from trainers.state.places import check_encoder

    config = load_config(ExperimentConfig, preset, overrides or [])
    refusals = Refusals()
    for name in config.data.drawn_from:
        if place := getattr(config.data, name):  # where it is not given the loader says what to give
            with refusals.noted():
                check_set(f"data.{name}", place)
    if config.init_from:
        with refusals.noted():
            check_encoder(Path(config.init_from).expanduser())
    refusals.demand_none()
    return config


def pretrain(preset: Preset, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Contrastive pretraining with Ray Train. The same command again resumes; a finished run exits 0."""
    config = _experiment(preset, overrides)
    from trainers import pretrain as room

    if dry_run:
        from trainers.checks.dry_run import plan

        show(plan(config, progress=progress(as_json=as_json)), as_json=as_json)
        return
    room.check(config)
    with progress(as_json=as_json).stage("pretraining", config.optim.steps) as bar:
        code = room.pretrain(config, watch=lambda row: bar(int(row["step"]), f"loss {row['loss']:.3f}"))
        if not code:
            bar(config.optim.steps, "")  # of a run that was finished before, no step was watched
    folder = Path(config.run.dir)
    if code:
        raise PreemptedError(f"stopped with a snapshot in {folder}/snapshots/last; the same command resumes")
    files = {"snapshot": folder / "snapshots/last", "metrics": folder / "metrics.jsonl"}
    if as_json:
        tell(files)
        return
    made(**files)
    judge = ["counterpoint", "evaluate", folder, "conf/evaluation/NAME.yaml"]
    judge += [f"data.shards={config.data.labelled or 'DIR'}", "--out", folder / "evaluation"]
    then(quoted(*judge), quoted(*judge, "--against", "NAME=ANOTHER_RUN"))


def views(
    preset: Preset,
    out: Annotated[Path, typer.Option("--out", help="Folder for the page and the sounds.")],
    overrides: Overrides = None,
    step: Annotated[int, typer.Option("--step", help="Counted from 0.", min=0)] = 0,
    clips: Annotated[int, typer.Option("--clips", help="Of the first worker's batch.", min=1)] = 8,
    effects: Annotated[bool, typer.Option("--effects", help="Each effect alone, on one clip.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hear a step's views before and after, and see what the encoder reads: a page, WAV files, pictures."""
    config = _experiment(preset, overrides)
    from trainers.views.page import tell as listen

    with (errors if as_json else console).status("making views"):
        told = listen(config, out, step=step, clips=None if effects else clips)
    if as_json:
        tell({"page": told.page, "sounds": told.sounds, "clips": told.clips, "clips_on_page": told.on_page})
        return
    if told.on_page < told.clips:
        console.print(f"the page shows {told.on_page} of {told.clips} clips; all are among the sounds")
    made(page=told.page, sounds=told.sounds)
    words = (preset, *(overrides or []))
    also = quoted("counterpoint", "views", *words, "--step", step, "--effects", "--out", out)
    then(*[also] * (not effects), quoted("counterpoint", "pretrain", *words))


def export(
    snapshot: Annotated[
        Path,
        typer.Argument(help="A snapshot, a run's folder, or an exported one.", metavar="SNAPSHOT", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to make; an earlier export is replaced.")],
    report: Annotated[
        Path | None, typer.Option("--report", help="report.json of its evaluation, for the card.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an encoder for others: safetensors with a model card, a torch.export program, and ONNX."""
    from trainers.state.places import check_encoder

    check_encoder(snapshot)
    from trainers.inference.export import export_encoder

    with (errors if as_json else console).status("exporting and checking"):
        found = export_encoder(snapshot, out, report=report)
    for name, reason in found.left_out.items():
        errors.print(f"left out {name}: {reason}", highlight=False, soft_wrap=True, markup=False)
    if as_json:
        left = {"left_out": found.left_out, "differences": found.differences}
        tell({"folder": found.folder, "files": found.files, **left})
        return
    for name, difference in found.differences.items():
        console.print(f"{name} is the encoder to {difference:.1g} of its largest value", highlight=False)
    made(folder=found.folder, **found.files)
    judge = ["counterpoint", "evaluate", out, "conf/evaluation/NAME.yaml", "data.shards=DIR"]
    load = f"from trainers.inference.frozen import load_encoder; print(load_encoder({str(out)!r}).width)"
    then(quoted(*judge, "--out", f"{out}-evaluation"), quoted("python", "-c", load))
