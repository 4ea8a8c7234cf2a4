"""`counterpoint search`, `tag` and `map`: the nearest tracks of a catalogue, its tags by name, and its page."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cluster.entry_points import is_entry_point
from cluster.files.outputs import PARQUET, require_replaceable_file, require_writable_file
from cluster.imports import uncollected
from cluster.settings import UserError
from commands.console import (
    AsJson,
    AudioFiles,
    Catalogue,
    Device,
    SavedIndex,
    Source,
    TrustCode,
    Workers,
    check_device_option,
    check_places,
    console,
    end,
    escape,
    left_out,
    note,
    positional,
    progress,
    trusted,
)
from trainers.state.places import check_order

if TYPE_CHECKING:
    from data_shards.audio.scan import AudioFolder
    from evaluation.search.query import SearchResult
    from evaluation.search.track_index import TrackIndex

Queries = Annotated[list[Path] | None, positional("[QUERIES]...", "Audio files.")]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        help="Words that describe the music, for a snapshot with a text tower; may be repeated. With audio files, "
        "words and sound together.",
        show_default=False,
    ),
]
TextShare = Annotated[float, typer.Option(help="Share of the words where a query has audio as well.", min=0, max=1)]
Compared = Annotated[
    str,
    typer.Option(
        help="What is compared: tempo, key or sound, a space of the encoder by its name, a mixture such as "
        "pitch:2,stretch:1, or all, the mean over the spaces.",
        metavar="SPACE[:WEIGHT],…",
    ),
]
KeepQuery = Annotated[
    bool, typer.Option("--keep-query", help="A query that is in the catalogue may be its own answer.")
]
ExcludeTrack = Annotated[
    bool,
    typer.Option(
        "--exclude-track",
        help="Leave out every clip of the query's own track; in a folder, files whose names differ only in a "
        "part number (song_0.ogg, song_1.ogg).",
    ),
]
OneATrack = Annotated[
    bool,
    typer.Option("--one-a-track", help="The nearest clip of each track alone, so that -k answers are of -k tracks."),
]
AnswersPage = Annotated[
    Path | None, typer.Option(help="The answers as an HTML file that plays them.", show_default=False)
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        help='A sentence with {} where the tag stands; may be repeated, the mean of all counts. By default "{}", '
        '"{} music", "this sounds like {}" and "A {} track".',
        show_default=False,
    ),
]
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


def search(
    snapshot: Source,
    catalogue: Catalogue,
    queries: Queries = None,
    text: Texts = None,
    text_share: TextShare = 0.5,
    k: Annotated[int, typer.Option("-k", help="Tracks for each query.", min=1)] = 10,
    by: Compared = "all",
    index: SavedIndex = None,
    keep_query: KeepQuery = False,
    exclude_track: ExcludeTrack = False,
    one_a_track: OneATrack = False,
    page: AnswersPage = None,
    workers: Workers = 0,
    device: Device = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Nearest tracks of a catalogue to audio files or words, by cosine, from an index that is built once and kept."""
    check_device_option(workers, device)
    check_places([snapshot])
    if keep_query and exclude_track:
        raise UserError("--keep-query keeps the query's own track, --exclude-track leaves it out: give one of them")
    if page is not None:
        require_writable_file(page, "--page")
    from evaluation.search.asked import check_catalogue, check_encoder_can_answer, check_queries

    check_catalogue(catalogue)
    check_queries(queries or (), text or (), text_share, by, k)
    check_encoder_can_answer(snapshot, by, texts=bool(text))
    with uncollected():
        from evaluation.search.query import search as run
        from evaluation.search.same_track import LeaveOut

    if page is not None:
        from evaluation.explore.page import check_page

        check_page(page, "--page")
    leave_out: LeaveOut = "nothing" if keep_query else "track" if exclude_track else "query"
    found = run(
        snapshot, catalogue, queries or (), texts=text or (), text_share=text_share, k=k, by=by, index=index,
        leave_out=leave_out, one_a_track=one_a_track, workers=workers, device=device, trust_code=trust_code,
        progress=progress(as_json=as_json),
    )  # fmt: skip
    read = _report_files(found.index, found.folder, (), "not indexed")
    if not as_json:
        _print_answers(found)
    files: dict[str, Path | str] = {"index": found.index.folder, "tracks": f"{len(found.index):,}"}
    if page is not None:
        from evaluation.explore.results import write_results

        write_results(found, catalogue, page, progress=progress(as_json=as_json))
        files["page"] = page
    if len(found.index.spaces) > 1:
        files["compared"] = ", ".join(f"{space} × {weight:g}" for space, weight in found.weights.items())
    again = _search_again(snapshot, found.index, trust_code, by_text=bool(text and not queries))
    answers = {"by": dict(found.weights), "answers": [asdict(answer) for answer in found.answers]}
    end({"index": found.index.folder, "tracks": len(found.index), **answers, **read}, files, again, as_json=as_json)


def tag(
    snapshot: Source,
    files: AudioFiles,
    tags: Annotated[str, typer.Option(help='Names of the tags: "jazz,rock,flute".', show_default=False)],
    prompt: Prompts = None,
    out: Annotated[
        Path | None, typer.Option(help="Parquet file: path, and the cosine with each tag.", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(help="Tags that the table shows of each file.", min=1)] = 5,
    workers: Workers = 0,
    device: Device = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Tag audio files by the names of the tags alone, for a snapshot with a text tower: nothing is trained."""
    check_device_option(workers, device)
    check_places([snapshot])
    names = [name.strip() for name in tags.split(",")]
    if not all(names):
        raise UserError(f"--tags {tags}: an empty tag between commas; leave it out")
    from evaluation.embeddings.inputs import check_there
    from evaluation.search.asked import check_encoder_can_answer, check_tags
    from evaluation.text_task import PROMPTS

    check_tags(names, prompt or PROMPTS)
    check_there(files)
    if out is not None:
        require_replaceable_file(out, "--out", *PARQUET)
    check_encoder_can_answer(snapshot, texts=True, option="--tags")
    with uncollected():
        from evaluation.search.tagging import tag_files

    done = tag_files(
        snapshot, files, names, prompts=prompt or PROMPTS, out=out, workers=workers, device=device,
        trust_code=trust_code, progress=progress(as_json=as_json),
    )  # fmt: skip
    note(done.inputs.report())
    left_out(done.rejected.items(), "skipped")
    for file in () if as_json else done.files:
        best = "  ".join(f"{cosine:6.3f} {name}" for name, cosine in list(file.cosine.items())[:top])
        console.print(f"{escape(file.path)}\n  {escape(best)}", highlight=False, soft_wrap=True)
    made_files: dict[str, Path | str] = {} if out is None else {"tags": out}
    result = {
        "tagged": [asdict(file) for file in done.files],
        "rejected": done.rejected,
        "passed_over": done.inputs.passed_over(),
    }
    find = ("counterpoint", "search", snapshot, "FOLDER", "--text", f"{names[0]} music", *trusted(trust_code))
    end(result, made_files, find, as_json=as_json)


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
    with uncollected():
        from evaluation.explore.catalogue_map import MapOptions, map_catalogue
        from evaluation.explore.sounds import SoundOptions

    sound = SoundOptions(kind=sounds, megabytes=sounds_mb)
    options = MapOptions(labels=labels, colour=colour, by=by, sounds=sound, perplexity=perplexity, most=most, seed=seed)
    made = map_catalogue(
        snapshot, catalogue, out, options, index=index, workers=workers, device=device, trust_code=trust_code,
        progress=progress(as_json=as_json),
    )  # fmt: skip
    read = _report_files(made.index, made.folder, made.notes, "not on the map")
    result: dict[str, Any] = {
        "page": out,
        "tracks": len(made.index),
        "shown": made.shown,
        "columns": made.columns,
        "sounds": vars(made.sounds),
        "notes": made.notes,
    }
    files: dict[str, Path | str] = {"page": out, "tracks": f"{made.shown:,}", "sounds": made.sounds.line()}
    again = ("counterpoint", "search", snapshot, made.index.folder, "SONG.mp3", *trusted(trust_code))
    end(result | read, files | {"index": made.index.folder}, again, as_json=as_json)


def _report_files(
    index: "TrackIndex", folder: "AudioFolder | None", notes: Sequence[str], where: str
) -> dict[str, Any]:
    """Files of a catalogue that were not read, on stderr; the same for ``--json``."""
    rejected = {track.path: reason for track, reason in index.rejected}
    note((*(folder.report() if folder else ()), *notes))
    left_out(rejected.items(), where)
    return {"rejected": rejected, "passed_over": folder.passed_over() if folder else {}}


def _print_answers(found: "SearchResult") -> None:
    for answer in found.answers:
        console.print(f"\n{escape(answer.query)}", highlight=False, soft_wrap=True)
        for hit in answer.nearest:
            console.print(f"  {hit.cosine:6.3f}  {escape(hit.path)}", highlight=False, soft_wrap=True)


def _search_again(snapshot: str, index: "TrackIndex", trust_code: bool, *, by_text: bool) -> tuple[object, ...]:
    """The command to try next: other words, another space, or another song."""
    begin = ("counterpoint", "search", snapshot, index.folder)
    if by_text:
        return (*begin, "--text", "other words", *trusted(trust_code))
    by = ("--by", list(index.spaces)[-1]) if len(index.spaces) > 1 else ()
    return (*begin, "SONG.mp3", *trusted(trust_code), *by)
