"""Words for attributes of music: categories, groups whose words replace one another, synonyms, exclusions.

``conf/swaps/NAME.yaml`` holds one; a path leads to a dictionary of the user's own.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from cluster.settings import ROOT, Config, UserError, load_config

_WORD = re.compile(r"[^\W_]+|[^\w\s]")
JOINERS = frozenset("-–—‐‑&'’`´/+_·.")
"""Signs inside a tag: ``hip-hop`` and ``hip hop`` are the same words, and so are ``r&b`` and ``r b``."""
_SEPARATORS = frozenset(',;:!?()[]{}<>"“”«»|\n\r\t')
_BETWEEN = re.compile(r"[\s\-–—‐‑&'’`´/+_·]*")
FOLDER = ROOT / "conf" / "swaps"
Form = Literal["adjective", "genre", "instrument", "voice", "key", "other"]


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


@dataclass(frozen=True, kw_only=True)
class Category(Config):
    """Words of one kind, such as moods."""

    form: Form = "other"
    """Where its words stand in a sentence: before the noun, as genre, after "with" (what plays, who sings), in "in a …
    key", or in a list."""
    columns: tuple[str, ...] = ()
    """Columns of labels that hold words of this category; those of other columns are looked up here one by one."""
    groups: dict[str, tuple[str, ...]]
    """Group → words that replace one another."""
    alone: tuple[str, ...] = ()
    """Words that nothing replaces."""
    synonyms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Word → others that mean the same."""
    exclusions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Word → others that may hold of the same music, both ways; none of them replaces the other."""
    plural: tuple[str, ...] = ()
    """Words that are plural: no article, replaced by plural words only."""
    mass: tuple[str, ...] = ()
    """Words without article or plural, replaced by such words only."""


@dataclass(frozen=True, kw_only=True)
class SwapDictionary(Config):
    """The categories by name."""

    title: str
    """What it holds."""
    categories: dict[str, Category]
    """Category → its words."""

    def __post_init__(self) -> None:
        first: dict[tuple[str, ...], str] = {}
        for name, category in self.categories.items():
            for group, words in category.groups.items():
                for word in words:
                    _note(first, word, f"{name}.groups.{group}")
            for word in category.alone:
                _note(first, word, f"{name}.alone")
            for word, others in category.synonyms.items():
                self._require_grouped(name, word)
                for other in others:
                    _note(first, other, f"{name}.synonyms.{word}")

    def named(self) -> Iterator[tuple[str, str]]:
        """(category, word) of all words but synonyms, each once, in order."""
        for name, category in self.categories.items():
            words = [word for group in category.groups.values() for word in group]
            for word in dict.fromkeys(
                [*words, *category.alone, *category.plural, *category.mass, *category.exclusions]
            ):
                yield name, word

    def _require_grouped(self, category: str, word: str) -> None:
        known = {tokens_of(one) for of, one in self.named() if of == category}
        if tokens_of(word) not in known:
            raise ValueError(f"{category}.synonyms: {word!r} is in no group; add it to one, or leave it out")


def load_dictionary(name: str) -> SwapDictionary:
    """The dictionary of conf/swaps by its name, or one by its path. The UserError names the file and the key."""
    is_path = name.endswith((".yaml", ".yml")) or "/" in name
    path = Path(name) if is_path else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"swap.dictionary={name}: no such dictionary; give one of {known}, or the path of a YAML file")
    return load_config(SwapDictionary, path)


def _note(first: dict[tuple[str, ...], str], word: str, place: str) -> None:
    tokens = tokens_of(word)
    if not tokens:
        raise ValueError(f"{place}: {word!r} has no letter or digit; leave it out")
    if tokens in first:
        raise ValueError(f"{place}: {word!r} is also in {first[tokens]}; leave one of them out")
    first[tokens] = place


def column_categories(dictionary: SwapDictionary) -> Mapping[str, str]:
    """Column of labels, in lower case → the category that it holds."""
    return {column.casefold(): name for name, category in dictionary.categories.items() for column in category.columns}
