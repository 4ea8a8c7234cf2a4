"""Datasets of the user's own: a function that yields clips, named ``module:function``."""

import itertools
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

from cluster.entry_points import import_factory
from cluster.files.spool import Spool
from cluster.own_settings import check_settings
from cluster.settings import UserError
from data_shards.format.records import SPLITS, Clip, Listing

KEY = "dataset"
"""What messages call the dataset; its settings are ``dataset.settings.*``."""


def list_own(name: str, settings: Mapping[str, Any]) -> Listing:
    """List the clips that a function of the user's own yields.

    Args:
        name: ``module:function``; the module is found on PYTHONPATH or in the working directory.
        settings: keyword arguments of the function, checked against its signature.

    Raises:
        UserError: no such module or function, a wrong setting, the function raises, or it yields what is no clip; the
            message names the dataset and the clip.
    """
    function = import_factory(name, KEY)
    arguments = check_settings(function, settings, f"{KEY}.settings")
    label = f"{KEY}={name}"
    clips = Spool[Clip]()
    kinds: set[type] = set()
    for number, found in enumerate(_yielded(function, arguments, label), start=1):
        clip = _checked(found, f"{label}, clip {number}")
        if type(clip.audio) not in kinds:
            _require_portable(clip, f"{label}, clip {number} ({clip.key})")
            kinds.add(type(clip.audio))
        clips.append(clip)
    if not clips:
        raise UserError(f"{label}: yields no clips")
    return Listing(clips)


def _yielded(function: Callable[..., Any], arguments: Mapping[str, Any], label: str) -> Iterator[object]:
    count = 0
    try:
        found = function(**arguments)
        if not isinstance(found, Iterable):
            raise UserError(f"{label}: returns {_kind(found)}; write a generator that yields Clip")
        for clip in found:
            yield clip
            count += 1
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        place = f"after {count} clips" if count else "before its first clip"
        why = f": {error}" if str(error) else ""
        raise UserError(f"{label}: raised {type(error).__name__} {place}{why}") from error


def _checked(found: object, place: str) -> Clip:
    """The clip with tuples for lists and floats for numbers of NumPy. The UserError names the field that is wrong."""
    if not isinstance(found, Clip):
        raise UserError(f"{place}: is {_kind(found)}, not a Clip; import it: from counterpoint import Clip")
    place = f"{place} ({found.key})"

    def require(condition: bool, field: str, value: object, wanted: str) -> None:
        if not condition:
            raise UserError(f"{place}: {field} is {value!r}; it must be {wanted}")

    for field in ("key", "track"):
        value = getattr(found, field)
        require(isinstance(value, str) and bool(value), field, value, "text")
    for field in ("artist", "licence"):
        value = getattr(found, field)
        require(value is None or isinstance(value, str), field, value, "text or None")
    require(found.split in SPLITS, "split", found.split, " or ".join(SPLITS))
    for field in ("multilabel", "categorical", "numeric"):
        columns: Any = getattr(found, field)
        require(isinstance(columns, Mapping), field, columns, "a mapping from columns to values")
        for column, value in columns.items():
            require(isinstance(column, str) and bool(column), field, column, "a mapping from names of columns")
            named = f"{field}.{column}"
            if field == "multilabel":
                require(_is_texts(value), named, value, 'a tuple of texts, such as ("rock",)')
            elif field == "categorical":
                require(value is None or (isinstance(value, str) and bool(value)), named, value, "text or None")
            else:
                number = not isinstance(value, bool) and isinstance(value, Real) and not math.isinf(value)
                require(number, named, value, "a finite number, or NaN where unknown")
    columns_of = {kind: set(getattr(found, kind)) for kind in ("multilabel", "categorical", "numeric")}
    for first, second in itertools.combinations(columns_of, 2):
        if twice := columns_of[first] & columns_of[second]:
            column = min(twice)
            raise UserError(f"{place}: column {column!r} is in {first} and in {second}; name each column once")
    require(_is_texts(found.captions), "captions", found.captions, "a tuple of texts")
    readable = callable(getattr(found.audio, "read", None)) and isinstance(getattr(found.audio, "name", None), str)
    require(readable, "audio", found.audio, "audio_file(PATH), or an object with read() and the text name")
    return replace(
        found,
        multilabel={column: tuple(tags) for column, tags in found.multilabel.items()},
        numeric={column: float(value) for column, value in found.numeric.items()},
        captions=tuple(found.captions),
    )


def _require_portable(clip: Clip, place: str) -> None:
    """Refuse audio that no other process could read, or that a second run would not recognise."""
    kind = type(clip.audio)
    if kind.__repr__ is object.__repr__:  # it holds an address: no build could be resumed
        raise UserError(f"{place}: {kind.__name__} has no repr that names its sound; make it a frozen dataclass")
    try:
        pickle.dumps(clip.audio)
    except Exception as error:  # pickle and __reduce__ raise anything
        raise UserError(f"{place}: {kind.__name__} cannot be pickled for the worker processes: {error}") from error


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) and text.strip() for text in value)


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
