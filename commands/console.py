"""What every command shares: two consoles, the dotted overrides, and how a command ends."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape as escape  # user text may hold brackets

console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of torchrun's ranks the first speaks
errors = Console(stderr=True)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Dotted overrides: loss.temperature=0.05 data.b_s=0.5", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def dump(tree: Mapping[str, Any]) -> str:
    """A plain tree as YAML, safe to print."""
    import yaml

    return escape(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True))


def made(**paths: Path | str) -> None:
    """Where the things are that a command made."""
    console.print()
    for name, path in paths.items():
        console.print(f"  {name:<12}{path}", highlight=False, soft_wrap=True)


def then(*commands: str) -> None:
    """The commands to try next."""
    console.print("\nnext")
    for command in commands:
        console.print(f"  {escape(command)}", highlight=False, soft_wrap=True)
