"""`counterpoint pretrain`, `views` and `export`: an encoder is made, listened with, and handed on."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cluster.progress import TerminalProgress
from cluster.settings import load_config
from commands.console import Overrides, console, dump, errors, made, then


def pretrain(
    preset: Annotated[Path, typer.Argument(help="A preset of conf/pretrain, or your own YAML.", show_default=False)],
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")] = False,
) -> None:
    """Contrastive pretraining with Ray Train. The same command again resumes; a finished run exits 0."""
    from trainers import pretrain as room
    from trainers.config import ExperimentConfig

    config = load_config(ExperimentConfig, preset, overrides or [])
    if dry_run:
        from trainers.plan import plan

        console.print(dump(plan(config)), highlight=False, soft_wrap=True)
        return
    room.check(config)
    with TerminalProgress(console).stage("pretraining", config.optim.steps) as bar:
        code = room.pretrain(config, watch=lambda row: bar(int(row["step"]), f"loss {row['loss']:.3f}"))
    folder = Path(config.run.dir)
    if code:
        errors.print(f"stopped with a snapshot in {folder}/snapshots/last; the same command resumes")
        raise typer.Exit(code)
    made(snapshot=folder / "snapshots/last", metrics=folder / "metrics.jsonl")
    then(f"counterpoint evaluate {folder} conf/evaluation/NAME.yaml data.shards=DIR --out {folder}/evaluation")


def views(
    preset: Annotated[Path, typer.Argument(help="A preset of conf/pretrain, or your own YAML.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for the page and the sounds.")],
    overrides: Overrides = None,
    step: Annotated[int, typer.Option("--step", help="Counted from 0.", min=0)] = 0,
    clips: Annotated[int, typer.Option("--clips", help="Of the first worker's batch.", min=1)] = 8,
    effects: Annotated[bool, typer.Option("--effects", help="Each effect alone, on one clip.")] = False,
) -> None:
    """Hear a step's views before and after, and see what the encoder reads: a page, WAV files, pictures."""
    from trainers.config import ExperimentConfig
    from trainers.listening_page import tell

    config = load_config(ExperimentConfig, preset, overrides or [])
    with console.status("making views"):
        told = tell(config, out, step=step, clips=None if effects else clips)
    if told.on_page < told.clips:
        console.print(f"the page shows {told.on_page} of {told.clips} clips; all are among the sounds")
    made(page=told.page, sounds=told.sounds)
    words = shlex.join([str(preset), *(overrides or [])])
    also = f"counterpoint views {words} --step {step} --effects --out {shlex.quote(str(out))}"
    then(*[also] * (not effects), f"counterpoint pretrain {words}")


def export(
    snapshot: Annotated[
        Path, typer.Argument(help="A snapshot, a run's folder, or an exported one.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to make; an earlier export is replaced.")],
    report: Annotated[
        Path | None, typer.Option("--report", help="report.json of its evaluation, for the card.")
    ] = None,
) -> None:
    """Write an encoder for others: safetensors with a model card, a torch.export program, and ONNX."""
    from trainers.export import export_encoder

    with console.status("exporting and checking"):
        found = export_encoder(snapshot, out, report=report)
    for name, reason in found.left_out.items():
        errors.print(f"left out {name}: {reason}", highlight=False, soft_wrap=True, markup=False)
    for name, difference in found.differences.items():
        console.print(f"{name} is the encoder to {difference:.1g} of its largest value", highlight=False)
    made(folder=found.folder, **found.files)
    then(
        f"counterpoint evaluate {out} conf/evaluation/NAME.yaml data.shards=DIR --out {out}-evaluation",
        f"python -c \"from trainers.frozen import load_encoder; print(load_encoder('{out}').width)\"",
    )
