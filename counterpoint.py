"""Front door: `counterpoint <command>`. Each command calls one room's entry point, imported when it is needed."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cluster.progress import TerminalProgress
from cluster.settings import RunError, UserError, load_config, parse_overrides
from data_shards import datasets

if TYPE_CHECKING:
    from data_shards.records import Clip

app = typer.Typer(
    help="Contrastive pretraining for music audio: shards, pretraining on many GPUs, evaluation with intervals.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
shards_app = typer.Typer(help="Build, verify and show WebDataset shards.", no_args_is_help=True)
app.add_typer(shards_app, name="shards")

console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of torchrun's ranks the first speaks
errors = Console(stderr=True)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Dotted overrides: loss.temperature=0.05 data.b_s=0.5", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def main() -> None:
    """Run a command; an error is one message that names the thing and the remedy, a traceback only with --debug."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app(prog_name="counterpoint")
    except (UserError, RunError) as error:
        if debug:
            raise
        errors.print(f"[bold red]error[/] {_escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        errors.print("stopped")
        sys.exit(130)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of everything it makes.")] = Path("outputs/quickstart"),
    overrides: Overrides = None,
) -> None:
    """Synthetic music, shards, pretraining on two workers, evaluation, MLflow: minutes on two cores."""
    from tuning.quickstart import run_quickstart

    result = run_quickstart(out, parse_overrides(overrides or []), progress=TerminalProgress(console))
    console.print(result.report.table())
    _made(report=out / "report.json", page=out / "report.html", snapshot=result.snapshot, tracking=result.tracking)
    _next(
        "counterpoint ui",
        f"counterpoint embed {out} FILE.mp3 --out song.parquet",
        "counterpoint shards build folder --audio DIR --labels FILE.csv --out outputs/shards/mine",
        "counterpoint pretrain conf/pretrain/open_music.yaml data.labelled=outputs/shards/mine "
        "data.unlabelled=outputs/shards/mine run.dir=outputs/mine",
    )


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What works on this machine, and what to do about what doesn't."""
    from cluster.doctor import checks, render

    found = checks()
    if as_json:
        print(json.dumps([asdict(check) for check in found]))
    else:
        render(found)
    if any(check.state == "fail" for check in found):
        raise typer.Exit(1)


@app.command()
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

        console.print(_dump(plan(config)), highlight=False, soft_wrap=True)
        return
    room.check(config)
    with TerminalProgress(console).stage("pretraining", config.optim.steps) as bar:
        code = room.pretrain(config, watch=lambda row: bar(int(row["step"]), f"loss {row['loss']:.3f}"))
    folder = Path(config.run.dir)
    if code:
        errors.print(f"stopped with a snapshot in {folder}/snapshots/last; the same command resumes")
        raise typer.Exit(code)
    _made(snapshot=folder / "snapshots/last", metrics=folder / "metrics.jsonl")
    _next(f"counterpoint evaluate {folder} conf/evaluation/NAME.yaml data.shards=DIR --out {folder}/evaluation")


@app.command()
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
    _made(report=out / "report.json", page=out / "report.html", text=out / "report.md", tracking=tracking or "off")


@app.command()
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
    _made(embeddings=out)
    _next(f"python -c \"import pandas; print(pandas.read_parquet('{out}'))\"")


@app.command()
def ui(
    store: Annotated[str | None, typer.Option(help="MLflow store; default: outputs/mlflow.db here.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """MLflow on this machine: every run, its curves and reports."""
    from cluster.tracking_config import default_store
    from cluster.ui import serve_ui

    raise typer.Exit(serve_ui(store or default_store(Path("outputs/run")), host=host, port=port))


@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    words: Annotated[list[str], typer.Argument(help="-- COMMAND…, or list, logs JOB, stop JOB.", show_default=False)],
    cluster: Annotated[str | None, typer.Option(help="URL of the cluster's dashboard.", show_default=False)] = None,
) -> None:
    """The same command as a job of a Ray cluster: followed, stopped on request, with its exit code."""
    from cluster.submit import Cluster
    from cluster.submit import submit as send

    match words:
        case ["list"]:
            for job in Cluster(cluster).jobs():
                console.print(f"{job.name}  {job.status}  {job.seconds:,.0f} s  {job.command}", highlight=False)
        case ["logs", name]:
            print(Cluster(cluster).logs(name), end="")
        case ["stop", name]:
            console.print(Cluster(cluster).stop(name))
        case _:

            def show(text: str) -> None:
                print(text, end="", flush=True)

            raise typer.Exit(send(words, cluster=cluster, show=show, ask=typer.confirm))


shards_build = typer.Typer(help="Build shards from a dataset or a folder.", no_args_is_help=True)
shards_app.add_typer(shards_build, name="build")
Out = Annotated[Path, typer.Option(help="Folder of the shards; it appears when they are whole.", show_default=False)]
Columns = Annotated[str | None, typer.Option(help="Columns, separated by commas.", show_default=False)]


@shards_build.command("folder")
def shards_build_folder(
    audio: Annotated[Path, typer.Option(help="Folder of audio files.", show_default=False)],
    out: Out,
    labels: Annotated[Path | None, typer.Option(help="CSV/Parquet: path, split, track_id", show_default=False)] = None,
    multilabel: Columns = None,
    categorical: Columns = None,
    numeric: Columns = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Any folder of audio, with a CSV of labels or without."""
    from data_shards.sources.folder import read_folder

    def names(columns: str | None) -> list[str] | None:
        return None if columns is None else [name for name in columns.split(",") if name]

    listing = read_folder(
        audio, labels, multilabel=names(multilabel), categorical=names(categorical), numeric=names(numeric)
    )
    if not as_json:
        console.print(_escape(listing.report()), highlight=False)
    _build(listing.clips, out, overrides, as_json)


@shards_build.command("synthetic")
def shards_build_synthetic(
    out: Out,
    tracks: Annotated[int, typer.Option(help="Tracks to compose.")] = 400,
    seconds: Annotated[float, typer.Option(help="Length of a track.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Another seed is another corpus.")] = 0,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Composed and rendered music with known key, tempo and tags."""
    from data_shards.sources.synthetic import SyntheticConfig, corpus

    config = load_config(SyntheticConfig, None, {"tracks": tracks, "seconds": seconds, "seed": seed})
    _build(corpus(config), out, overrides, as_json)


def _dataset_command(name: str, dataset: datasets.Dataset) -> None:
    """One command for each name: `counterpoint shards build mtat --root DIR --out DIR`."""

    def command(
        root: Annotated[Path, typer.Option(help=f"Folder of {dataset.needs}.", show_default=False)],
        out: Out,
        variant: Annotated[str, typer.Option(help=f"{', '.join(dataset.variants)}.")] = dataset.variants[0],
        download: Annotated[bool, typer.Option("--download", help="Fetch what is not in --root, checked.")] = False,
        overrides: Overrides = None,
        as_json: AsJson = False,
    ) -> None:
        if download:
            datasets.download(name, root, variant, progress=TerminalProgress(errors))
        listing = datasets.list_clips(name, root, variant)
        for note in listing.notes:
            errors.print(f"[yellow]note[/] {_escape(note)}", highlight=False, soft_wrap=True)
        _build(listing.clips, out, overrides, as_json, listing.vocabularies)

    shards_build.command(name, help=f"{dataset.title}.\n\nFrom {dataset.page}", short_help=dataset.title)(command)


for _name, _dataset in datasets.DATASETS.items():
    _dataset_command(_name, _dataset)


def _build(
    clips: Sequence["Clip"], out: Path, overrides: Overrides, as_json: bool, orders: Mapping[str, Any] | None = None
) -> None:
    from data_shards.build import Progress, ShardsConfig, build

    config = load_config(ShardsConfig, None, overrides or []).build
    with TerminalProgress(errors if as_json else console).stage("shards", len(clips)) as bar:

        def show(now: Progress) -> None:
            bar(now.done, f"{now.rejected} rejected" if now.rejected else "")

        summary = build(clips, out, config, progress=show, vocabularies=orders)
    if as_json:
        print(json.dumps(asdict(summary), default=str))
        return
    _show(out)
    _made(shards=out)
    _next(f"counterpoint shards verify {out}", f"counterpoint pretrain PRESET data.labelled={out} run.dir=DIR")


@shards_app.command("verify")
def shards_verify(
    folder: Annotated[Path, typer.Argument(help="Folder of the shards.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Check every byte against the index; 0 when whole, 1 with every problem: shard, key, byte, what."""
    from data_shards.verify import verify

    problems = verify(folder)
    if as_json:
        print(json.dumps([problem._asdict() for problem in problems]))
    else:
        for problem in problems:
            console.print(_escape(str(problem)), highlight=False, soft_wrap=True)
        console.print(f"{folder}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    raise typer.Exit(1 if problems else 0)


@shards_app.command("show")
def shards_show(
    folder: Annotated[str, typer.Argument(help="Folder or URI of the shards.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Clips, hours, tags with counts, splits, licences."""
    _show(folder, as_json)


def _show(folder: Path | str, as_json: bool = False) -> None:
    from data_shards.reader import ShardSet
    from data_shards.show import describe, summarise

    with ShardSet.open(str(folder)) as shards:
        if as_json:
            print(json.dumps(summarise(shards.index), default=float))
        else:
            console.print(_escape(describe(shards.index)), highlight=False, soft_wrap=True)


def _dump(tree: Mapping[str, Any]) -> str:
    import yaml

    return _escape(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True))


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _made(**made: Path | str) -> None:
    console.print()
    for name, path in made.items():
        console.print(f"  {name:<11}{path}", highlight=False, soft_wrap=True)


def _next(*commands: str) -> None:
    console.print("\nnext")
    for command in commands:
        console.print(f"  {_escape(command)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
