"""What the commands share that read an encoder: their options, what is refused at once, and how they end."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.refusals import Refusals
from cluster.settings import UserError
from commands.console import errors, escape, made, print_json, quoted, then

Source = Annotated[
    str,
    typer.Argument(
        help="A snapshot, a run's folder, open-mel, or your own module:factory.", metavar="SNAPSHOT", show_default=False
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N, of this process's encoder.", show_default="cpu")]
Workers = Annotated[int, typer.Option(help="Ray workers that decode and embed; 0 is this process alone.", min=0)]
AudioFiles = Annotated[
    list[Path], typer.Argument(help="Audio files, folders of them, or both.", metavar="FILES...", show_default=False)
]
Catalogue = Annotated[
    Path,
    typer.Argument(
        help="Folder of audio or shards, Parquet of `counterpoint embed`, or saved index.",
        metavar="CATALOGUE",
        show_default=False,
    ),
]
SavedIndex = Annotated[
    Path | None, typer.Option("--index", help="Folder of the saved index.", show_default="below outputs/indexes")
]


def note(lines: Iterable[str]) -> None:
    """What a scan of files reports, on stderr."""
    for line in lines:
        errors.print(f"[yellow]note[/] {escape(line)}", highlight=False, soft_wrap=True)


def left_out(rejected: Iterable[tuple[str, str]], where: str) -> None:
    """Files that could not be read, with the reason, on stderr."""
    for path, reason in rejected:
        errors.print(f"[yellow]{where}[/] {escape(path)}: {escape(reason)}", highlight=False, soft_wrap=True)


def trusted(trust_code: bool) -> tuple[str, ...]:
    """The option that the next command needs where this one needed it."""
    return ("--trust-code",) if trust_code else ()


def end(tree: Mapping[str, Any], files: Mapping[str, Path | str], *commands: Sequence[object], as_json: bool) -> None:
    """What was made and the commands to try next, for a person, or in the one JSON document."""
    following = [quoted(*words) for words in commands]
    if as_json:
        print_json({**tree, "files": files, "next": following})
        return
    made(**files)
    then(*following)


def check_places(sources: Sequence[str], shards: str | None = None) -> None:
    """Refuse encoders and shards that are not there before torch is imported, all at once."""
    from data_shards.format.paths import check_set
    from trainers.state.places import check_encoder

    refusals = Refusals()
    for source in sources:
        if ":" not in source:  # a factory of the user's own is imported, not looked for
            with refusals.noted():
                check_encoder(Path(source))
    if shards:
        with refusals.noted():
            check_set("data.shards", shards)
    refusals.require_none()


def check_device_option(workers: int, device: str | None) -> None:
    """Refuse a device that would not be used, before anything is looked for."""
    if device is not None:
        from evaluation.encoders.devices import check_device

        if workers:
            raise UserError(
                "--device is of this process; --workers take a GPU each where there are enough: give one of them"
            )
        check_device(device)
