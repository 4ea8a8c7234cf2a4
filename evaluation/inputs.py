"""The audio that a command is given: files and folders, mixed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cluster.settings import UserError
from data_shards.sources.folder import AUDIO_SUFFIXES, audio_files


def expand(places: Sequence[Path], *, missing_ok: bool = False) -> list[Path]:
    """Files as they are given, and in place of a folder the audio below it, sorted; each file once.

    Args:
        places: files and folders.
        missing_ok: keep what does not exist, for whoever rejects files one by one.

    Raises:
        UserError: names a place that does not exist, or a folder without audio.
    """
    return list(dict.fromkeys(_expanded(places, missing_ok=missing_ok)))


def _expanded(places: Iterable[Path], *, missing_ok: bool) -> Iterable[Path]:
    for place in places:
        if place.is_dir():
            found = sorted(audio_files(place))
            if not found:
                raise UserError(f"{place}: no audio files below it; known are {', '.join(AUDIO_SUFFIXES)}")
            yield from found
        elif place.exists() or missing_ok:
            yield place
        else:
            raise UserError(f"{place}: no such file or folder")
