"""The audio that a command is given: files and folders, mixed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.settings import UserError
from data_shards.audio.scan import AudioFolder, scan_folder


@dataclass(frozen=True)
class Inputs:
    """Files to read, and what the scans of the given folders found."""

    files: list[Path]
    folders: tuple[AudioFolder, ...] = ()

    def report(self) -> list[str]:
        """A line for each kind of what the scans passed over, with what to do about it."""
        return [f"{folder.root}: {line}" for folder in self.folders for line in folder.report()]

    def passed_over(self) -> dict[str, Any]:
        """What is left out of each folder, by kind, as JSON types; folders without any are left out."""
        found = {str(folder.root): folder.passed_over() for folder in self.folders}
        return {root: kinds for root, kinds in found.items() if kinds}


def check_there(places: Sequence[Path]) -> None:
    """Refuse a place that does not exist. The UserError names it."""
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such file or folder")


def expand(places: Sequence[Path], *, missing_ok: bool = False) -> Inputs:
    """Files as they are given, and in place of a folder the audio below it, sorted; each file once.
    The UserError names a place that does not exist, or a folder without audio.
    """
    files: list[Path] = []
    folders: list[AudioFolder] = []
    for place in places:
        if place.is_dir():
            folder = scan_folder(place)
            if not folder.files:
                raise UserError(folder.no_files_message())
            folders.append(folder)
            files += folder.files
        elif place.exists() or missing_ok:
            files.append(place)
        else:
            check_there([place])
    return Inputs(list(dict.fromkeys(files)), tuple(folders))
