"""Short previews of tracks as MP3 inside of a page, within a size; or links to the files.

Shape suffixes: T samples.
"""

import base64
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np
import soundfile
from numpy.typing import NDArray

from cluster.settings import RunError, UserError
from data_shards.audio.decode import AudioError, FileAudio, read_mono, rejecting, to_int16
from data_shards.format.problems import ClipError
from data_shards.format.records import SAMPLE_RATE
from data_shards.format.text import as_text
from data_shards.read.reader import ShardSet
from evaluation.embeddings.embed import PCM_SCALE

Kind = Literal["embed", "link", "none"]
MIN_S, MAX_S = 2.0, 8.0
"""Of a preview."""
COMPRESSION = 0.9
"""Of libsndfile, for MP3 with a variable bit rate."""
BYTES_A_SECOND = 5_000
"""Of such a preview at most, but for noise; music took 4,600."""
AT_ONCE = 64
"""Previews that wait in memory before they are written."""
WORKERS = 4
"""Threads that decode and compress."""


@dataclass(frozen=True, kw_only=True)
class SoundOptions:
    """What of the tracks' sounds a page holds."""

    kind: Kind = "embed"
    """Previews inside of the page, links to the files, or none."""
    megabytes: float = 50.0
    """All previews together, as text of the page."""

    def __post_init__(self) -> None:
        if not 0 < self.megabytes < float("inf"):
            raise UserError(f"--sounds-mb must be > 0, got {self.megabytes:g}; --sounds none leaves sounds out")


@dataclass(frozen=True)
class Sound:
    """Where the sound of one track comes from."""

    read: Callable[[float], NDArray[np.int16]]
    """An excerpt of at most so many seconds at `SAMPLE_RATE`; raises `AudioError`, `ClipError` or `RunError`."""
    link: str = ""
    """Address of the file, relative to the page; empty where there is no file."""


@dataclass
class SoundCounts:
    """What became of the sounds of a page."""

    embedded: int = 0
    linked: int = 0
    silent: int = 0
    seconds: float = 0.0
    """Of each preview at most."""
    reason: str = ""
    """Why the first that could not be read could not."""

    def line(self) -> str:
        """The counts in words.

        >>> SoundCounts(embedded=3, silent=1, seconds=8.0).line()
        '3 previews of up to 8 s, 1 without a sound'
        """
        words = [f"{self.embedded:,} previews of up to {self.seconds:.2g} s"] * bool(self.embedded)
        words += [f"{self.linked:,} links to files"] * bool(self.linked)
        without = f"{self.silent:,} without a sound" + (f" ({self.reason})" if self.reason else "")
        return ", ".join(words + [without] * bool(self.silent)) or "none"


def file_sounds(files: Sequence[Path], page: Path) -> list[Sound]:
    """The sounds of files, with links to them from the folder of a page."""
    folder = page.absolute().parent
    return [Sound(partial(file_excerpt, file), _link(file, folder)) for file in files]


def clip_sounds(shards: ShardSet, keys: Sequence[str]) -> list[Sound]:
    """The sounds of clips of a set of shards."""
    rows = {str(key): row for row, key in enumerate(shards.index.key)}
    return [Sound(partial(clip_excerpt, shards, rows[key])) for key in keys]


def file_excerpt(path: Path, seconds: float) -> NDArray[np.int16]:
    """Part of a file from a third of what is left of it on, mono at `SAMPLE_RATE`; raises AudioError.

    Only that part is decoded where libsndfile can seek in the file.
    """
    try:
        with rejecting(str(path)), soundfile.SoundFile(os.fsencode(path)) as file:
            wanted = min(file.frames, round(seconds * file.samplerate))
            file.seek((file.frames - wanted) // 3)
            wave: NDArray[np.float32] = file.read(wanted, dtype="float32", always_2d=True)
            return to_int16(wave, file.samplerate, SAMPLE_RATE)
    except AudioError:  # what only the whole decoder reads, or says the reason of
        wave_T = read_mono(FileAudio("", str(path)), SAMPLE_RATE)
        wanted = min(len(wave_T), round(seconds * SAMPLE_RATE))
        start = (len(wave_T) - wanted) // 3
        return wave_T[start : start + wanted]


def clip_excerpt(shards: ShardSet, row: int, seconds: float) -> NDArray[np.int16]:
    """The same of a clip of a set of shards.
    Raises ClipError if the clip is damaged, RunError if its shard cannot be read.
    """
    frames = int(shards.index.frames[row])
    wanted = min(frames, round(seconds * shards.rate))
    wave_T = shards.read_window(row, (frames - wanted) // 3, wanted)
    return to_int16(wave_T.astype(np.float32) * np.float32(PCM_SCALE), shards.rate, SAMPLE_RATE)


def preview_s(count: int, megabytes: float) -> float:
    """Length of each of so many previews, so that all fit into a page; at least `MIN_S`, at most `MAX_S`.

    >>> preview_s(100, 50), round(preview_s(1_800, 50), 1), preview_s(50_000, 50)
    (8.0, 4.2, 2.0)
    """
    return float(np.clip(megabytes * 1e6 * 3 / 4 / (max(1, count) * BYTES_A_SECOND), MIN_S, MAX_S))


def previews(sounds: Sequence[Sound], options: SoundOptions, counts: SoundCounts) -> Iterator[tuple[int, str]]:
    """Number and base64 of the MP3 of every sound; empty where it cannot be read, or where the page is full.

    The order is by chance, the same every time: where not all fit, every part of a catalogue has some.

    Args:
        sounds: of the tracks.
        options: the size.
        counts: are filled in; what is not embedded counts as linked, or as silent where there is no link.
    """
    left = options.megabytes * 1e6
    counts.seconds = preview_s(len(sounds), options.megabytes)
    numbers = iter(np.random.default_rng(0).permutation(len(sounds)).tolist())
    with ThreadPoolExecutor(WORKERS) as threads:
        while group := list(islice(numbers, AT_ONCE)):
            for number, (content, reason) in zip(
                group, threads.map(lambda number: _compressed(sounds[number], counts.seconds), group), strict=True
            ):
                text = base64.b64encode(content).decode()
                text = text if len(text) <= left else ""
                left -= len(text)
                counts.reason = counts.reason or reason
                counts.embedded += bool(text)
                counts.linked += bool(sounds[number].link and not text)
                counts.silent += not (sounds[number].link or text)
                yield number, text
            if left < 4 / 3 * BYTES_A_SECOND * MIN_S:
                break
    for number in numbers:
        counts.linked += bool(sounds[number].link)
        counts.silent += not sounds[number].link
        yield number, ""


def _compressed(sound: Sound, seconds: float) -> tuple[bytes, str]:
    """The MP3, or the reason why there is none."""
    try:
        wave_T = sound.read(seconds)
    except (AudioError, ClipError, RunError) as error:
        return b"", as_text(str(error))
    buffer = io.BytesIO()
    soundfile.write(buffer, wave_T, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=COMPRESSION)
    return buffer.getvalue(), ""


def _link(file: Path, folder: Path) -> str:
    relative = os.path.relpath(file.absolute(), folder)
    return quote(os.fsencode(relative.replace(os.sep, "/")))
