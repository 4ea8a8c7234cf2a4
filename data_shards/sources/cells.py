"""Reading the text of one cell of a table of labels: a missing value, a number, a list."""

import ast
import math
import re
from collections.abc import Iterable, Sequence

from data_shards.format.text import tidy

SEPARATOR, BRACKETS = "|", "brackets"
"""How a cell lists its values: between separators, or as Python, JSON and NumPy print a list."""
MISSING = (
    "NA", "N/A", "n.a.", "#N/A", "<NA>", "NaN", "-NaN", "NaT", "None", "null", "(null)", "\\N", "-", "--", "–", "—",
    "?", "#VALUE!", "#DIV/0!", "#REF!", "#NAME?", "#NULL!", "#NUM!",
)  # fmt: skip
"""Words that pandas, R, databases, spreadsheets and people write where a value is not known, in any case."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
_PLAIN = r"[^\s'\",\[\](){}]++"
_ITEM = re.compile(f"{_QUOTED}|{_PLAIN}", re.DOTALL)
_LIST = re.compile(rf"[\[({{]\s*+(?:(?:{_QUOTED}|{_PLAIN})\s*+(?:,\s*+)?+)*+[\])}}]", re.DOTALL)
"""Possessive throughout: what is no list is known in one pass."""
_WORDS = re.compile(r"\[[^\[\]'\"]*\]")
_ENDS = ("[]", "()", "{}")


def is_missing(cell: str, words: Sequence[str] = MISSING) -> bool:
    """Whether a cell stands for an unknown value.

    >>> is_missing(""), is_missing("n/a"), is_missing("none of these")
    (True, True, False)
    """
    return not cell or cell.casefold() in {word.casefold() for word in words}


def to_number(cell: str, *, decimal_comma: bool = False) -> float | None:
    """The finite number in a cell, or None.

    >>> to_number("98.5"), to_number("98,5"), to_number("98,5", decimal_comma=True), to_number("inf"), to_number("12_3")
    (98.5, None, 98.5, None, None)
    """
    if "_" in cell:  # a number in Python's source, a name in a table
        return None
    if decimal_comma and _DECIMAL_COMMA.fullmatch(cell):
        cell = cell.replace(",", ".")
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def has_decimal_commas(cells: Iterable[str], delimiter: str) -> bool:
    """Whether the commas of a column of numbers are decimal points.

    >>> has_decimal_commas(["98,5", "120"], ","), has_decimal_commas(["1,200"], ","), has_decimal_commas(["1,200"], ";")
    (True, False, True)
    """
    found, is_plain = False, delimiter == ";"
    for cell in cells:
        if "." in cell or ("," in cell and not _DECIMAL_COMMA.fullmatch(cell)):
            return False
        if "," in cell:
            found = True
            # "1,200" may be 1.2 or 1200: ambiguous while every comma has three digits behind it.
            is_plain = is_plain or len(cell.rpartition(",")[2]) != 3
    return found and is_plain


def is_bracketed(cell: str) -> bool:
    """Whether a cell is a printed list, tuple or set.

    >>> is_bracketed("['rock', 'pop']"), is_bracketed('["rock"]'), is_bracketed("[a, b c]"), is_bracketed("(live)")
    (True, True, True, False)
    """
    if cell[:1] + cell[-1:] not in _ENDS:
        return cell == "set()"
    if _WORDS.fullmatch(cell):
        return True
    return ("'" in cell or '"' in cell or not cell[1:-1].strip()) and bool(_LIST.fullmatch(cell))


def split_list(cell: str, how: str = SEPARATOR) -> list[str]:
    """The values of a cell in order, empty ones left out.

    Args:
        cell: a tidy cell.
        how: a separator, or `BRACKETS`, which takes a cell without brackets as one value.

    >>> split_list("rock| calm |"), split_list("['rock', 'hip hop']", BRACKETS), split_list("['rock' 'pop']", BRACKETS)
    (['rock', 'calm'], ['rock', 'hip hop'], ['rock', 'pop'])
    """
    if how != BRACKETS:
        parts = cell.split(how)
    elif not is_bracketed(cell):
        parts = [cell]
    elif _WORDS.fullmatch(cell):  # no quotes
        parts = cell[1:-1].split(",")
    else:
        parts = [_unquoted(item) for item in _ITEM.findall("" if cell == "set()" else cell[1:-1])]
    return [part for part in map(tidy, parts) if part]


def _unquoted(item: str) -> str:
    if item[0] not in "'\"":
        return item
    try:
        return str(ast.literal_eval(item))
    except (ValueError, SyntaxError):
        return item[1:-1]
