"""What a wrong path may have meant: the nearest folder of the kind that was asked for."""

import difflib
from collections.abc import Iterator
from pathlib import Path

MOST_FOLDERS = 500
"""Folders that are looked into: a refusal must not take long on a large or distant disk."""
DEPTH = 3


def did_you_mean(path: Path, *marks: str) -> str:
    """The nearest folder in words, ``; did you mean DIR?``, or nothing where there is none.

    Args:
        path: what was given.
        marks: relative paths of files; a folder with one of them is of the kind that was meant.
    """
    there = path.expanduser().absolute()
    base = there
    while not base.is_dir():
        base = base.parent
    found = [folder for folder in (base, *_below(base, DEPTH)) if any((folder / mark).is_file() for mark in marks)]
    if not found:
        return ""
    near = max(found, key=lambda folder: difflib.SequenceMatcher(None, str(folder), str(there)).ratio())
    shown = near if path.is_absolute() or not near.is_relative_to(Path.cwd()) else near.relative_to(Path.cwd())
    return f"; did you mean {shown}?"


def _below(base: Path, depth: int) -> Iterator[Path]:
    """Folders below ``base``, level by level, hidden ones and links left out."""
    level, seen = [base], 0
    for _ in range(depth):
        further: list[Path] = []
        for folder in level:
            seen += 1
            if seen > MOST_FOLDERS:
                return
            try:
                inside = sorted(
                    entry
                    for entry in folder.iterdir()
                    if entry.name[0] != "." and entry.is_dir() and not entry.is_symlink()
                )
            except OSError:
                continue
            further += inside
            yield from inside
        level = further
