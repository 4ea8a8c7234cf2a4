"""A dataset's files as they were published: a folder, or a zip read in place."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cluster.settings import UserError
from data_shards.audio.archives import ZipTree
from data_shards.audio.decode import FileAudio
from data_shards.format.records import Audio
from data_shards.format.text import tidy


class Tree(Protocol):
    """Files below one point, by path with ``/``."""

    @property
    def name(self) -> str:
        """Name for messages."""
        ...

    def paths(self) -> Sequence[str]:
        """Every file, sorted."""
        ...

    def read(self, path: str) -> bytes:
        """A small file whole. Raises UserError if it is missing or damaged."""
        ...

    def audio(self, path: str) -> Audio:
        """A file as audio; a missing or damaged file raises when it is read."""
        ...


@dataclass(frozen=True)
class FolderTree:
    """A folder."""

    root: Path

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self.root)

    def paths(self) -> list[str]:
        """Every file but hidden ones, sorted."""
        files = (path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith("."))
        return sorted(path.relative_to(self.root).as_posix() for path in files)

    def read(self, path: str) -> bytes:
        """A small file whole. Raises UserError if it is missing or cannot be read."""
        try:
            return (self.root / self.spelled(path)).read_bytes()
        except OSError as error:
            raise UserError(f"{self.root / path}: {error.strerror}") from None

    def audio(self, path: str) -> FileAudio:
        """A file as audio, found in either Unicode form."""
        return FileAudio(str(self.root), self.spelled(path))

    def spelled(self, path: str) -> str:
        """A path in the spelling of the file system, which may differ in Unicode form (`data_shards.format.text.tidy`).

        A name that a Mac wrote is decomposed (NFD), one that was typed is composed (NFC); both look alike.
        Raises UserError if two files look like the one that is named, and neither is spelled like it.
        """
        if os.path.lexists(f"{self.root}/{path}"):  # less than half of the time that Path takes
            return path
        found: list[str] = []
        for name in path.split("/"):
            if not os.path.lexists("/".join([str(self.root), *found, name])):
                same = self._names_alike("/".join(found)).get(tidy(name), [])
                if len(same) > 1:
                    both = " and ".join(ascii(one) for one in same[:2])
                    raise UserError(f"{self.root / path}: is {both} in ASCII notation; spell it like one of them")
                if not same:
                    return path
                name = same[0]
            found.append(name)
        return "/".join(found)

    @cached_property
    def _listed(self) -> dict[str, dict[str, list[str]]]:
        return {}

    def _names_alike(self, folder: str) -> dict[str, list[str]]:
        """Names in a folder by their `tidy` form; listed once."""
        if folder not in self._listed:
            names: dict[str, list[str]] = {}
            try:
                for name in sorted(os.listdir(self.root / folder)):  # noqa: PTH208 half the time of Path
                    names.setdefault(tidy(name), []).append(name)
            except OSError:
                pass  # no such folder: reading the file raises the error
            self._listed[folder] = names
        return self._listed[folder]


def find_tree(root: Path, *names: str) -> Tree | None:
    """The first of the named folders below `root`, or of the zips ``NAME.zip`` or ``NAME.zip.001``, ``.002``, ….
    Raises UserError if a zip is damaged, or a part of one is missing.
    """
    for name in names:
        folder, archive = root / name, root / f"{name}.zip"
        if folder.is_dir():
            return FolderTree(folder)
        if archive.is_file():
            return ZipTree((str(archive),))
        parts = sorted(root.glob(f"{name}.zip.[0-9][0-9][0-9]"))
        if parts:
            expected = [f"{name}.zip.{number:03d}" for number in range(1, len(parts) + 1)]
            missing = sorted(set(expected) - {part.name for part in parts})
            if missing:
                raise UserError(f"{root / missing[0]}: this part of the archive is missing")
            return ZipTree(tuple(map(str, parts)))
    return None


def open_tree(root: Path, *names: str) -> Tree:
    """`find_tree`; where none of the names is there the UserError lists what is accepted."""
    tree = find_tree(root, *names)
    if tree is not None:
        return tree
    for name in names:
        for packed in (root / f"{name}.tar.gz", root / f"{name}.jsonwav.tar.gz"):
            if packed.is_file():
                raise UserError(f"{packed}: a compressed tar cannot be read in place; unpack it there: tar -xf")
    wanted = ", ".join(f"{name}/, {name}.zip" for name in names)
    raise UserError(f"{root}: none of {wanted} is there" if root.is_dir() else f"{root}: no such folder")
