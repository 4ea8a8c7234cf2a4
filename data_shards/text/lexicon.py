"""The words that texts of a set may use: its tags, and the words of a dictionary, found in any sentence.

Shape suffixes: C words. A word's place is its code: the column of `TextRows.tags_BC`.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from data_shards.text.dictionary import (
    Form,
    SwapDictionary,
    Token,
    are_joined,
    column_categories,
    spoken,
    tokenize,
    tokens_of,
)
from data_shards.text.draws import Draws

Number = Literal["one", "many", "mass", "none"]
NOUN_FORMS = ("instrument", "voice")
"""Forms whose words are nouns with a number."""
_CACHED_TEXTS = 1 << 14
NEGATIONS = frozenset(("no", "not", "without", "never", "lacks", "lacking"))


class Word(NamedTuple):
    """A tag, or a word of the dictionary."""

    name: str
    """As the set spells it."""
    category: str
    form: Form
    number: Number
    """Of a noun: one, many, or mass; none for other words."""
    group: tuple[str, str] | None
    """(category, group) of the words that replace it; None for a word that nothing replaces."""
    meaning: str
    """Equal for synonyms."""


class Span(NamedTuple):
    """A word in a text."""

    start: int
    end: int
    code: int
    plural: bool
    """Whether a noun of number one stands in its plural."""
    negated: bool
    """Whether the text says that the word does not hold, as in "without drums"."""


class Lexicon:
    """Finds the words of a set and of a dictionary in sentences.

    Args:
        dictionary: categories, groups, synonyms, exclusions.
        columns: tags of the set by column of labels. A column that the dictionary names holds that category; tags of
            other columns are looked up one by one, and what the dictionary lacks has the column as its category.
    """

    def __init__(self, dictionary: SwapDictionary, columns: Mapping[str, Sequence[str]] | None = None) -> None:
        self._dictionary = dictionary
        known = {tokens_of(name): (category, name) for category, name in dictionary.named()}
        synonyms = {
            tokens_of(other): (name, word)
            for name, category in dictionary.categories.items()
            for word, others in category.synonyms.items()
            for other in others
        }
        self._roots = known | synonyms
        words: dict[tuple[str, ...], Word] = {}
        named = column_categories(dictionary)
        for column, tags in (columns or {}).items():
            for tag in tags:
                key = tokens_of(tag)
                if key and key not in words:
                    words[key] = self._word(spoken(tag), key, named.get(column.casefold()), column)
        for key, (category, name) in known.items():
            if key not in words:
                words[key] = self._word(name, key, category, category)
        self.words: tuple[Word, ...] = tuple(words.values())
        """The C words: tags of the set in order, then those of the dictionary that it lacks."""
        self._terms = {key: (code, False) for code, key in enumerate(words)}
        of_name = {(word.category, word.meaning): code for code, word in reversed(list(enumerate(self.words)))}
        for key, (category, name) in synonyms.items():
            code = of_name.get((category, _root(name)))
            if code is not None:
                self._terms.setdefault(key, (code, False))
        for key, (code, _) in list(self._terms.items()):
            if self.words[code].number == "one":
                self._terms.setdefault((*key[:-1], plural(key[-1])), (code, True))
        self._longest: dict[str, int] = {}
        for key in self._terms:
            self._longest[key[0]] = max(len(key), self._longest.get(key[0], 0))
        self._together = self._may_hold_together()

    def __len__(self) -> int:
        return len(self.words)

    @lru_cache(maxsize=_CACHED_TEXTS)  # noqa: B019 a lexicon lives as long as its run
    def code(self, tag: str) -> int | None:
        """The code of a tag; None for one without letters, digits or signs, or that neither set nor dictionary has."""
        found = self._terms.get(tokens_of(tag))
        return found[0] if found else None

    def codes(self, tags: Iterable[str]) -> tuple[int, ...]:
        """Codes of the tags that are known, in order, each once."""
        return tuple(dict.fromkeys(code for tag in tags if (code := self.code(tag)) is not None))

    @lru_cache(maxsize=_CACHED_TEXTS)  # noqa: B019 the same views are drawn again and again
    def find(self, text: str) -> tuple[Span, ...]:
        """The words of a text, from left to right, the longest at each place: ``electric guitar`` is no ``guitar``."""
        tokens = tokenize(text)
        spans: list[Span] = []
        at = 0
        while at < len(tokens):
            span, taken = self._match(text, tokens, at)
            if span:
                spans.append(span)
            at += taken
        return tuple(spans)

    def says(self, text: str) -> tuple[int, ...]:
        """Codes of the words that a text says hold, each once."""
        return tuple(dict.fromkeys(span.code for span in self.find(text) if not span.negated))

    def may_hold(self, codes: Iterable[int]) -> frozenset[int]:
        """What holds, or may hold, of music with these words: they, their synonyms and their exclusions."""
        return frozenset().union(*(self._together[code] for code in codes))

    def group_of(self, code: int) -> tuple[int, ...]:
        """Codes of the words that may replace a word, itself included; none for a word without a group."""
        word = self.words[code]
        if word.group is None:
            return ()
        return tuple(c for c, other in enumerate(self.words) if other[3:5] == word[3:5])

    def _match(self, text: str, tokens: Sequence[Token], at: int) -> tuple[Span | None, int]:
        """The longest word that begins at a place, and how many tokens it takes."""
        for length in range(min(self._longest.get(tokens[at].word, 0), len(tokens) - at), 0, -1):
            part = tokens[at : at + length]
            found = self._terms.get(tuple(token.word for token in part))
            if found and all(are_joined(text, *pair) for pair in itertools.pairwise(part)):
                negated = _is_negated(text, tokens, at)
                return Span(part[0].start, part[-1].end, *found, negated), length
        return None, 1

    def _word(self, name: str, key: tuple[str, ...], given: str | None, column: str) -> Word:
        """A word with what the dictionary knows of it, also of the singular of a plural tag."""
        root = self._roots.get(key) or next((self._roots[one] for one in _singulars(key) if one in self._roots), None)
        category = given or (root[0] if root else column)
        entry = self._dictionary.categories.get(category)
        if entry is None:
            return Word(name, category, "other", "none", None, f"{category}: {' '.join(key)}")
        number = self._number(category, key) if entry.form in NOUN_FORMS else "none"
        if root is None or root[0] != category:
            return Word(name, category, entry.form, number, None, _root(name))
        group = next((group for group, words in entry.groups.items() if root[1] in words), None)
        return Word(name, category, entry.form, number, (category, group) if group else None, _root(root[1]))

    def _number(self, category: str, key: tuple[str, ...]) -> Number:
        entry = self._dictionary.categories[category]
        last = key[-1]
        if any(tokens_of(word)[-1] == last for word in entry.mass):
            return "mass"
        if any(tokens_of(word)[-1] == last for word in entry.plural):
            return "many"
        is_plural = key not in self._roots and last.endswith("s") and not last.endswith(("ss", "us", "is"))
        return "many" if is_plural else "one"

    def _may_hold_together(self) -> list[frozenset[int]]:
        pairs: dict[str, set[str]] = {}
        for category in self._dictionary.categories.values():
            for word, others in category.exclusions.items():
                for other in others:
                    pairs.setdefault(_root(word), set()).add(_root(other))
                    pairs.setdefault(_root(other), set()).add(_root(word))
        by_meaning: dict[str, set[int]] = {}
        for code, entry in enumerate(self.words):
            by_meaning.setdefault(entry.meaning, set()).add(code)
        return [
            frozenset().union(*(by_meaning.get(m, ()) for m in (entry.meaning, *pairs.get(entry.meaning, ()))))
            for entry in self.words
        ]


def _root(name: str) -> str:
    return " ".join(tokens_of(name))


def _is_negated(text: str, tokens: Sequence[Token], at: int) -> bool:
    """Whether one of the two words before says no, with nothing but spaces between."""
    for back in range(at - 1, max(-1, at - 3), -1):
        if tokens[back].word in NEGATIONS:
            return all(are_joined(text, *pair) for pair in itertools.pairwise(tokens[back : at + 1]))
    return False


def plural(noun: str) -> str:
    """The regular plural of a noun.

    >>> plural("flute"), plural("synth bass"), plural("sax")
    ('flutes', 'synth basses', 'saxes')
    """
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def _singulars(key: tuple[str, ...]) -> list[tuple[str, ...]]:
    last = key[-1]
    ends = [last[: -len(end)] + new for end, new in (("ies", "y"), ("es", ""), ("s", "")) if last.endswith(end)]
    return [(*key[:-1], one) for one in ends if one]


def partial_tags(
    lexicon: Lexicon, codes: Sequence[int], draws: Draws, *, least: int, balanced: bool
) -> tuple[int, ...]:
    """Some of a clip's tags, in their order: at least `least` and not all, or all where it has no more.

    Args:
        lexicon: the words.
        codes: of the clip's tags.
        draws: choose.
        least: tags at least.
        balanced: go over the categories in random order, one tag of each in turn, so that every category is as likely
            as another; else any tag is as likely as another.
    """
    if len(codes) <= least:
        return tuple(codes)
    count = least + draws.below(len(codes) - least)
    order = balanced_order(lexicon, codes, draws) if balanced else draws.shuffled(codes)
    chosen = set(order[:count])
    return tuple(code for code in codes if code in chosen)


def balanced_order(lexicon: Lexicon, codes: Sequence[int], draws: Draws) -> list[int]:
    """The tags of a clip in turns over their categories, which stand in random order, as do the tags of one."""
    categories: dict[str, list[int]] = {}
    for code in codes:
        categories.setdefault(lexicon.words[code].category, []).append(code)
    queues = [draws.shuffled(of) for of in draws.shuffled(list(categories.values()))]
    return [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
