"""What was meant by an option that a command does not have: a key of its configuration, or another option."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from typer.core import TyperGroup

from commands.config import keys_in

KEYS = "[KEY=VALUE]..."
"""How the help of a command shows that it takes keys."""
ROOTS = {
    "pretrain": {"pretrain": ""},
    "views": {"pretrain": ""},
    "quickstart": {"pretrain": ""},
    "evaluate": {"evaluate": ""},
    "sweep": {"sweep": "", "pretrain": ""},
    "study": {"study": "study.", "pretrain": ""},
    "shards": {"shards": ""},
    "captions": {"pretrain": "text."},
}
"""First word of a command → the configurations whose keys it takes, and what those keys begin with."""
SAME = {"out": "dir", "output": "dir"}
"""Options of other commands → the last part of the key that does the same in one with keys."""
MOST_MEANT = 3
"""Keys or commands that one message names."""
VALUE = "VALUE"
"""Stands where the option was given none."""
_ALIKE = 0.7
"""Least likeness of two names, one of them misspelt; ``page`` and ``space`` have .67."""


class Commands(TyperGroup):
    """All commands; the refusal of an option that there is not names what was meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words as they were typed: the refusal repeats the value."""
        ctx.meta[__name__] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if type(error).__name__ == "NoSuchOption":  # typer has a copy of Click and does not publish its exceptions
                refused: Any = error
                refused.message, refused.possibilities = _refusal(refused, ctx.meta[__name__], self), None
            raise


def _refusal(error: Any, words: Sequence[str], group: Any) -> str:
    option, value = _as_typed(error.option_name, words)
    name, command = option.lstrip("-").replace("-", "_"), error.ctx.command
    said, keys = f"No such option: {option}", _keys_of(error.ctx.command_path, command)
    if same := next(filter(None, (_same_name(name, known) for known in keys.values())), None):
        return f"{said}; did you mean {_written(same, value)}"
    own = {opt: parameter for parameter in command.params for opt in parameter.opts if opt.startswith("--")}
    if near := [opt for opt in own if opt.startswith(f"{option}-")] or _alike(option, list(own)):
        return f"{said}; did you mean {near[0]}?"
    about = [opt for opt, parameter in own.items() if _mentions(parameter, name)]
    if len(about) == 1:
        return f"{said}; did you mean {about[0]}?"
    for known in keys.values():
        if near := _alike(name, [key.rpartition(".")[2] for key in known]):
            return f"{said}; did you mean {_written(_same_name(near[0], known), value)}"
    others = [f"`counterpoint {path}`" for path, options in _commands(group) if option in options]
    if others:
        return f"{said}; {' and '.join(others[:MOST_MEANT])} {'has' if len(others) == 1 else 'have'} it"
    return said + (f"; keys are listed by `counterpoint config {next(iter(keys))}`" if keys else "")


def _written(keys: Sequence[str], value: str) -> str:
    return f"{' or '.join(f'{key}={value or VALUE}' for key in keys)}? A key is written without dashes."


def _as_typed(option: str, words: Sequence[str]) -> tuple[str, str]:
    """The option with its two dashes, and the value that it was given, empty where there is none.

    >>> _as_typed("--batch", ["pretrain", "a.yaml", "--batch", "8"]), _as_typed("-b", ["pretrain", "-batch=8"])
    (('--batch', '8'), ('--batch', '8'))
    """
    for place, word in enumerate(words):
        name, sign, value = word.partition("=")
        if name == option or (len(option) == 2 and name[:2] == option and name[:1] != name[1:2]):
            follows = words[place + 1] if len(words) > place + 1 else ""
            is_value = not sign and follows and not follows.startswith("-") and "=" not in follows
            long = f"--{name.lstrip('-')}" if len(name) > 2 else name
            return long, follows if is_value else value
    return option, ""


def _keys_of(path: str, command: Any) -> dict[str, list[str]]:
    """Keys that a command takes, by configuration, but for those of sections that users name."""
    if not any(parameter.metavar == KEYS for parameter in command.params):
        return {}
    roots = ROOTS.get(path.split()[1], {})
    return {
        root: [row.key for row in keys_in(root) if row.key.startswith(prefix) and not re.search(r"NAME|\[", row.key)]
        for root, prefix in roots.items()
    }


def _same_name(name: str, keys: Iterable[str]) -> list[str]:
    """The key itself, or those that end in a name."""
    found = [key for key in keys if name in (key, key.rpartition(".")[2])]
    found = found or [key for key in keys if key.rpartition(".")[2] == SAME.get(name)]
    return sorted(found, key=lambda key: key.count("."))[:MOST_MEANT]


def _alike(name: str, known: Sequence[str]) -> list[str]:
    names = {word.lstrip("-").replace("-", "_"): word for word in known}
    found = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), list(names), n=1, cutoff=_ALIKE)
    return [names[word] for word in found if len(name) > 1]


def _mentions(parameter: Any, name: str) -> bool:
    """Whether the help of an option speaks of a word: ``--space`` is what --by compares in."""
    word = re.escape(name.replace("_", " ").removesuffix("s"))
    return len(name) > 2 and bool(re.search(rf"\b{word}s?\b", parameter.help or "", re.IGNORECASE))


def _commands(group: Any, above: str = "") -> Iterator[tuple[str, list[str]]]:
    """Every command by its words, with its options."""
    for name, command in group.commands.items():
        path = f"{above}{name}"
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} ")
        else:
            yield path, [opt for parameter in command.params for opt in parameter.opts]
