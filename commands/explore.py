"""`counterpoint map`: a catalogue as one page to look at and listen to."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cluster.entry_points import is_entry_point
from commands.console import AsJson, TrustCode, progress
from commands.encoder import (
    Catalogue,
    Device,
    SavedIndex,
    Source,
    Workers,
    check_device_option,
    end,
    left_out,
    note,
    trusted,
)
from trainers.state.places import check_order

SOUNDS = Literal["embed", "link", "none"]
Labels = Annotated[
    Path | None, typer.Option(help="CSV/Parquet with a column path.", show_default="labels.csv in the folder")
]
Colour = Annotated[
    str | None, typer.Option(help="Column that gives the colours at first.", show_default="the best known")
]
Sounds = Annotated[SOUNDS, typer.Option(help="Previews inside of the page, links to the files, or none.")]
Near = Annotated[
    str,
    typer.Option(
        help="What lays tracks close to each other: a space of the encoder, or a mixture, as in `search`.",
        metavar="SPACE[:WEIGHT],…",
    ),
]


def map(
    snapshot: Source,
    catalogue: Catalogue,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("map.html"),
    labels: Labels = None,
    colour: Colour = None,
    sounds: Sounds = "embed",
    sounds_mb: Annotated[float, typer.Option("--sounds-mb", help="Size of all previews, MB.")] = 50.0,
    by: Near = "all",
    perplexity: Annotated[float | None, typer.Option(help="Of t-SNE.", show_default="30")] = None,
    most: Annotated[int, typer.Option(help="Tracks on the map; of more, so many are drawn by chance.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of t-SNE, and of that draw.")] = 0,
    index: SavedIndex = None,
    workers: Workers = 0,
    device: Device = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """A catalogue as one offline page: similar tracks lie close to each other, a click plays one.

    Colours are by any column of the labels: those of a set of shards, or a table beside the audio.
    """
    check_device_option(workers, device)
    if not is_entry_point(snapshot):
        check_order(Path(snapshot), catalogue, "map")  # before torch is imported
    from evaluation.search.asked import check_catalogue, check_encoder_can_answer

    check_catalogue(catalogue)
    check_encoder_can_answer(snapshot, by)
    from evaluation.explore.catalogue_map import MapOptions, map_catalogue
    from evaluation.explore.sounds import SoundOptions

    sound = SoundOptions(kind=sounds, megabytes=sounds_mb)
    options = MapOptions(labels=labels, colour=colour, by=by, sounds=sound, perplexity=perplexity, most=most, seed=seed)
    made = map_catalogue(
        snapshot, catalogue, out, options, index=index, workers=workers, device=device, trust_code=trust_code,
        progress=progress(as_json=as_json),
    )  # fmt: skip
    rejected = {track.path: reason for track, reason in made.index.rejected}
    note((*(made.folder.report() if made.folder else ()), *made.notes))
    left_out(rejected.items(), "not on the map")
    result = {
        "page": out,
        "tracks": len(made.index),
        "shown": made.shown,
        "columns": made.columns,
        "sounds": vars(made.sounds),
        "notes": made.notes,
        "rejected": rejected,
        "passed_over": made.folder.passed_over() if made.folder else {},
    }
    files: dict[str, Path | str] = {"page": out, "tracks": f"{made.shown:,}", "sounds": made.sounds.line()}
    again = ("counterpoint", "search", snapshot, made.index.folder, "SONG.mp3", *trusted(trust_code))
    end(result, files | {"index": made.index.folder}, again, as_json=as_json)
