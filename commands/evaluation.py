"""`counterpoint evaluate` and `embed`: what a frozen encoder knows, and its embeddings of any file."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.progress import TerminalProgress
from cluster.settings import load_config
from commands.console import AsJson, Overrides, console, made, then


def evaluate(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot, or a run's folder.", show_default=False)],
    tasks: Annotated[Path, typer.Argument(help="A preset of conf/evaluation.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("outputs/evaluation"),
    as_json: AsJson = False,
) -> None:
    """Probes and retrieval on a frozen encoder, each beside the untrained encoder and a constant, with intervals."""
    from evaluation.evaluate import evaluate as run
    from evaluation.publish import publish
    from evaluation.tasks import EvaluationConfig

    config = load_config(EvaluationConfig, tasks, overrides or [])
    report = run(snapshot, config, out, progress=TerminalProgress(console))
    tracking = publish(report)
    if as_json:
        print((out / "report.json").read_text())
        return
    console.print(report.table())
    made(report=out / "report.json", page=out / "report.html", text=out / "report.md", tracking=tracking or "off")


def embed(
    snapshot: Annotated[Path, typer.Argument(help="A snapshot, or a run's folder.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Audio files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Parquet file.")] = Path("embeddings.parquet"),
    timeline: Annotated[bool, typer.Option("--timeline", help="A row a chunk instead of a row a file.")] = False,
) -> None:
    """Embed audio files: a row a file (path, embedding), or a row a chunk (path, start_s, embedding)."""
    from evaluation.catalogue import embed_files
    from trainers.frozen import load_encoder

    embed_files(load_encoder(snapshot), files, out, timeline=timeline, progress=TerminalProgress(console))
    made(embeddings=out)
    then(f"python -c \"import pandas; print(pandas.read_parquet('{out}'))\"")
