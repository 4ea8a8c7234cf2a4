"""Texts as words: what is compared when a tag is looked for in a sentence."""

import itertools
import re
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+|[^\w\s]")
JOINERS = frozenset("-–—‐‑&'’`´/+_·.")
"""Signs inside a tag: ``hip-hop`` and ``hip hop`` are the same words, and so are ``r&b`` and ``r b``."""
_SEPARATORS = frozenset(',;:!?()[]{}<>"“”«»|\n\r\t')
_BETWEEN = re.compile(r"[\s\-–—‐‑&'’`´/+_·]*")


class Token(NamedTuple):
    """A word and where it stands."""

    word: str
    """Without case."""
    start: int
    end: int


def tokenize(text: str) -> list[Token]:
    """The words of a text, and signs such as emoji; punctuation is left out.

    >>> [token.word for token in tokenize("Hip-Hop, R&B & 🎸")]
    ['hip', 'hop', 'r', 'b', '🎸']
    """
    found = ((match.group(), match.start(), match.end()) for match in _WORD.finditer(text))
    return [
        Token(word.casefold(), start, end)
        for word, start, end in found
        if word not in JOINERS and word not in _SEPARATORS
    ]


def tokens_of(term: str) -> tuple[str, ...]:
    """The words of a tag, which identify it.

    >>> tokens_of("Drum & Bass") == tokens_of("drum-bass")
    True
    """
    return tuple(token.word for token in tokenize(term))


def spoken(term: str) -> str:
    """A tag as it stands in a text, without the punctuation that would end it there.

    >>> spoken("clarinet. percussion"), spoken("Drum & Bass")
    ('clarinet percussion', 'Drum & Bass')
    """
    tokens = tokenize(term)
    if all(are_joined(term, *pair) for pair in itertools.pairwise(tokens)):
        return term
    return " ".join(term[token.start : token.end] for token in tokens)


def are_joined(text: str, left: Token, right: Token) -> bool:
    """Whether two words that follow each other may belong to one tag: nothing but spaces and joiners between them."""
    return _BETWEEN.fullmatch(text, left.end, right.start) is not None and "\n" not in text[left.end : right.start]
