"""`counterpoint shards build|verify|show`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.progress import TerminalProgress
from cluster.settings import load_config
from commands.console import AsJson, Overrides, console, errors, escape, made, then
from data_shards import datasets

if TYPE_CHECKING:
    from data_shards.records import Clip

app = typer.Typer(help="Build, verify and show WebDataset shards.", no_args_is_help=True)
build_app = typer.Typer(help="Build shards from a dataset or a folder.", no_args_is_help=True)
app.add_typer(build_app, name="build")
Out = Annotated[Path, typer.Option(help="Folder of the shards; it appears when they are whole.", show_default=False)]
Columns = Annotated[str | None, typer.Option(help="Columns, separated by commas.", show_default=False)]


@build_app.command("folder")
def folder(
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
        console.print(escape(listing.report()), highlight=False)
    _build(listing.clips, out, overrides, as_json)


@build_app.command("synthetic")
def synthetic(
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
            errors.print(f"[yellow]note[/] {escape(note)}", highlight=False, soft_wrap=True)
        _build(listing.clips, out, overrides, as_json, listing.vocabularies)

    build_app.command(name, help=f"{dataset.title}.\n\nFrom {dataset.page}", short_help=dataset.title)(command)


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
    made(shards=out)
    then(f"counterpoint shards verify {out}", f"counterpoint pretrain PRESET data.labelled={out} run.dir=DIR")


@app.command("verify")
def verify(
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
            console.print(escape(str(problem)), highlight=False, soft_wrap=True)
        console.print(f"{folder}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    raise typer.Exit(1 if problems else 0)


@app.command("show")
def show(
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
            console.print(escape(describe(shards.index)), highlight=False, soft_wrap=True)
