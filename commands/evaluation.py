"""`counterpoint evaluate`, `embed` and `search`: what a frozen encoder knows, its embeddings, and its neighbours."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.progress import TerminalProgress
from cluster.settings import load_config
from commands.console import AsJson, Overrides, console, errors, escape, made, then

if TYPE_CHECKING:
    from evaluation.pool import Pool

Source = Annotated[
    str, typer.Argument(help="A snapshot, a run's folder, or your own module:factory.", show_default=False)
]
Device = Annotated[str, typer.Option(help="Torch device of the encoder.")]
Workers = Annotated[int, typer.Option(help="Ray workers that decode and embed; 0 is this process alone.")]


def evaluate(
    snapshot: Source,
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
    report = run(snapshot, config, out, progress=TerminalProgress(errors if as_json else console))
    tracking = publish(report)
    if as_json:
        print((out / "report.json").read_text())
        return
    console.print(report.table())
    made(report=out / "report.json", page=out / "report.html", text=out / "report.md", tracking=tracking or "off")


def embed(
    snapshot: Source,
    files: Annotated[list[Path], typer.Argument(help="Audio files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Parquet file.")] = Path("embeddings.parquet"),
    timeline: Annotated[bool, typer.Option("--timeline", help="A row a chunk instead of a row a file.")] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Name unreadable files and go on, instead of stopping.")
    ] = False,
    workers: Workers = 0,
    device: Device = "cpu",
) -> None:
    """Embed audio files: a row a file (path, embedding), or a row a chunk (path, start_s, embedding)."""
    from evaluation.catalogue import embed_files

    progress = TerminalProgress(console)
    with _pool(snapshot, workers, device) as pool:
        done = embed_files(pool, files, out, timeline=timeline, skip_unreadable=skip_unreadable, progress=progress)
    for path, reason in done.rejected.items():
        errors.print(f"[yellow]skipped[/] {escape(path)}: {escape(reason)}", highlight=False, soft_wrap=True)
    made(embeddings=out)
    then(
        f"python -c \"import pandas; print(pandas.read_parquet('{out}'))\"",
        *([] if timeline else [f"counterpoint search {snapshot} {out} QUERY.mp3"]),
    )


def search(
    snapshot: Source,
    catalogue: Annotated[
        Path,
        typer.Argument(help="Folder of audio, Parquet of `counterpoint embed`, or saved index.", show_default=False),
    ],
    queries: Annotated[list[Path], typer.Argument(help="Audio files.", show_default=False)],
    k: Annotated[int, typer.Option("-k", help="Tracks for each query.")] = 10,
    index: Annotated[
        Path | None, typer.Option(help="Folder of the saved index.", show_default="below outputs/indexes")
    ] = None,
    keep_query: Annotated[
        bool, typer.Option("--keep-query", help="A query that is in the catalogue may be its own answer.")
    ] = False,
    workers: Workers = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Nearest tracks of a catalogue, by cosine, from an index that is built once and kept."""
    from evaluation.search import search_catalogue

    progress = TerminalProgress(errors if as_json else console)
    with _pool(snapshot, workers, device) as pool:
        found = search_catalogue(pool, catalogue, queries, k=k, place=index, keep_query=keep_query, progress=progress)
    for track, reason in found.index.rejected:
        errors.print(f"[yellow]not indexed[/] {escape(track.path)}: {escape(reason)}", highlight=False, soft_wrap=True)
    if as_json:
        answers = [asdict(answer) for answer in found.answers]
        print(json.dumps({"index": str(found.index.folder), "tracks": len(found.index), "answers": answers}))
        return
    for answer in found.answers:
        console.print(f"\n{escape(answer.query)}", highlight=False, soft_wrap=True)
        for hit in answer.nearest:
            console.print(f"  {hit.cosine:6.3f}  {escape(hit.path)}", highlight=False, soft_wrap=True)
    made(index=found.index.folder, tracks=f"{len(found.index):,}")


@contextmanager
def _pool(source: str, workers: int, device: str) -> Iterator["Pool"]:
    """The encoder of a command, in this process or in workers."""
    from evaluation.catalogue import ENCODER
    from evaluation.encoders import load_any
    from evaluation.pool import open_pool
    from evaluation.tasks import WorkersConfig

    resources = load_config(WorkersConfig, None, {"num_workers": workers})
    with open_pool({ENCODER: load_any(source, "cpu" if workers else device)}, resources) as pool:
        yield pool
