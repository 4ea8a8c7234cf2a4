"""What is checked before a build begins: the place of its output, its clips, the text of its labels."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cluster.files.outputs import require_writable_folder
from cluster.settings import UserError
from data_shards.format.records import Clip, Listing
from data_shards.format.text import tidy

RECORD_NAME = "build.json"
"""The file of a set that identifies its input."""
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}\Z")  # with its extension it fits a tar header's 100 bytes


def require_place(out: Path, key: str) -> None:
    """Refuse a place where no set can be made, before any work: a set is written beside `out` and renamed at the end.

    Raises:
        UserError: names `out`, what is wrong and the remedy.
    """
    require_writable_folder(out, key, replaced=True)
    if out.is_dir() and os.path.ismount(out) and not (out / RECORD_NAME).exists():
        raise UserError(f"{key} {out}: is a mount point, which cannot be renamed; give a folder below it")
    growing = out.with_name(out.name + ".partial")
    if os.path.lexists(growing) and not growing.is_dir():
        raise UserError(
            f"{key} {out}: the set is first written to {growing}, which is a file; move it away, or give another folder"
        )


def check_clips(clips: Sequence[Clip], vocabularies: Mapping[str, Sequence[str]]) -> None:
    """Refuse clips that cannot become a set, before any work.

    Raises:
        UserError: no clips, an invalid or duplicate key (both clips are named), an unknown tag.
    """
    if not clips:
        raise UserError("there are no clips to build shards from")
    seen: dict[str, Clip] = {}
    for clip in clips:
        if not _KEY.match(clip.key):
            raise UserError(f"{clip.audio.name}: key {clip.key!r} must be 1 to 90 letters, digits, '_' or '-'")
        other = seen.setdefault(clip.key, clip)
        if other is not clip:
            raise UserError(f"key {clip.key} is used twice, by {other.audio.name} and by {clip.audio.name}")
        for column, known in vocabularies.items():
            unknown = sorted(set(clip.multilabel.get(column, ())) - set(known))
            if unknown:
                raise UserError(f"{clip.audio.name}: {column} {', '.join(unknown)} not in the given vocabulary")


def tidied(listing: Listing) -> Listing:
    """The listing with `tidy` text of labels, tag orders, tracks, artists, licences and captions."""

    def known(text: str | None) -> str | None:
        return (tidy(text) or None) if text else text

    def of(clip: Clip) -> Clip:
        return replace(
            clip,
            track=tidy(clip.track),
            artist=known(clip.artist),
            licence=known(clip.licence),
            multilabel={tidy(name): tuple(dict.fromkeys(map(tidy, tags))) for name, tags in clip.multilabel.items()},
            categorical={tidy(name): known(value) for name, value in clip.categorical.items()},
            numeric={tidy(name): value for name, value in clip.numeric.items()},
            captions=tuple(map(tidy, clip.captions)),
            caption_tags=tuple(tuple(dict.fromkeys(map(tidy, tags))) for tags in clip.caption_tags),
        )

    orders = {tidy(column): tuple(map(tidy, tags)) for column, tags in listing.vocabularies.items()}
    return Listing(tuple(map(of, listing.clips)), orders, listing.notes)
