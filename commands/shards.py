"""`counterpoint shards build|index|verify|show`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cluster.entry_points import is_entry_point
from cluster.files.outputs import require_apart, require_replaceable_file, require_writable_folder
from cluster.imports import uncollected
from cluster.settings import COMMAND_LINE, UserError, load_config
from commands.console import AsJson, console, errors, escape, made, positional, print_json, progress, quoted, say, then
from data_shards.build.checks import require_place
from data_shards.sources import datasets

if TYPE_CHECKING:
    from data_shards.build.build import BuildConfig, MapJobs, ShardsConfig
    from data_shards.format.index import ShardIndex
    from data_shards.format.records import Clip, Listing


class DatasetGroup(TyperGroup):
    """Commands by the name of a dataset; ``module:function`` is one of the user's own."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name as it was typed."""
        return super().get_command(ctx, OWN if is_entry_point(cmd_name) else cmd_name)


OWN = "module:function"
app = typer.Typer(help="Build, index, verify and show WebDataset shards.", no_args_is_help=True, rich_markup_mode=None)
build_app = typer.Typer(
    cls=DatasetGroup, help="Build shards from a dataset or a folder.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(build_app, name="build")
Out = Annotated[Path, typer.Option(help="Folder of the shards; made when the build is complete.", show_default=False)]
OnRay = Annotated[bool, typer.Option("--ray", help="On the Ray cluster of RAY_ADDRESS or this job, else a local one.")]
Overrides = Annotated[list[str] | None, positional("[KEY=VALUE]...", "Dotted keys: build.codec=flac build.rate=16000")]
Words = Annotated[
    str | None,
    typer.Option(
        help="Words that mean a missing value, separated by commas.", show_default="NA,NaN,N/A,None,null,-,?,…"
    ),
]
Separator = Annotated[
    str | None,
    typer.Option(help="Separator of values in a cell: one character, or 'brackets' for ['a', 'b'].", show_default="|"),
]
Columns = Annotated[str | None, typer.Option(help="Columns, separated by commas.", show_default=False)]


@build_app.command("folder")
def folder(
    audio: Annotated[Path, typer.Option(help="Folder of audio files.", show_default=False)],
    out: Out,
    labels: Annotated[Path | None, typer.Option(help="CSV/Parquet: path, split, track_id", show_default=False)] = None,
    multilabel: Columns = None,
    categorical: Columns = None,
    numeric: Columns = None,
    captions: Annotated[
        str | None,
        typer.Option(help="Columns, or a file of captions: FILE.jsonl with key, captions, tags.", show_default=False),
    ] = None,
    ignore: Annotated[str | None, typer.Option(help="Columns to leave out.", show_default=False)] = None,
    list_separator: Separator = None,
    missing: Words = None,
    ray: OnRay = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Any folder of audio, with a CSV of labels or without."""
    from data_shards.sources.cells import MISSING
    from data_shards.sources.folder import read_folder
    from data_shards.sources.label_table import read_labels
    from data_shards.text.captions_file import add_captions, read_captions

    def names(columns: str | None) -> list[str] | None:
        return None if columns is None else [name for name in columns.split(",") if name]

    config = _build_config(overrides)
    if labels is None:
        for option, value in (("--list-separator", list_separator), ("--missing", missing)):
            if value is not None:
                raise UserError(f"{option}: belongs to a table of labels; add --labels FILE.csv")
    require_apart(out, "--out", audio, "--audio")
    require_place(out, "--out")
    words = MISSING if missing is None else names(missing) or ()
    answers = Path(captions) if captions and captions.endswith(".jsonl") else None
    if captions and answers is None and (Path(captions).is_file() or captions.endswith(".json")):
        raise UserError(f"--captions {captions}: a file of captions is JSON Lines, and its name ends in .jsonl")
    written = read_captions(answers) if answers else None
    listing = read_folder(
        audio.absolute(),
        labels and read_labels(labels, separator=list_separator, missing=words),
        multilabel=names(multilabel),
        categorical=names(categorical),
        numeric=names(numeric),
        captions=None if answers else names(captions),
        ignored=names(ignore),
    )
    clips = listing.clips if written is None or answers is None else add_captions(listing.clips, written, answers)
    if as_json:
        for hint in listing.hints:
            errors.print(escape(hint), highlight=False, soft_wrap=True)
    else:
        say(listing.report())
    about = {"passed_over": listing.folder.passed_over()}
    _build(clips, out, config, as_json=as_json, ray=ray, about=about)


@build_app.command("synthetic")
def synthetic(
    out: Out,
    tracks: Annotated[int, typer.Option(help="Tracks to compose.")] = 400,
    seconds: Annotated[float, typer.Option(help="Length of a track.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Seed of the corpus.")] = 0,
    bands: Annotated[
        int | None, typer.Option(help="Bands that play the tracks; each has its own sound.", show_default=False)
    ] = None,
    captions: Annotated[int, typer.Option(help="Captions a track, each of a part of its tags, and one of all.")] = 0,
    wrong_tags: Annotated[float, typer.Option(help="Share of the training tracks' tags that are wrong.")] = 0.0,
    ray: OnRay = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Composed and rendered music with known key, tempo and tags."""
    from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus

    require_place(out, "--out")
    keys = {"tracks": tracks, "seconds": seconds, "seed": seed, "bands": bands}
    keys |= {"captions": captions, "wrong_tags": wrong_tags}
    music = load_config(SyntheticConfig, None, keys, given=dict.fromkeys(keys, COMMAND_LINE))
    config = _build_config(overrides)
    _build(corpus(music), out, config, as_json=as_json, ray=ray)


@build_app.command(OWN)
def own(
    context: typer.Context,
    out: Out,
    ray: OnRay = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """A dataset of your own: a function that yields Clip.

    dataset.settings.KEY=VALUE are its arguments. The module is found in the working directory or on PYTHONPATH; see
    examples/own_dataset.py.
    """
    from data_shards.sources.own import list_own

    config = _shards_config(overrides)
    require_place(out, "--out")
    listing = list_own(str(context.info_name), config.dataset.settings)
    _build(listing, out, config.build, as_json=as_json, ray=ray)


def _dataset_command(name: str, dataset: datasets.Dataset) -> None:
    """One command for each name: `counterpoint shards build mtat --root DIR --out DIR`."""

    def command(
        root: Annotated[Path, typer.Option(help=f"Folder of {dataset.needs}.", show_default=False)],
        out: Out,
        variant: Annotated[str, typer.Option(help=f"{', '.join(dataset.variants)}.")] = dataset.variants[0],
        download: Annotated[bool, typer.Option("--download", help="Fetch files that --root lacks.")] = False,
        ray: OnRay = False,
        overrides: Overrides = None,
        as_json: AsJson = False,
    ) -> None:
        config = _build_config(overrides)
        require_apart(out, "--out", root, "--root")
        require_place(out, "--out")
        if download:
            require_writable_folder(root, "--root")
            datasets.download(name, root, variant, progress=progress(as_json=True))
        listing = datasets.list_clips(name, root.absolute(), variant)
        for note in listing.notes:
            errors.print(f"[yellow]note[/] {escape(note)}", highlight=False, soft_wrap=True)
        _build(listing, out, config, as_json=as_json, ray=ray)

    build_app.command(name, help=f"{dataset.title}.\n\nFrom {dataset.page}", short_help=dataset.title)(command)


for _name, _dataset in datasets.DATASETS.items():
    _dataset_command(_name, _dataset)


def _build_config(overrides: Overrides) -> "BuildConfig":
    """Keys ``build.*``, checked before a folder is read."""
    config = _shards_config(overrides)
    if config.dataset.settings:
        raise UserError(f"dataset.settings are for a dataset of your own: counterpoint shards build {OWN}")
    return config.build


def _shards_config(overrides: Overrides) -> "ShardsConfig":
    from data_shards.build.build import ShardsConfig

    return load_config(ShardsConfig, None, overrides or [])


def _build(
    clips: "Listing | Sequence[Clip]",
    out: Path,
    config: "BuildConfig",
    *,
    as_json: bool,
    ray: bool,
    about: Mapping[str, object] | None = None,
) -> None:
    with uncollected():
        from data_shards.build.build import Progress, build

    mapper: MapJobs | None = None
    if ray:
        from cluster.ray_runtime.map import ray_map

        mapper = partial(ray_map, name_of=lambda job: job.name, workers=config.workers)
    with progress(as_json=as_json).stage("clips", len(clips)) as bar:

        def shown(now: Progress) -> None:
            bar(now.done, f"{now.rejected} rejected" if now.rejected else "")

        summary = build(clips, out.absolute(), config, map_jobs=mapper, progress=shown)
    if as_json:
        print_json({**asdict(summary), **(about or {})})
        return
    index = _show(out, names={clip.key: clip.name for group in summary.same_audio for clip in group})
    made(shards=out)
    then(
        quoted("counterpoint", "shards", "verify", out),
        quoted("counterpoint", "shards", "show", out, "--page", f"{out}.html"),
        quoted("counterpoint", "pretrain", "conf/pretrain/open_music.yaml", *_use(index, out), "run.dir=DIR"),
        *[quoted("counterpoint", "pretrain", "conf/pretrain/music_text.yaml", f"data.labelled={out}")]
        * (index.captions.num_texts > 0),
    )


def _use(index: "ShardIndex", out: Path) -> list[str]:
    """Overrides that train from this set alone: with the tags of its training clips, where they have some."""
    train = index.rows("train")
    labelled = {column: int(index.is_labelled(column)[train].sum()) for column in index.vocabularies}
    column = max(labelled, key=lambda name: (name == "tags", labelled[name]), default=None)
    count = labelled[column] if column else 0
    words = [f"data.labelled={out}"] * bool(count) + [f"data.unlabelled={out}"] * (count < len(train))
    words += [f"data.vocabulary={column}"] * (count > 0 and column != "tags")
    return words + ["data.b_s=0"] * (not count) + ["data.b_s=1"] * (0 < count == len(train))


@app.command("index")
def index(
    folder: Annotated[Path, positional("FOLDER", "Folder of WebDataset tars.")],
    as_json: AsJson = False,
) -> None:
    """Index tars that another program wrote: KEY.wav (PCM16 mono) or KEY.flac, and KEY.json, for each clip.

    A set of 0.1, with index.parquet alone, gets an index.arrow; its shards and its hash stay.
    """
    from data_shards.build.index_writer import convert_index, index_shards, is_convertible
    from data_shards.format.paths import MANIFEST_NAME

    if not folder.is_dir():
        what = "is a file; give the folder of the tars" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}")
    converted = is_convertible(folder)
    if (folder / MANIFEST_NAME).exists() and not converted:  # a new index would accept damaged shards
        raise UserError(f"{folder}: has an index; delete its {MANIFEST_NAME} if the shards have changed and are right")
    require_writable_folder(folder, "FOLDER")  # the index is written beside the tars, and reading them takes long
    (convert_index if converted else index_shards)(folder)
    _show(folder, as_json)
    if not as_json:
        made(shards=folder)
        then(quoted("counterpoint", "shards", "verify", folder))


@app.command("verify")
def verify(
    folder: Annotated[Path, positional("FOLDER", "Folder of the shards.")],
    as_json: AsJson = False,
) -> None:
    """Check every byte against the index; exit code 0 when whole, 1 with every problem: shard, key, byte, what."""
    from data_shards.inspect.verify import to_json, verify

    problems = verify(folder, progress=progress(as_json=as_json))
    if as_json:
        print_json(to_json(problems))
    else:
        for problem in problems:
            say(str(problem))
        count = f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"
        console.print(f"{escape(str(folder))}: {count}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


@app.command("show")
def show(
    folder: Annotated[str, positional("FOLDER", "Folder or URI of the shards.")],
    page: Annotated[
        Path | None, typer.Option(help="Write an HTML page with bars, spectrograms and players.", show_default=False)
    ] = None,
    previews: Annotated[int, typer.Option(help="Clips on the page.", min=0, max=24)] = 9,
    cache: Annotated[
        Path | None, typer.Option(help="For the page of a URI: folder for copies of its shards.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Clips, hours, tags with counts, splits, licences, captions; with --page to look at and listen to."""
    if page:
        if "://" in folder and not cache:
            raise UserError(f"{folder}: a page plays clips, whose shards are copied first; give --cache DIR")
        require_replaceable_file(page, "--page", "HTML page", b"<!doctype html>")
        if cache:
            require_writable_folder(cache, "--cache")
    _show(folder, as_json)
    if page:
        from data_shards.inspect.page import write_page
        from data_shards.read.reader import ShardSet

        with ShardSet.open(folder, cache=cache) as shards:
            write_page(shards, page, previews=previews)
        if not as_json:
            made(page=page)


def _show(folder: Path | str, as_json: bool = False, *, names: Mapping[str, str] | None = None) -> "ShardIndex":
    from data_shards.inspect.show import describe, summarise
    from data_shards.read.stores import open_index

    index = open_index(str(folder))
    if as_json:
        print_json(summarise(index))
    else:
        say(describe(index, names=names))
    return index
