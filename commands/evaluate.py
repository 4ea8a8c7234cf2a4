"""`counterpoint evaluate`, `embed` and `search`: metrics of a frozen encoder, its embeddings, and its neighbours."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.files.outputs import require_writable_file
from cluster.settings import UserError, load_config, parse_overrides
from commands.console import AsJson, TrustCode, console, escape, progress
from commands.encoder import (
    Catalogue,
    Device,
    SavedIndex,
    Source,
    Workers,
    check_device_option,
    check_places,
    end,
    left_out,
    note,
    trusted,
)

if TYPE_CHECKING:
    from evaluation.search.query import SearchResult


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
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            help="Another encoder to compare with, and its name in the report; may be repeated.",
            metavar="NAME=SNAPSHOT",
            show_default=False,
        ),
    ] = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Probes and retrieval on a frozen encoder, each beside the untrained encoder and a constant, with intervals.

    With --against also the paired difference from another encoder, with its interval and Holm's p.
    """
    from evaluation.config import EvaluationConfig

    others = _named(against or [])
    config = load_config(EvaluationConfig, tasks, {**parse_overrides(overrides or []), **others})
    from evaluation.outputs import check_outputs

    check_outputs(out, config)
    check_places([snapshot, *config.against.values()], config.data.shards)
    from evaluation.search.asked import check_tasks

    check_tasks(snapshot, config.tasks)
    from evaluation.encoders.sources import is_factory
    from evaluation.evaluate import evaluate as run
    from evaluation.report.comparison import compared
    from evaluation.report.tracking import log_report
    from evaluation.text_task import TEXT_KINDS

    report = run(snapshot, config, out, trust_code=trust_code, progress=progress(as_json=as_json))
    tracking = log_report(report, tasks.stem)
    if not as_json:
        for table in (report.table(), *report.comparisons()):
            console.print(table)
    files: dict[str, Path | str] = {
        "report": out / "report.json",
        "page": out / "report.html",
        "text": out / "report.md",
    }
    files |= {"table": out / "report.csv", "latex": out / "report.tex"}
    with_other = ("evaluate", snapshot, tasks, *(overrides or []), "--against", "NAME=RUN", "--out", out)
    hand_on = ("export", snapshot, "--out", "DIR", "--report", out / "report.json")
    by_text = [
        ("search", snapshot, "FOLDER", "--text", "a slow piece"),
        ("tag", snapshot, "FOLDER", "--tags", "jazz,rock"),
    ]
    commands: list[Sequence[object]] = [
        *[with_other] * (not compared(report.tree)),
        *[hand_on] * (not is_factory(snapshot)),
        ("search", snapshot, "FOLDER", "SONG.mp3"),
        *by_text * any(task.kind in TEXT_KINDS for task in config.tasks.values()),
    ]
    commands = [(*words, *trusted(trust_code)) for words in commands]
    files["tracking"] = tracking or "off"
    end(report.tree, files, *(("counterpoint", *words) for words in commands), as_json=as_json)


def embed(
    snapshot: Source,
    files: Annotated[
        list[Path],
        typer.Argument(help="Audio files, folders of them, or both.", metavar="FILES...", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Parquet file.")] = Path("embeddings.parquet"),
    space: Annotated[
        str | None,
        typer.Option(
            help="The one space of the encoder to write, such as pitch, of a run with head.variant.",
            show_default="the whole embedding",
        ),
    ] = None,
    timeline: Annotated[bool, typer.Option("--timeline", help="One row per chunk instead of one per file.")] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Name unreadable files and go on, instead of stopping.")
    ] = False,
    workers: Workers = 0,
    device: Device = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Embed audio files: one row per file (path, embedding) or per chunk (path, start_s, embedding)."""
    check_device_option(workers, device)
    require_writable_file(out, "--out")
    check_places([snapshot])
    from evaluation.embeddings.inputs import check_there

    if not skip_unreadable:
        check_there(files)
    if space is not None:
        from evaluation.search.asked import check_space

        check_space(snapshot, space)
    from evaluation.embeddings.files import embed_files

    done = embed_files(
        snapshot, files, out, space=space, timeline=timeline, skip_unreadable=skip_unreadable, workers=workers,
        device=device, trust_code=trust_code, progress=progress(as_json=as_json),
    )  # fmt: skip
    note(done.notes)
    left_out(done.rejected.items(), "skipped")
    look = ("python", "-c", f"import pandas; print(pandas.read_parquet({str(out)!r}))")
    search_it = [("counterpoint", "search", snapshot, out, "SONG.mp3", *trusted(trust_code))] * (not timeline)
    result = {"embeddings": out, "rows": done.rows, "rejected": done.rejected, "passed_over": done.passed_over}
    end(result, {"embeddings": out}, look, *search_it, as_json=as_json)


def search(
    snapshot: Source,
    catalogue: Catalogue,
    queries: Annotated[
        list[Path] | None, typer.Argument(help="Audio files.", metavar="[QUERIES]...", show_default=False)
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            help="Words that describe the music, for a snapshot with a text tower; may be repeated. With audio files, "
            "words and sound together.",
            show_default=False,
        ),
    ] = None,
    text_share: Annotated[
        float, typer.Option(help="Share of the words where a query has audio as well.", min=0, max=1)
    ] = 0.5,
    k: Annotated[int, typer.Option("-k", help="Tracks for each query.", min=1)] = 10,
    by: Annotated[
        str,
        typer.Option(
            help="What is compared: tempo, key or sound, a space of the encoder by its name, a mixture such as "
            "pitch:2,stretch:1, or all, the mean over the spaces.",
            metavar="SPACE[:WEIGHT],…",
        ),
    ] = "all",
    index: SavedIndex = None,
    keep_query: Annotated[
        bool, typer.Option("--keep-query", help="A query that is in the catalogue may be its own answer.")
    ] = False,
    exclude_track: Annotated[
        bool,
        typer.Option(
            "--exclude-track",
            help="Leave out every clip of the query's own track; in a folder, files whose names differ only in a "
            "part number (song_0.ogg, song_1.ogg).",
        ),
    ] = False,
    one_a_track: Annotated[
        bool,
        typer.Option(
            "--one-a-track", help="The nearest clip of each track alone, so that -k answers are of -k tracks."
        ),
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="The answers as an HTML file that plays them.", show_default=False)
    ] = None,
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
    check_queries(queries or (), text or (), text_share, by)
    check_encoder_can_answer(snapshot, by, texts=bool(text))
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
    note(found.folder.report() if found.folder else ())
    left_out(_rejected(found).items(), "not indexed")
    place = found.index.folder
    if not as_json:
        _print_answers(found)
    files: dict[str, Path | str] = {"index": place, "tracks": f"{len(found.index):,}"}
    if page is not None:
        from evaluation.explore.results import write_results

        write_results(found, catalogue, page, progress=progress(as_json=as_json))
        files["page"] = page
    again = ("counterpoint", "search", snapshot, place, "SONG.mp3", *trusted(trust_code))
    if len(found.index.spaces) > 1:
        files["compared"] = ", ".join(f"{space} × {weight:g}" for space, weight in found.weights.items())
        again = (*again, "--by", list(found.index.spaces)[-1])
    if text and not queries:
        again = ("counterpoint", "search", snapshot, place, "--text", "other words", *trusted(trust_code))
    end(_search_tree(found), files, again, as_json=as_json)


def _rejected(found: "SearchResult") -> dict[str, str]:
    return {track.path: reason for track, reason in found.index.rejected}


def _print_answers(found: "SearchResult") -> None:
    for answer in found.answers:
        console.print(f"\n{escape(answer.query)}", highlight=False, soft_wrap=True)
        for hit in answer.nearest:
            console.print(f"  {hit.cosine:6.3f}  {escape(hit.path)}", highlight=False, soft_wrap=True)


def _search_tree(found: "SearchResult") -> dict[str, Any]:
    """The answers as ``--json`` has them."""
    return {
        "index": found.index.folder,
        "tracks": len(found.index),
        "by": dict(found.weights),
        "answers": [asdict(answer) for answer in found.answers],
        "rejected": _rejected(found),
        "passed_over": found.folder.passed_over() if found.folder else {},
    }


def tag(
    snapshot: Source,
    files: Annotated[
        list[Path],
        typer.Argument(help="Audio files, folders of them, or both.", metavar="FILES...", show_default=False),
    ],
    tags: Annotated[str, typer.Option(help='Names of the tags: "jazz,rock,flute".', show_default=False)],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            help='A sentence with {} where the tag stands; may be repeated, the mean of all counts. By default "{}", '
            '"{} music", "this sounds like {}" and "A {} track".',
            show_default=False,
        ),
    ] = None,
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
        require_writable_file(out, "--out")
    check_encoder_can_answer(snapshot, texts=True)
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


def _named(words: Sequence[str]) -> dict[str, str]:
    """The configuration keys of ``--against NAME=SNAPSHOT``."""
    found: dict[str, str] = {}
    for word in words:
        name, sign, place = word.partition("=")
        if not sign or not name or not place:
            raise UserError(f"--against {word}: give the other encoder a name: --against NAME={place or word}")
        if not all(sign.isalnum() or sign in "_-" for sign in name):
            raise UserError(f"--against {word}: a name is of letters, digits, _ and -, got {name!r}")
        if f"against.{name}" in found:
            raise UserError(f"--against {word}: {name} is taken; give every encoder a name of its own")
        found[f"against.{name}"] = place
    return found
