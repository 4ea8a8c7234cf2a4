"""What commands share: two consoles, options, what is refused at once, and how a command ends."""

import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape as escape  # user text may hold brackets

from cluster.progress import TerminalProgress
from cluster.refusals import Refusals
from cluster.settings import UserError

# emoji: a message with "net:X:" in it would show a cross. Of torchrun's ranks only the first prints.
console = Console(quiet=os.environ.get("RANK", "0") != "0", emoji=False)
errors = Console(stderr=True, emoji=False)
_document: TextIO | None = None
"""Where the JSON document goes while stdout is kept for it."""


def positional(metavar: str, help: str) -> Any:
    """A positional argument, whose help shows no default."""
    return typer.Argument(help=help, metavar=metavar, show_default=False)


Overrides = Annotated[list[str] | None, positional("[KEY=VALUE]...", "Dotted keys: loss.temperature=0.05 data.b_s=0.5")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output; progress goes to stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Import the code (module:factory) that a snapshot names.")
]
Preset = Annotated[Path, positional("PRESET", "A preset of conf/pretrain, or your own YAML.")]
Source = Annotated[str, positional("SNAPSHOT", "A snapshot, a run's folder, open-mel, or your own module:factory.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N, of this process's encoder.", show_default="cpu")]
Workers = Annotated[int, typer.Option(help="Ray workers that decode and embed; 0 is this process alone.", min=0)]
AudioFiles = Annotated[list[Path], positional("FILES...", "Audio files, folders of them, or both.")]
Catalogue = Annotated[
    Path,
    positional("CATALOGUE", "Folder of audio or shards, Parquet of `counterpoint embed`, or saved index."),
]
SavedIndex = Annotated[
    Path | None, typer.Option("--index", help="Folder of the saved index.", show_default="below outputs/indexes")
]


def progress(*, as_json: bool = False) -> TerminalProgress:
    """Bars where they disturb no output."""
    return TerminalProgress(errors if as_json else console)


def say(text: str) -> None:
    """Print a text as it is: no markup, no colours, no line breaks of ours."""
    console.print(escape(text), highlight=False, soft_wrap=True)


def print_json(tree: Any) -> None:
    """One JSON document, and nothing else, on stdout."""
    if not console.quiet:
        print(json.dumps(tree, default=_plain), file=_document, flush=True)


@contextmanager
def stdout_for_json() -> Iterator[None]:
    """Nothing but `print_json` reaches stdout: what users' code, libraries and child processes print goes to stderr."""
    global _document
    before, own = sys.stdout, sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__
    kept = os.dup(1) if own else -1
    try:
        if own:
            before.flush()
            os.dup2(2, 1)
        _document = os.fdopen(os.dup(kept), "w", encoding="utf-8") if own else before
        sys.stdout = sys.stderr
        yield
    finally:
        sys.stdout = before
        if own:
            before.flush()
            os.dup2(kept, 1)
            os.close(kept)
        _document = None


def show(tree: Mapping[str, Any], *, as_json: bool) -> None:
    """A plain tree as YAML, or as JSON."""
    if as_json:
        print_json(tree)
        return
    import yaml

    text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
    say(text)


def made(**paths: Path | str) -> None:
    """Where the things are that a command made."""
    console.print()
    for name, path in paths.items():
        console.print(f"  {name:<12}{escape(str(path))}", highlight=False, soft_wrap=True)


def then(*commands: str) -> None:
    """The commands to try next."""
    console.print("\nnext")
    for command in commands:
        console.print(f"  {escape(command)}", highlight=False, soft_wrap=True)


def quoted(*words: object) -> str:
    """Words as a shell reads them, whatever a path holds."""
    return shlex.join(map(str, words))


def _plain(value: Any) -> Any:
    """What JSON does not know: NumPy's numbers, and paths."""
    return value.item() if hasattr(value, "item") else str(value)


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
