"""`counterpoint quickstart`: the whole road in minutes."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.progress import TerminalProgress
from cluster.settings import parse_overrides
from commands.console import Overrides, console, made, then


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of everything it makes.")] = Path("outputs/quickstart"),
    overrides: Overrides = None,
) -> None:
    """Synthetic music, shards, pretraining on two workers, evaluation, MLflow: minutes on two cores."""
    from tuning.quickstart import run_quickstart

    result = run_quickstart(out, parse_overrides(overrides or []), progress=TerminalProgress(console))
    console.print(result.report.table())
    made(report=out / "report.json", page=out / "report.html", snapshot=result.snapshot, tracking=result.tracking)
    then(
        "counterpoint ui",
        f"counterpoint embed {out} FILE.mp3 --out song.parquet",
        "counterpoint shards build folder --audio DIR --labels FILE.csv --out outputs/shards/mine",
        "counterpoint pretrain conf/pretrain/open_music.yaml data.labelled=outputs/shards/mine "
        "data.unlabelled=outputs/shards/mine run.dir=outputs/mine",
    )
