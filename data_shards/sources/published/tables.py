"""What readers of published datasets share: tables, counts of splits, and splits by group where none were published."""

import csv
import gzip
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cluster.settings import UserError
from data_shards.format.records import SPLITS, Clip, Split


def read_table(path: Path, *, delimiter: str = "\t", spread: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a published table, plain or gzipped, with their number as a spreadsheet counts (the header is row 1).
    Raises UserError if the file is missing, or a row has another number of cells than the header.
    """
    yield from parse_table(_read_text(path), str(path), delimiter=delimiter, spread=spread)


def parse_table(
    text: str, name: str, *, delimiter: str = "\t", spread: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """`read_table` for text that is there already; `name` is what an error calls it."""
    rows = _rows(text, name, delimiter)
    header = [name.strip() for name in next(rows, [])]
    for number, cells in enumerate(rows, start=2):
        if not cells:
            continue
        if spread and len(cells) > len(header):
            cells = [*cells[: len(header) - 1], "\t".join(cells[len(header) - 1 :])]
        if len(cells) != len(header):
            raise UserError(f"{name}, row {number}: {len(cells)} cells, the header has {len(header)} columns")
        yield number, dict(zip(header, cells, strict=True))


def first_below(root: Path, *names: str) -> Path:
    """The first of the files or folders that is there below `root`; if none is the UserError names them."""
    for name in names:
        if (root / name).exists():
            return root / name
    raise UserError(f"{root}: there is no {' or '.join(names)}" if root.is_dir() else f"{root}: no such folder")


def require_columns(path: Path | str, row: Mapping[str, str], columns: Sequence[str]) -> None:
    """Refuse a table that is not the published one. The UserError names the columns that are missing."""
    if not row.keys() >= set(columns):
        missing = [column for column in columns if column not in row]
        raise UserError(f"{path}, row 1: no column {', '.join(missing)}; is this the published file?")


def _rows(text: str, name: str, delimiter: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: not a table: {error}; is this the published file?") from None


def _read_text(path: Path) -> str:
    packed = path.with_name(path.name + ".gz")
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8-sig")
        with gzip.open(packed, "rt", encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, nor {packed.name}") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def count_note(name: str, found: Mapping[str, int], published: Mapping[str, int]) -> tuple[str, ...]:
    """A note when the clips per split are not those that the papers report."""
    if dict(found) == dict(published):
        return ()
    both = ", ".join(f"{split} {found.get(split, 0):,} (published {count:,})" for split, count in published.items())
    return (f"{name}: the counts are not the published ones: {both}",)


def split_counts(clips: Sequence[Clip]) -> dict[str, int]:
    """Clips of each split."""
    return {split: sum(clip.split == split for clip in clips) for split in SPLITS}


def split_by_group(groups: Sequence[str], *, valid: float, test: float) -> list[Split]:
    """Splits for a dataset that was published without: whole groups, taken in the order of a hash of their names.

    Args:
        groups: what each clip may not be parted from, e.g. its artist.
        valid: share of the clips, in [0, 1]; reached by the first group that reaches it.
        test: the same, filled first.

    >>> split_by_group(["ann", "bob", "bob", "cid"], valid=0.25, test=0.25)
    ['test', 'train', 'train', 'valid']
    """
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    split_of: dict[str, Split] = {}
    num_test, num_valid = round(test * len(groups)), round(valid * len(groups))
    taken = {"test": 0, "valid": 0, "train": 0}
    for group in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        split: Split = "test" if taken["test"] < num_test else "valid" if taken["valid"] < num_valid else "train"
        split_of[group] = split
        taken[split] += sizes[group]
    return [split_of[group] for group in groups]
