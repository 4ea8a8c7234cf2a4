"""Which rows of an index are a query itself, and which are of its track.

Of a set of shards the track is the index's own. Of files it follows from their names: two files of one folder are of
one track if they are called the same but for the number of a part, or for their format.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from cluster.files.storage import sha256
from data_shards.format.text import as_text
from data_shards.sources.folder import key_of
from evaluation.search.track_index import Track, TrackIndex

LeaveOut = Literal["nothing", "query", "track"]
"""What of a query is no answer to it: nothing; the query itself; its whole track."""
_PART = re.compile(r"[\s_.#(\[-]+\d+[)\]]?$")


def song_of(name: str) -> str:
    """The track in a file's name: the name without the number of a part and without the suffix.

    A name of numbers alone is no song's: ``1-02.wav`` is a track of a disc, not a part.

    >>> [song_of(name) for name in ("song_0.ogg", "song (12).mp3", "song.flac", "1-02.wav", "live 1999 - 3.wav")]
    ['song', 'song', 'song', '1-02', 'live 1999']
    """
    stem = Path(name).stem
    base = _PART.sub("", stem)
    return base if any(sign.isalpha() for sign in base) else stem


def own_rows(index: TrackIndex, queries: Sequence[Path], leave_out: LeaveOut) -> list[set[int]]:
    """Rows of an index that are no answers to each query.

    Args:
        index: of a catalogue.
        queries: audio files.
        leave_out: nothing; rows at the query's path, with its bytes, or of its clip in a set of shards; or all rows
            of a track that such a row is of, and of the query's own.
    """
    if leave_out == "nothing":
        return [set() for _ in queries]
    rows = _same(index, queries)
    return rows if leave_out == "query" else _of_their_tracks(index, queries, rows)


def namer(index: TrackIndex) -> Callable[[Track], tuple[str, str]]:
    """What names the track that a row is of: equal for rows of one track."""
    folders: dict[Path, str] = {}

    def name(track: Track) -> tuple[str, str]:
        if index.of_shards:
            return "", track.track
        file = index.file(track)
        if file.parent not in folders:
            folders[file.parent] = str(file.parent.resolve())
        return folders[file.parent], song_of(file.name)

    return name


def _all_tracks(index: TrackIndex) -> Iterator[tuple[int, Track]]:
    row = 0
    for part in index.parts:
        for track in index.tracks(part):
            yield row, track
            row += 1


def _same(index: TrackIndex, queries: Sequence[Path]) -> list[set[int]]:
    """Rows that are each query itself."""
    paths = [Path(as_text(str(query.resolve()))) for query in queries]
    digests = [sha256(query) for query in queries]
    keys = [_keys(path) for path in paths] if index.of_shards else [set[str]()] * len(queries)
    rows: list[set[int]] = [set() for _ in queries]

    def is_same(track: Track, path: Path, digest: str) -> bool:
        # A name first: resolving every path of a catalogue would ask the disk for each.
        return track.sha256 == digest or (path.name == Path(track.path).name and index.file(track).resolve() == path)

    for row, track in _all_tracks(index):
        for i, (path, digest) in enumerate(zip(paths, digests, strict=True)):
            if track.path in keys[i] if index.of_shards else is_same(track, path, digest):
                rows[i].add(row)
    return rows


def _keys(path: Path) -> set[str]:
    """Keys that a clip made of a file may have: its name without suffix, or that of `key_of` below any folder."""
    parts = path.parts[1:]
    return {path.stem} | {key_of("/".join(parts[at:])) for at in range(len(parts))}


def _of_their_tracks(index: TrackIndex, queries: Sequence[Path], own: Sequence[set[int]]) -> list[set[int]]:
    """The rows, and all others of the same tracks."""
    wanted: list[set[tuple[str, str]]] = [
        set() if index.of_shards else {(str(query.resolve().parent), song_of(query.name))} for query in queries
    ]
    identity = namer(index)
    anyone = set[int]().union(*own)
    for row, track in _all_tracks(index) if anyone else ():
        for i in [i for i, rows in enumerate(own) if row in rows]:
            wanted[i].add(identity(track))
    found = [set(rows) for rows in own]
    for row, track in _all_tracks(index):
        name = identity(track)
        for i, names in enumerate(wanted):
            if name in names:
                found[i].add(row)
    return found
