"""No dead link or anchor in README and docs/, and the navigation of the site names every page."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from cluster.settings import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


@cache
def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """What MkDocs' `toc` makes of headings: letters, digits, - and _, spaces as -; repeated ones are numbered."""
    found: list[str] = []
    for heading in HEADING.findall(prose(page)):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain.encode("ascii", "ignore").decode()).strip().lower())
        found.append(slug if slug not in found else f"{slug}_{found.count(slug)}")
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_anchor_is_there(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), link
        assert there.is_relative_to(ROOT), link
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{link}: {there.name} has {', '.join(sorted(anchors(there)))}"


def test_the_navigation_names_every_page_once() -> None:
    def named(tree: object) -> list[str]:
        if isinstance(tree, str):
            return [tree]
        return [name for part in (tree.values() if isinstance(tree, dict) else tree) for name in named(part)]  # type: ignore[attr-defined]

    class Loader(yaml.SafeLoader):
        """Takes MkDocs' tags for Python names as text."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: "")
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)  # noqa: S506
    pages = named(site["nav"])
    assert sorted(pages) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES if page.name != "README.md")


def test_examples_and_own_parts_are_linked_from_readme() -> None:
    text = prose(ROOT / "README.md") + prose(ROOT / "docs/extending.md")
    for example in (ROOT / "examples").iterdir():
        if example.suffix in (".py", ".yaml"):
            assert f"examples/{example.name})" in text, example.name


def test_no_docstring_holds_two_brackets_that_the_site_takes_for_a_link() -> None:
    """``[a][b]`` outside of code is Markdown's link to b, which the strict build of the site does not find."""
    code = re.compile(r"`+[^`]*`+|^ *(>>>|\.\.\.|\[|\().*$", re.MULTILINE)
    found = []
    for package in ("commands", "cluster", "data_shards", "trainers", "evaluation", "tuning"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = code.sub("", ast.get_docstring(node) or "")
                    found += [f"{file}: {link}" for link in re.findall(r"\][\[][^\]\d]*[^\]]*\]", text)]
    assert not found
