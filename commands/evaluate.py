"""`counterpoint evaluate` and `embed`: metrics of a frozen encoder, and its embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.files.outputs import PARQUET, require_replaceable_file
from cluster.imports import uncollected
from cluster.settings import COMMAND_LINE, UserError, load_config, parse_overrides
from commands.console import (
    AsJson,
    AudioFiles,
    Device,
    Source,
    TrustCode,
    Workers,
    check_device_option,
    check_places,
    console,
    end,
    left_out,
    note,
    positional,
    progress,
    trusted,
)

if TYPE_CHECKING:
    from evaluation.config import EvaluationConfig

Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        help="Another encoder to compare with, and its name in the report; may be repeated.",
        metavar="NAME=SNAPSHOT",
        show_default=False,
    ),
]


def evaluate(
    snapshot: Source,
    tasks: Annotated[Path, positional("TASKS", "A preset of conf/evaluation, or your own YAML.")],
    overrides: Annotated[list[str] | None, positional("[KEY=VALUE]...", "Dotted keys: data.shards=DIR seeds=5")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("outputs/evaluation"),
    against: Against = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Probes and retrieval on a frozen encoder, each beside the untrained encoder and a constant, with intervals.

    With --against also the paired difference from another encoder, with its interval and Holm's p.
    """
    from evaluation.config import EvaluationConfig

    others = _named(against or [])
    keys = parse_overrides(overrides or [])
    given = dict.fromkeys(keys, COMMAND_LINE) | dict.fromkeys(others, "--against")
    config = load_config(EvaluationConfig, tasks, {**keys, **others}, given=given)
    from evaluation.outputs import check_outputs

    check_outputs(out, config)
    check_places([snapshot, *config.against.values()], config.data.shards)
    from evaluation.search.asked import check_tasks

    check_tasks(snapshot, config.tasks)
    with uncollected():
        from evaluation.evaluate import evaluate as run
        from evaluation.report.comparison import compared
        from evaluation.report.tracking import log_report

    report = run(snapshot, config, out, trust_code=trust_code, progress=progress(as_json=as_json))
    tracking = log_report(report, tasks.stem)
    if not as_json:
        for table in (report.table(), *report.comparisons()):
            console.print(table)
    names = {"report": "json", "page": "html", "text": "md", "table": "csv", "latex": "tex"}
    files: dict[str, Path | str] = {name: out / f"report.{suffix}" for name, suffix in names.items()}
    with_other = ("evaluate", snapshot, tasks, *(overrides or []), "--against", "NAME=RUN", "--out", out)
    commands = [*[with_other] * (not compared(report.tree)), *_with_encoder(snapshot, config, out)]
    following = (("counterpoint", *words, *trusted(trust_code)) for words in commands)
    end(report.tree, files | {"tracking": tracking or "off"}, *following, as_json=as_json)


def _with_encoder(snapshot: str, config: "EvaluationConfig", out: Path) -> list[Sequence[object]]:
    """The commands to try next with the encoder alone."""
    from evaluation.encoders.sources import is_factory
    from evaluation.text_task import TEXT_KINDS

    commands: list[Sequence[object]] = [("search", snapshot, "FOLDER", "SONG.mp3")]
    if not is_factory(snapshot):
        commands.insert(0, ("export", snapshot, "--out", "DIR", "--report", out / "report.json"))
    if any(task.kind in TEXT_KINDS for task in config.tasks.values()):
        commands.append(("search", snapshot, "FOLDER", "--text", "a slow piece"))
        commands.append(("tag", snapshot, "FOLDER", "--tags", "jazz,rock"))
    return commands


def embed(
    snapshot: Source,
    files: AudioFiles,
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
    require_replaceable_file(out, "--out", *PARQUET)
    check_places([snapshot])
    from evaluation.embeddings.inputs import check_there

    if not skip_unreadable:
        check_there(files)
    if space is not None:
        from evaluation.search.asked import check_space

        check_space(snapshot, space)
    with uncollected():
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
