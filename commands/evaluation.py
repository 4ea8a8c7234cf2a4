"""`counterpoint evaluate`, `embed` and `search`: what a frozen encoder knows, its embeddings, and its neighbours."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.settings import UserError, load_config
from commands.console import AsJson, console, errors, escape, made, progress, quoted, tell, then

if TYPE_CHECKING:
    from evaluation.pool import Pool

Source = Annotated[
    str,
    typer.Argument(
        help="A snapshot, a run's folder, or your own module:factory.", metavar="SNAPSHOT", show_default=False
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N, of this process's encoder.", show_default="cpu")]
Workers = Annotated[int, typer.Option(help="Ray workers that decode and embed; 0 is this process alone.", min=0)]


def evaluate(
    snapshot: Source,
    tasks: Annotated[
        Path,
        typer.Argument(help="A preset of conf/evaluation, or your own YAML.", metavar="TASKS", show_default=False),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Dotted keys: data.shards=DIR seeds=5", metavar="[KEY=VALUE]...", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("outputs/evaluation"),
    as_json: AsJson = False,
) -> None:
    """Probes and retrieval on a frozen encoder, each beside the untrained encoder and a constant, with intervals."""
    from evaluation.evaluate import evaluate as run
    from evaluation.publish import publish
    from evaluation.tasks import EvaluationConfig

    config = load_config(EvaluationConfig, tasks, overrides or [])
    report = run(snapshot, config, out, progress=progress(as_json=as_json))
    tracking = publish(report, tasks.stem)
    if as_json:
        tell(report.tree)
        return
    console.print(report.table())
    made(report=out / "report.json", page=out / "report.html", text=out / "report.md", tracking=tracking or "off")
    hand_on = [] if ":" in snapshot else [("export", snapshot, "--out", "DIR", "--report", out / "report.json")]
    then(*(quoted("counterpoint", *words) for words in (*hand_on, ("search", snapshot, "FOLDER", "SONG.mp3"))))


def embed(
    snapshot: Source,
    files: Annotated[list[Path], typer.Argument(help="Audio files.", metavar="FILES...", show_default=False)],
    out: Annotated[Path, typer.Option(help="Parquet file.")] = Path("embeddings.parquet"),
    timeline: Annotated[bool, typer.Option("--timeline", help="A row a chunk instead of a row a file.")] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Name unreadable files and go on, instead of stopping.")
    ] = False,
    workers: Workers = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Embed audio files: a row a file (path, embedding), or a row a chunk (path, start_s, embedding)."""
    from evaluation.catalogue import embed_files

    bars = progress(as_json=as_json)
    with _pool(snapshot, workers, device) as pool:
        done = embed_files(pool, files, out, timeline=timeline, skip_unreadable=skip_unreadable, progress=bars)
    for path, reason in done.rejected.items():
        errors.print(f"[yellow]skipped[/] {escape(path)}: {escape(reason)}", highlight=False, soft_wrap=True)
    if as_json:
        tell({"embeddings": out, "rejected": done.rejected})
        return
    made(embeddings=out)
    look = quoted("python", "-c", f"import pandas; print(pandas.read_parquet({str(out)!r}))")
    then(look, *[quoted("counterpoint", "search", snapshot, out, "SONG.mp3")] * (not timeline))


def search(
    snapshot: Source,
    catalogue: Annotated[
        Path,
        typer.Argument(
            help="Folder of audio, Parquet of `counterpoint embed`, or saved index.",
            metavar="CATALOGUE",
            show_default=False,
        ),
    ],
    queries: Annotated[list[Path], typer.Argument(help="Audio files.", metavar="QUERIES...", show_default=False)],
    k: Annotated[int, typer.Option("-k", help="Tracks for each query.", min=1)] = 10,
    index: Annotated[
        Path | None, typer.Option(help="Folder of the saved index.", show_default="below outputs/indexes")
    ] = None,
    keep_query: Annotated[
        bool, typer.Option("--keep-query", help="A query that is in the catalogue may be its own answer.")
    ] = False,
    workers: Workers = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Nearest tracks of a catalogue, by cosine, from an index that is built once and kept."""
    from evaluation.search import search_catalogue

    bars = progress(as_json=as_json)
    with _pool(snapshot, workers, device) as pool:
        found = search_catalogue(pool, catalogue, queries, k=k, place=index, keep_query=keep_query, progress=bars)
    for line in found.folder.report() if found.folder else ():
        errors.print(f"[yellow]note[/] {escape(line)}", highlight=False, soft_wrap=True)
    for track, reason in found.index.rejected:
        errors.print(f"[yellow]not indexed[/] {escape(track.path)}: {escape(reason)}", highlight=False, soft_wrap=True)
    if as_json:
        answers = [asdict(answer) for answer in found.answers]
        rejected = {track.path: reason for track, reason in found.index.rejected}
        passed_over = found.folder.passed_over() if found.folder else {}
        tree = {"index": found.index.folder, "tracks": len(found.index), "answers": answers}
        tell(tree | {"rejected": rejected, "passed_over": passed_over})
        return
    for answer in found.answers:
        console.print(f"\n{escape(answer.query)}", highlight=False, soft_wrap=True)
        for hit in answer.nearest:
            console.print(f"  {hit.cosine:6.3f}  {escape(hit.path)}", highlight=False, soft_wrap=True)
    made(index=found.index.folder, tracks=f"{len(found.index):,}")
    then(quoted("counterpoint", "search", snapshot, found.index.folder, "SONG.mp3"))


@contextmanager
def _pool(source: str, workers: int, device: str | None) -> Iterator["Pool"]:
    """The encoder of a command, in this process or in workers."""
    from evaluation.catalogue import ENCODER
    from evaluation.devices import check_device
    from evaluation.encoders import load_any
    from evaluation.pool import open_pool
    from evaluation.tasks import WorkersConfig

    if workers and device is not None:
        raise UserError(
            "--device is of this process; --workers take a GPU each where there are enough: give one of them"
        )
    check_device(device or "cpu")
    resources = load_config(WorkersConfig, None, {"num_workers": workers})
    with open_pool({ENCODER: load_any(source, device or "cpu")}, resources) as pool:
        yield pool
