"""Scan a folder for audio files; files that are left out are counted by kind."""

import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.files.spool import Spool, sorted_spool
from data_shards.audio import pyav

AUDIO_SUFFIXES = (
    ".wav", ".wave", ".bwf", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga", ".aif", ".aiff",
    ".aifc", ".au", ".snd", ".w64", ".caf",
)  # fmt: skip
"""What libsndfile decodes."""
MAX_NAMED = 12
"""As many suffixes are named in a report, the most frequent first."""


@dataclass(frozen=True)
class AudioFolder:
    """The audio files below a folder, and counts of what was left out."""

    root: Path
    files: Sequence[Path]
    """Audio files, sorted; each folder once, however many links lead to it."""
    by_av: Mapping[str, int] = field(default_factory=dict)
    """Those of `files` that only PyAV decodes, by suffix."""
    undecodable: Mapping[str, int] = field(default_factory=dict)
    """Audio and video files that are left out because nothing installed decodes them, by suffix."""
    others: Mapping[str, int] = field(default_factory=dict)
    """Files of other suffixes."""
    hidden: int = 0
    """Files and folders whose names begin with a dot."""
    no_files: int = 0
    """Pipes, sockets and devices, and links that lead nowhere."""
    seen_links: int = 0
    """Links to folders that are scanned elsewhere."""
    unreadable: tuple[str, ...] = ()
    """Folders that cannot be listed, and why."""

    def passed_over(self) -> dict[str, Any]:
        """What is left out, by kind, as JSON types; kinds without any are left out."""
        counts = {
            "undecodable": dict(self.undecodable),
            "others": dict(self.others),
            "hidden": self.hidden,
            "no_files": self.no_files,
            "seen_links": self.seen_links,
            "unreadable": list(self.unreadable),
        }
        return {kind: count for kind, count in counts.items() if count}

    def report(self) -> list[str]:
        """A line for each kind that is left out, with what to do about it."""
        lines = []
        if self.by_av:
            lines.append(f"{_named(self.by_av)} read by PyAV")
        if self.undecodable:
            lines.append(f"{_named(self.undecodable)} left out: libsndfile does not decode them; {self._conversion()}")
        if self.others:
            lines.append(f"{_named(self.others)} left out: no suffix of audio")
        if self.hidden:
            lines.append(f"{self.hidden:,} hidden files and folders left out: their names begin with a dot")
        if self.no_files:
            lines.append(f"{self.no_files:,} left out that are no files: pipes, sockets, devices, links to nothing")
        if self.seen_links:
            lines.append(f"{self.seen_links:,} links left out: they lead to folders that are scanned anyway")
        return [*lines, *self.unreadable]

    def no_files_message(self) -> str:
        """The error message where no audio file is found."""
        known = f"{self.root}: no audio files below it; known are {', '.join(suffixes())}"
        return "\n  ".join([known, *self.report()])

    def _conversion(self) -> str:
        first = next(iter(self.undecodable))
        convert = f'for f in *{first}; do ffmpeg -i "$f" "${{f%.*}}.flac"; done'
        return f"convert them: {convert}" + ("" if pyav.has_av() else f"  or read them: {pyav.EXTRA}")


def suffixes() -> tuple[str, ...]:
    """Of the audio files that can be decoded here."""
    return AUDIO_SUFFIXES + (pyav.SUFFIXES if pyav.has_av() else ())


def scan_folder(root: Path, *, leave_out: Path | None = None) -> AudioFolder:
    """Find the audio files below a folder, through links to other folders as well.

    Hidden files are left out: macOS leaves a ``._song.mp3``, which is no audio, beside every song it copies.
    """
    scan = _Scan(frozenset(suffixes()))
    if leave_out is not None and leave_out.is_dir():
        scan.enter(leave_out)
    waiting = [root]
    while waiting:  # links after all that is there itself: a file has the path of its own folder
        for folder in waiting:
            if scan.enter(folder):
                scan.scan(folder)
            elif folder != root:
                scan.counts["seen_links"] += 1
        waiting, scan.links = sorted(scan.links), []
    files = sorted_spool(scan.files)
    foreign = Counter(path.suffix.lower() for path in files if path.suffix.lower() in pyav.SUFFIXES)
    return AudioFolder(
        root,
        files,
        by_av=_ranked(foreign),
        undecodable=_ranked(scan.undecodable),
        others=_ranked(scan.others),
        unreadable=tuple(sorted(scan.unreadable)),
        **scan.counts,
    )


class _Scan:
    """What has been found so far."""

    def __init__(self, known: frozenset[str]) -> None:
        self.known = known
        self.files = Spool[Path]()
        self.links: list[Path] = []
        self.undecodable, self.others = Counter[str](), Counter[str]()
        self.counts = {"hidden": 0, "no_files": 0, "seen_links": 0}
        self.unreadable: list[str] = []
        self._entered: set[tuple[int, int]] = set()

    def enter(self, folder: Path) -> bool:
        """Whether a folder is entered for the first time, by any of its names."""
        try:
            status = folder.stat()
        except OSError as error:
            self.unreadable.append(f"{folder} left out: cannot be read: {error.strerror}")
            return False
        place = (status.st_dev, status.st_ino)
        if place in self._entered:
            return False
        self._entered.add(place)
        return True

    def scan(self, folder: Path) -> None:
        """Scan a folder and its subfolders, but not links."""
        folders = [folder]
        while folders:
            here, inside, seen = folders.pop(), list[Path](), False
            try:
                with os.scandir(here) as entries:
                    for entry in entries:
                        seen = True
                        if below := self._take(entry, here):
                            inside.append(below)
            except OSError as error:
                what = "cannot be read to its end, some of it is left out" if seen else "left out: cannot be read"
                self.unreadable.append(f"{here} {what}: {error.strerror}")
            folders += filter(self.enter, sorted(inside))

    def _take(self, entry: "os.DirEntry[str]", here: Path) -> Path | None:
        """Count an entry; return it if it is a folder to scan."""
        path = here / entry.name
        mode = _mode(entry)
        suffix = path.suffix.lower()
        if entry.name.startswith("."):
            self.counts["hidden"] += 1
        elif stat.S_ISDIR(mode):
            if not entry.is_symlink():
                return path
            self.links.append(path)
        elif not stat.S_ISREG(mode):
            self.counts["no_files"] += 1
        elif suffix in self.known:
            self.files.append(path)
        else:
            (self.undecodable if suffix in pyav.SUFFIXES else self.others)[suffix] += 1
        return None


def _mode(entry: "os.DirEntry[str]") -> int:
    """The mode of the target of a name; 0 where there is none."""
    try:
        if entry.is_file(follow_symlinks=False):
            return stat.S_IFREG
        if entry.is_dir(follow_symlinks=False):
            return stat.S_IFDIR
        return entry.stat().st_mode
    except OSError:
        return 0


def _ranked(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _named(counts: Mapping[str, int]) -> str:
    named = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in list(counts.items())[:MAX_NAMED]]
    more = sum(list(counts.values())[MAX_NAMED:])
    return ", ".join(named + ([f"{more:,} others"] if more else []))
