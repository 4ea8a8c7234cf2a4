"""Kinds of the columns of a table of labels, given or guessed, how their cells are read, and hints."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from cluster.files.spool import text_hashes
from cluster.settings import UserError
from cluster.validation.messages import nearest
from data_shards.sources.cells import (
    BRACKETS,
    SEPARATOR,
    has_decimal_commas,
    is_bracketed,
    is_missing,
    split_list,
    to_number,
)
from data_shards.sources.label_table import RESERVED, LabelTable

Kind = Literal["multilabel", "categorical", "numeric", "captions", "ignored"]
KINDS: tuple[Kind, ...] = ("multilabel", "categorical", "numeric", "captions", "ignored")
OPTIONS: dict[Kind, str] = {kind: f"--{kind}" for kind in KINDS} | {"ignored": "--ignore"}
"""The option of the command line that gives a column its kind."""
CAPTION_NAMES = ("caption", "captions")
MAX_WORD, MAX_NAME = 16, 40
"""Characters: longest name of a class that occurs once, and of one that is repeated."""


@dataclass(frozen=True)
class Column:
    """How the cells of a column are read."""

    kind: Kind
    how: str = SEPARATOR
    """Of lists: the separator, or `BRACKETS`."""
    decimal_comma: bool = False
    """Of numbers."""


def read_columns(table: LabelTable, given: Mapping[str, Kind]) -> dict[str, Column]:
    """Every column that is not reserved, as it is given; the kind of the others is guessed."""
    names = (name for name in table.columns if name not in RESERVED)
    return {name: _column(table, name, given.get(name) or _guess(table, name)) for name in names}


def given_kinds(table: LabelTable, given: Mapping[Kind, Sequence[str] | None]) -> dict[str, Kind]:
    """The kinds of the columns that the options name. Raises UserError for no such column, one that needs no option,
    two kinds for one, or a list that is no list of tags or captions.
    """
    columns = [name for name in table.columns if name not in RESERVED]
    kinds: dict[str, Kind] = {}
    for kind, names in given.items():
        for name in names or ():
            if name in RESERVED and name in table.columns:
                raise UserError(
                    f"{table.path}: column {name} is read without an option; leave it out of {OPTIONS[kind]}"
                )
            if name not in columns:
                raise UserError(
                    f"{table.path}, row 1: no column {name} for {OPTIONS[kind]}; there are "
                    f"{', '.join(columns) or 'none'}{nearest(name, columns)}"
                )
            if name in kinds:
                raise UserError(f"column {name} is given as {OPTIONS[kinds[name]]} and as {OPTIONS[kind]}")
            if name in table.lists and kind not in ("multilabel", "captions", "ignored"):
                raise UserError(
                    f"{table.path}: column {name} holds lists; give it as --multilabel or --captions, not as --{kind}"
                )
            kinds[name] = kind
    return kinds


def guess_kind(column: str, values: Iterable[str], *, how: str = SEPARATOR, decimal_comma: bool = False) -> Kind:
    """Guess the kind of a column: lists are tags, numbers numeric, short or repeated words classes.

    `values` are iterated over more than once.

    >>> guess_kind("moods", ["calm|dark", ""]), guess_kind("bpm", ["120", "98.5"]), guess_kind("key", ["C minor", "D"])
    ('multilabel', 'numeric', 'categorical')
    >>> guess_kind("comment", ["a very slow and sad song", "a fast song"]), guess_kind("tags", ["calm"])
    ('ignored', 'multilabel')
    >>> guess_kind("caption", ["a slow song|slow and sad"])
    'captions'
    """
    if column in CAPTION_NAMES:
        return "captions"
    if any(values) and all(to_number(value, decimal_comma=decimal_comma) is not None for value in values if value):
        return "multilabel" if column == "tags" else "numeric"
    if column == "tags" or any(is_bracketed(value) if how == BRACKETS else how in value for value in values):
        return "multilabel"
    longest = max(map(len, values), default=0)
    is_class = 0 < longest <= MAX_WORD or (0 < longest <= MAX_NAME and _come_again(filter(None, values)))
    return "categorical" if is_class else "ignored"


def tags_of(cell: str, column: Column, missing: Sequence[str]) -> tuple[str, ...]:
    """The tags of a cell, sorted; words for missing values are none."""
    return tuple(sorted({part for part in split_list(cell, column.how) if not is_missing(part, missing)}))


def missing_line(table: LabelTable, columns: Mapping[str, Column]) -> str | None:
    """Missing values by column, with counts: ``missing values: bpm 1 (NA)``."""
    counts = {name: Counter(words) for name, words in table.missing.items()}
    for name, column in columns.items():
        if column.kind == "multilabel":
            parts = (part for cell in table.values(name) for part in split_list(cell, column.how))
            inside = Counter(part for part in parts if is_missing(part, table.missing_words))
            if inside:
                counts[name] = counts.get(name, Counter()) + inside
    if not counts:
        return None
    lines = (
        f"{name} {sum(words.values()):,} ({', '.join(_counted(word, words) for word in sorted(words))})"
        for name, words in counts.items()
    )
    return f"missing values: {'; '.join(lines)}"


def hints(table: LabelTable, columns: Mapping[str, Column]) -> tuple[str, ...]:
    """Values that were probably meant otherwise, each with the option that changes their reading."""
    found = (_hint(table, name, column) for name, column in columns.items())
    return tuple(hint for hint in found if hint)


def _counted(word: str, words: Mapping[str, int]) -> str:
    return word if len(words) == 1 else f"{word} {words[word]:,}"


def _column(table: LabelTable, name: str, kind: Kind) -> Column:
    values = table.values(name)
    if kind == "numeric":
        return Column(kind, decimal_comma=has_decimal_commas(values, table.delimiter))
    how = _how(table, name, values)
    # A sentence may hold any separator that tags have.
    return Column(kind, how if kind == "multilabel" or how == BRACKETS else SEPARATOR)


def _how(table: LabelTable, name: str, values: Iterable[str]) -> str:
    if name in table.lists:
        return SEPARATOR
    if table.separator is None and any(values) and all(map(is_bracketed, values)):
        return BRACKETS
    return table.separator or SEPARATOR


def _guess(table: LabelTable, name: str) -> Kind:
    if name in table.lists and name not in CAPTION_NAMES:
        return "multilabel"
    values = table.values(name)
    comma = has_decimal_commas(values, table.delimiter)
    return guess_kind(name, values, how=_how(table, name, values), decimal_comma=comma)


def _hint(table: LabelTable, name: str, column: Column) -> str | None:
    if column.decimal_comma:
        return f"hint: {name}: commas are read as decimal points"
    if column.how == BRACKETS and column.how != table.separator:
        return f"hint: {name}: cells in brackets are read as lists; --list-separator '|' reads each as one value"
    if name in table.lists or column.kind in ("captions", "numeric"):
        return None
    if column.kind != "multilabel" and (hint := _number_hint(table, name)):
        return hint
    if any(column.how != BRACKETS and column.how in cell for cell in table.values(name)):
        return None
    bracketed = _Found.of(table, name, is_bracketed)
    if bracketed.num and column.how != BRACKETS:
        return _list_hint(name, bracketed, BRACKETS, column)
    for sign in (";", ",", SEPARATOR):
        listed = _Found.of(table, name, partial(_holds, sign))
        if listed.num and column.how not in (sign, BRACKETS) and _may_be_lists(table.values(name), sign, column.kind):
            return _list_hint(name, listed, sign, column)
    for sign in ("/", "\\"):  # a single tag may hold one: rock/pop
        listed, known = _Found.of(table, name, partial(_holds, sign)), sum(1 for _ in table.values(name))
        is_date = listed.cell.replace(sign, "").strip().isdigit()
        if 2 * listed.num > known > 1 and not is_date and _may_be_lists(table.values(name), sign, column.kind):
            return _list_hint(name, listed, sign, column)
    return None


class _Found(NamedTuple):
    """Cells of a column: how many, and the first with its row."""

    num: int
    row: int = 0
    cell: str = ""

    @classmethod
    def of(cls, table: LabelTable, name: str, condition: Callable[[str], bool]) -> "_Found":
        """The known cells that meet a condition."""
        found = ((row, cell) for row, cell in table.known(name) if condition(cell))
        first = next(found, None)
        return cls(0) if first is None else cls(1 + sum(1 for _ in found), *first)


def _holds(sign: str, cell: str) -> bool:
    return sign in cell


def _number_hint(table: LabelTable, name: str) -> str | None:
    known = sum(1 for _ in table.values(name))
    others = _Found.of(table, name, lambda cell: to_number(cell) is None)
    if not 0 < 2 * others.num <= known:
        return None
    return (
        f"hint: {name}: {known - others.num:,} of {known:,} values are numbers, but {others.cell!r} in row "
        f"{others.row} is not, so the column is not numeric; correct it, or give it to --missing where it means a "
        "missing value"
    )


def _list_hint(name: str, listed: _Found, how: str, column: Column) -> str:
    taken = "each is read as one tag" if column.kind == "multilabel" else f"the column is {column.kind}"
    more = "" if column.kind == "multilabel" else f" --multilabel {name}"
    return (
        f"hint: {name}: {listed.num:,} cells look like lists, as {listed.cell!r} in row {listed.row}, but {taken}, "
        f"since lists are separated by {column.how}; did you mean --list-separator {shlex.quote(how)}{more}?"
    )


def _may_be_lists(cells: Iterable[str], sign: str, kind: Kind) -> bool:
    """Titles and sentences hold commas too; the values of lists are short, and come again."""
    if kind == "multilabel":
        return True

    def parts() -> Iterator[str]:
        return (part for cell in cells for part in split_list(cell, sign))

    return max(map(len, parts()), default=0) <= MAX_NAME and _come_again(parts())


def _come_again(values: Iterable[str]) -> bool:
    """Whether each value comes twice or more, on average."""
    hashes = text_hashes(values)
    return 2 * len(np.unique(hashes)) <= len(hashes)
