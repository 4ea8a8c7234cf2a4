"""Hook of MkDocs: a link to a file outside docs/ is its path on the site, which holds docs/ alone."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+([^)]*)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace ``[text](../file)`` by its text and the file's path; links between pages stay."""
    depth = page.file.src_uri.count("/")

    def shown(link: re.Match[str]) -> str:
        text, path = link.groups()
        if link[0].count("../") <= depth:
            return link[0]
        return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"

    return _OUTSIDE.sub(shown, markdown)
