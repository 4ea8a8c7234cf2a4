"""What is checked before a build begins: the place of its output, its clips, the text of its labels."""

import os
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from cluster.files.outputs import require_renamable, require_writable_folder
from cluster.files.spool import first_repeat
from cluster.settings import UserError
from data_shards.format.records import Clip
from data_shards.format.text import tidy

RECORD_NAME = "build.json"
"""The file of a set that identifies its input."""
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}\Z")  # with its extension it fits a tar header's 100 bytes


def require_place(out: Path, key: str) -> None:
    """Refuse a place where no set can be made: a set is written beside `out` and renamed at the end."""
    require_writable_folder(out, key, replaced=True)
    if out.is_dir() and not (out / RECORD_NAME).exists():  # a set that is there stays as it is
        require_renamable(out, key)
    growing = out.resolve().with_name(f"{out.resolve().name}.partial")
    if os.path.lexists(growing) and not growing.is_dir():
        raise UserError(
            f"{key} {out}: the set is first written to {growing}, which is a file; move it away, or give another folder"
        )


class ClipChecks:
    """Refuses clips that cannot become a set, before any work; 8 bytes are kept of each."""

    def __init__(self, vocabularies: Mapping[str, Sequence[str]]) -> None:
        self._known = {column: frozenset(tags) for column, tags in vocabularies.items()}
        self._keys = array("q")

    def add(self, clip: Clip) -> None:
        """Refuse an invalid key and an unknown tag."""
        if not _KEY.match(clip.key):
            raise UserError(f"{clip.audio.name}: key {clip.key!r} must be 1 to 90 letters, digits, '_' or '-'")
        self._keys.append(hash(clip.key))
        for column, known in self._known.items():
            unknown = sorted(set(clip.multilabel.get(column, ())) - known)
            if unknown:
                raise UserError(f"{clip.audio.name}: {column} {', '.join(unknown)} not in the given vocabulary")

    def require_unique(self, clips: Sequence[Clip]) -> None:
        """Refuse a key of two of the clips that were added."""
        if not clips:
            raise UserError("there are no clips to build shards from")
        hashes = np.asarray(self._keys, np.int64)
        places = first_repeat((clip.key for clip in islice(clips, len(hashes))), hashes)
        if places:
            one, other = (clips[place] for place in places)
            raise UserError(f"key {one.key} is used twice, by {one.audio.name} and by {other.audio.name}")


def tidied(clip: Clip) -> Clip:
    """The clip with `tidy` text of labels, track, artist, licence and captions."""
    return replace(
        clip,
        track=tidy(clip.track),
        artist=_known(clip.artist),
        licence=_known(clip.licence),
        multilabel={tidy(name): tuple(dict.fromkeys(map(tidy, tags))) for name, tags in clip.multilabel.items()},
        categorical={tidy(name): _known(value) for name, value in clip.categorical.items()},
        numeric={tidy(name): value for name, value in clip.numeric.items()},
        captions=tuple(map(tidy, clip.captions)),
        caption_tags=tuple(tuple(dict.fromkeys(map(tidy, tags))) for tags in clip.caption_tags),
    )


def tidied_orders(vocabularies: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Tag orders with `tidy` text."""
    return {tidy(column): tuple(map(tidy, tags)) for column, tags in vocabularies.items()}


def _known(text: str | None) -> str | None:
    return (tidy(text) or None) if text else text
