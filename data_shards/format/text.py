"""Labels in one normal form, labels that look alike, and paths as valid UTF-8.

`tidy` changes only what a reader cannot see: Unicode's composed form, invisible characters, kinds of spaces. Spellings
that differ visibly, such as "Rock" and "rock", stay apart; `alike` finds them.
"""

import re
import unicodedata
from collections.abc import Iterable

_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
"""Soft hyphen, zero-width space, marks of direction, word joiner, byte order mark. The joiners U+200C and U+200D are
part of words in some scripts and are only taken off the ends."""
_SPACES = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_DASHES = re.compile("[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]")
_QUOTES = re.compile("[\u2018\u2019\u201b\u02bc\u00b4`\u2032]")
_LETTERS = str.maketrans("авекмнорстухіјѕԁԛԝανορτυχ", "abekmhopctyxijsdqwavoptux")
"""Small letters of Cyrillic and Greek that look like Latin ones."""


def tidy(text: str) -> str:
    r"""Composed (NFC), without invisible signs and surrounding white space, every run of spaces as one space.

    >>> tidy(" Beyonce\u0301\u200b "), tidy("hip\u00a0 hop")
    ('Beyoncé', 'hip hop')
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    return _SPACES.sub(" ", text).strip().strip("\u200c\u200d")


def fold(text: str) -> str:
    """What two texts share that a reader takes for one: case, width, ligatures, dashes, quotes, look-alike letters.

    >>> fold("Post–Rock") == fold("post-rock"), fold("ﬁlm") == fold("film"), fold("a") == fold("á")
    (True, True, False)
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return tidy(_QUOTES.sub("'", _DASHES.sub("-", text)).translate(_LETTERS))


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that look the same, each sorted, in the order of the first.

    >>> alike(["rock", "pop", "Rock"])
    [('Rock', 'rock')]
    """
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(fold(name), set()).add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def as_text(path: str) -> str:
    r"""A path in which bytes that are no UTF-8 stand as ``\xNN``.

    Python gives such a byte as a lone surrogate, which no encoding writes.

    >>> as_text("caf\udce9.mp3"), as_text("café.mp3")
    ('caf\\xe9.mp3', 'café.mp3')
    """
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return path.encode("utf-8", "backslashreplace").decode("utf-8")
