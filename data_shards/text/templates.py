"""Sentences from tags, every word true, and back: which tags a sentence shows.

Augmentation by templates (arXiv:2409.11498 lets a language model write; a plain template is not far below one, see
docs/music_and_text.md). A sentence that would not read back as its tags is written another way.
"""

from collections.abc import Sequence

from data_shards.text.draws import Draws
from data_shards.text.lexicon import NOUN_FORMS, Lexicon, Word

NOUNS = ("track", "piece", "recording")
LISTS = (", ", "; ", " | ", "\n")
"""Separators of the tags where no sentence reads back, the first that does."""
_A_SOUNDS = ("uni", "use", "usu", "eu", "uk", "one", "once", "ut", "ur")
_AN_SOUNDS = ("hour", "honest", "heir", "honour", "8", "11", "18")
_LETTERS_WITH_AN = "AEFHILMNORSX"


def article(word: str) -> str:
    """The indefinite article before a word, by its sound.

    >>> article("energetic"), article("slow"), article("ukulele"), article("8-bit"), article("R&B"), article("hour")
    ('an', 'a', 'a', 'an', 'an', 'an')
    """
    low = word.lower()
    if low.startswith(_AN_SOUNDS):
        return "an"
    if low.startswith(_A_SOUNDS):
        return "a"
    first = word.split("&")[0].split(" ")[0].split("-")[0]
    if first.isupper() and not set(first[1:]) & set("AEIOU"):  # initials, which are spelt
        return "an" if word[0] in _LETTERS_WITH_AN else "a"
    return "an" if low[:1] in tuple("aeiou") else "a"


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence.

    >>> listed(["a flute"]), listed(["a flute", "drums", "an organ"])
    ('a flute', 'a flute, drums and an organ')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


class Templates:
    """Writes sentences that show given words, and reads which words a sentence shows."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon

    def write(self, codes: Sequence[int], draws: Draws) -> str:
        """A sentence that shows exactly these words.

        Args:
            codes: of the words, at least one.
            draws: choose the template, and the order of the words: in a fixed order a swapped word would stand where it
                never stands otherwise, and betray its swap.

        Raises:
            ValueError: no words, or words that no text of ours can show apart.
        """
        if not codes:
            raise ValueError("a sentence needs at least one tag")
        parts = _Parts(self.lexicon, draws.shuffled(codes))
        for carrier in draws.shuffled(_CARRIERS):
            for noun in draws.shuffled(NOUNS):
                if self._reads_back(text := carrier(parts, noun), codes):
                    return text
        return self.join(codes)

    def join(self, codes: Sequence[int]) -> str:
        """The bare tags, one after another.
        Raises ValueError if they could not be told apart in a list, such as ``a; b`` beside ``a``.
        """
        names = [self.lexicon.words[code].name for code in codes]
        for separator in LISTS:
            if self._reads_back(text := separator.join(names), codes):
                return text
        raise ValueError(f"the tags {', '.join(map(repr, names))} cannot be distinguished in a text; rename one")

    def tags(self, text: str) -> tuple[int, ...]:
        """Codes of the words that a text shows."""
        return self.lexicon.says(text)

    def _reads_back(self, text: str, codes: Sequence[int]) -> bool:
        spans = self.lexicon.find(text)
        return (
            len(spans) == len(codes)
            and {span.code for span in spans} == set(codes)
            and not any(span.negated for span in spans)
        )


class _Parts:
    """The words of a sentence by their place in it."""

    def __init__(self, lexicon: Lexicon, codes: Sequence[int]) -> None:
        words = [lexicon.words[code] for code in codes]
        self.adjectives = [word.name for word in words if word.form == "adjective"]
        self.genres = [word.name for word in words if word.form == "genre"]
        self.players = [word for word in words if word.form in NOUN_FORMS]
        self.keys = [word.name for word in words if word.form == "key"]
        self.others: dict[str, list[str]] = {}
        for word in words:
            if word.form == "other":
                self.others.setdefault(word.category, []).append(word.name)

    def head(self, noun: str, *, commas: bool = False) -> str:
        """Adjectives, genres and the noun."""
        adjectives = (", " if commas else " ").join(self.adjectives)
        return " ".join(part for part in (adjectives, " ".join(self.genres), noun) if part)

    def played(self, link: str, *, articles: bool = True) -> str:
        """What plays, after a link such as "with" and a space before it; nothing where that is not known."""
        if not self.players:
            return ""
        return f" {link} {listed([_noun(word) if articles else word.name for word in self.players])}"

    @property
    def tail(self) -> str:
        """The key, the full stop, and the tags of categories that have no place in a sentence."""
        key = f" in {article(self.keys[0])} {' and '.join(self.keys)} key" if self.keys else ""
        return "".join([key, ".", *(f" {_capital(of)}: {', '.join(names)}." for of, names in self.others.items())])


def _noun(word: Word) -> str:
    return f"{article(word.name)} {word.name}" if word.number == "one" else word.name


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(parts: _Parts, noun: str) -> str:
    head = parts.head(noun)
    return f"{_capital(article(head))} {head}{parts.played('with')}{parts.tail}"


def _featuring(parts: _Parts, noun: str) -> str:
    head = parts.head(noun, commas=True)
    return f"{_capital(article(head))} {head}{parts.played('featuring', articles=False)}{parts.tail}"


def _this_is(parts: _Parts, noun: str) -> str:
    head = parts.head(noun, commas=True)
    return f"This is {article(head)} {head}{parts.played('with')}{parts.tail}"


def _music(parts: _Parts, _: str) -> str:
    return f"{_capital(parts.head('music'))}{parts.played('with')}{parts.tail}"


def _played_on(parts: _Parts, noun: str) -> str:
    head = parts.head(noun)
    if any(word.form == "voice" for word in parts.players):
        return _plain(parts, noun)
    return f"{_capital(article(head))} {head}{parts.played('played on', articles=False)}{parts.tail}"


def _players_first(parts: _Parts, noun: str) -> str:
    head = parts.head(noun)
    if not parts.players:
        return f"Here is {article(head)} {head}{parts.tail}"
    return f"{_capital(listed([_noun(word) for word in parts.players]))} in {article(head)} {head}{parts.tail}"


_CARRIERS = (_plain, _featuring, _this_is, _music, _played_on, _players_first)
