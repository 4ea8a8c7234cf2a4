"""Texts from Jinja templates; in those named ``.html`` what is written in is escaped, unless it is Markup."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape


def render(template: Path, *folders: Path, **values: Any) -> str:
    """A template with its values; what it extends or includes lies beside it or in ``folders``."""
    loader = FileSystemLoader([template.parent, *folders])
    environment = Environment(
        loader=loader,
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(values)
