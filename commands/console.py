"""What every command shares: two consoles, the dotted overrides, and how a command ends."""

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape as escape  # user text may hold brackets

from cluster.progress import TerminalProgress

console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of torchrun's ranks only the first prints
errors = Console(stderr=True)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Dotted keys: loss.temperature=0.05 data.b_s=0.5", metavar="[KEY=VALUE]...", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output; progress goes to stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Import the code (module:factory) that a snapshot names.")
]
Preset = Annotated[
    Path, typer.Argument(help="A preset of conf/pretrain, or your own YAML.", metavar="PRESET", show_default=False)
]


def progress(*, as_json: bool = False) -> TerminalProgress:
    """Bars where they disturb no output."""
    return TerminalProgress(errors if as_json else console)


def print_json(tree: Any) -> None:
    """One JSON document, and nothing else, on stdout."""
    if not console.quiet:
        print(json.dumps(tree, default=_plain))


def show(tree: Mapping[str, Any], *, as_json: bool) -> None:
    """A plain tree as YAML, or as JSON."""
    if as_json:
        print_json(tree)
        return
    import yaml

    text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
    console.print(escape(text), highlight=False, soft_wrap=True)


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
