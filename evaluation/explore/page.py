"""One offline HTML file of a map or of the answers of a search: data, previews and the script that shows them.

Text of users is JSON in which no sign can end its element, and the script writes it as text. The policy of the page
allows that one script, by its hash, and no address but the page's own data and files beside it.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cluster.files.outputs import require_replaceable_file
from cluster.files.storage import atomic_file
from cluster.files.templates import render
from cluster.progress import Progress
from evaluation.explore.sounds import Sound, SoundCounts, SoundOptions, previews

GENERATOR = '<meta name="generator" content="counterpoint">'
ASSETS = Path(__file__).parent / "assets"
SCRIPTS = {"map": ("player.js", "colours.js", "canvas.js", "map.js"), "results": ("player.js", "results.js")}
"""Of each kind of page; they are one script, in this order."""


@dataclass(frozen=True)
class Page:
    """What a page is called, and which script shows it."""

    kind: str
    """A name of `SCRIPTS`."""
    title: str
    facts: tuple[str, ...] = ()


def check_page(path: Path, key: str) -> None:
    """Refuse a place where the page could not be written, or where it would replace something else than a page."""
    require_replaceable_file(path, key, "page of counterpoint", GENERATOR.encode())


def write_page(
    out: Path, page: Page, data: Mapping[str, Any], sounds: Sequence[Sound], options: SoundOptions, progress: Progress
) -> SoundCounts:
    """Write the page; previews are written as they are made."""
    counts = SoundCounts()
    with atomic_file(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(_head(page, data))
        links: dict[int, str] = {}
        if options.kind == "link":
            links = {number: sound.link for number, sound in enumerate(sounds) if sound.link}
            counts.linked, counts.silent = len(links), len(sounds) - len(links)
        elif options.kind == "embed" and sounds:
            with progress.stage("previews", len(sounds)) as bar:
                for done, (number, text) in enumerate(previews(sounds, options, counts), 1):
                    if text:
                        file.write(f'<script type="text/plain" id="sound-{number}">{text}</script>\n')
                    elif sounds[number].link:
                        links[number] = sounds[number].link
                    bar(done, "")
        file.write(f'<script type="application/json" id="links">{json_text(links)}</script>\n')
        file.write("</body></html>\n")
    return counts


def _head(page: Page, data: Mapping[str, Any]) -> str:
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS[page.kind])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render(
        ASSETS / f"{page.kind}.html",
        generator=Markup(GENERATOR),
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "media-src data: file: 'self'; base-uri 'none'; form-action 'none'",
        script=Markup(script),
        data=Markup(json_text(data)),
        title=page.title,
        facts=page.facts,
    )


def json_text(data: Any) -> str:
    r"""JSON in which nothing ends a script element or begins a comment.

    >>> json_text({"a": "</script><!--"})
    '{"a":"\\u003c/script\\u003e\\u003c!--"}'
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
