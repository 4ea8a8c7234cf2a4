"""GiantSteps as published: the key, MTG-key and tempo repositories as folders or zips, and the MP3s that they name.

Keys: trained on the MTG tracks of confidence 2 with one key, tested on the original 604. The paper published no list of
its 961 and 198; here the MTG tracks are split as by Castellon, Donahue, Liang (2021): by artist, and whoever worked
with a validation artist is validation, over two steps.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

from cluster.settings import UserError
from data_shards.audio.trees import FolderTree, Tree, find_tree, open_tree
from data_shards.format.records import Clip, Listing, Split
from data_shards.sources.download import Remote
from data_shards.sources.published.tables import count_note, parse_table, require_columns, split_counts

KEY_NAMES = ("giantsteps-key-dataset", "giantsteps-key-dataset-master")
MTG_NAMES = ("giantsteps-mtg-key-dataset", "giantsteps-mtg-key-dataset-master")
TEMPO_NAMES = ("giantsteps-tempo-dataset", "giantsteps-tempo-dataset-master")
REPLACED = (
    "GiantSteps key: the paper's split into 961 and 198 was never published; it is replaced by the split by artist "
    "of Castellon, Donahue, Liang (2021). The 604 test tracks are the published ones"
)
PUBLISHED_KEYS = {"train": 961, "valid": 198, "test": 604}
PUBLISHED_TEMPI = {"train": 0, "valid": 0, "test": 664}
TEMPO_FOLDERS = {"v2": "annotations_v2/tempo", "v1": "annotations/tempo"}
AUDIO_URLS: dict[tuple[str, ...], str] = {
    KEY_NAMES: "http://www.cp.jku.at/datasets/giantsteps/backup",
    MTG_NAMES: "http://www.cp.jku.at/datasets/giantsteps/mtg_key_backup",
    TEMPO_NAMES: "http://www.cp.jku.at/datasets/giantsteps/backup",
}
"""Where the repositories' own download scripts find the MP3s; their MD5 are in the repositories."""
TONICS = {
    "C": ("C", "B#"),
    "Db": ("Db", "C#"),
    "D": ("D",),
    "Eb": ("Eb", "D#"),
    "E": ("E", "Fb"),
    "F": ("F", "E#"),
    "Gb": ("Gb", "F#"),
    "G": ("G",),
    "Ab": ("Ab", "G#"),
    "A": ("A",),
    "Bb": ("Bb", "A#"),
    "B": ("B", "Cb"),
}
TRAIN_SHARE, SHARES = 100, 116


def read_giantsteps_keys(root: Path) -> Listing:
    """List the tracks of the key task; categorical ``key``, e.g. ``Eb minor``. ``root`` holds both key repositories,
    and ``audio`` unless each has its own. The UserError names file, row and column of what is wrong.
    """
    original, mtg = open_tree(root, *KEY_NAMES), open_tree(root, *MTG_NAMES)
    clips = [*_mtg_clips(mtg, _audio(root, MTG_NAMES)), *_original_clips(original, _audio(root, KEY_NAMES))]
    notes = (*count_note("GiantSteps key", split_counts(clips), PUBLISHED_KEYS), REPLACED)
    return Listing(tuple(clips), {}, notes)


def read_giantsteps_tempo(root: Path, *, variant: str = "v2") -> Listing:
    """List the tracks of the tempo dataset, all for testing; numeric ``bpm``, NaN where a track has no tempo.

    Args:
        root: holds the repository, and ``audio`` unless it has its own.
        variant: ``v2``, the annotations of Schreiber and Müller (2018), or ``v1``, those of Knees et al. (2015).

    Raises:
        UserError: names the file of what is wrong.
    """
    tree, audio = open_tree(root, *TEMPO_NAMES), _audio(root, TEMPO_NAMES)
    clips = []
    for number, path in _annotations(tree, TEMPO_FOLDERS[variant], ".LOFI.bpm"):
        try:
            bpm = float(tree.read(path).decode())
        except ValueError:
            raise UserError(f"{tree.name}/{path}: not a number") from None
        clips.append(
            Clip(
                key=f"giantsteps-tempo-{number}",
                audio=audio.audio(f"{number}.LOFI.mp3"),
                track=number,
                split="test",
                numeric={"bpm": bpm if bpm > 0 else math.nan},
            )
        )
    unknown = [clip.track for clip in clips if math.isnan(clip.numeric["bpm"])]
    notes = count_note("GiantSteps tempo", split_counts(clips), PUBLISHED_TEMPI)
    if unknown:
        notes += (f"GiantSteps tempo: {len(unknown)} tracks have no tempo: {', '.join(unknown)}",)
    return Listing(tuple(clips), {}, notes)


def key_audio(root: Path) -> list[Remote]:
    """Every MP3 of both key repositories, with the MD5 that it gives. Raises UserError if a repository is missing."""
    return [*_audio_of(root, MTG_NAMES), *_audio_of(root, KEY_NAMES)]


def tempo_audio(root: Path) -> list[Remote]:
    """`key_audio` of the tempo repository."""
    return list(_audio_of(root, TEMPO_NAMES))


def _audio_of(root: Path, names: tuple[str, ...]) -> Iterator[Remote]:
    tree = open_tree(root, *names)
    for number, path in _annotations(tree, "md5", ".LOFI.md5"):
        file = f"{number}.LOFI.mp3"
        md5 = tree.read(path).decode().split()[0]
        yield Remote(f"{AUDIO_URLS[names]}/{file}", f"md5:{md5}", f"audio/{file}")


def flat_key(name: str) -> str | None:
    """A key as mir_eval and the original 604 write it, with flats; None for what is not one key.

    >>> flat_key("D# minor"), flat_key("f# Minor"), flat_key("C minor / F# minor"), flat_key("-")
    ('Eb minor', 'Gb minor', None, None)
    """
    tonic, _, mode = name.strip().partition(" ")
    spelt = {spelling: flat for flat, spellings in TONICS.items() for spelling in spellings}
    flat = spelt.get(tonic.capitalize())
    return f"{flat} {mode.lower()}" if flat and mode.lower() in ("major", "minor") else None


def _mtg_clips(tree: Tree, audio: Tree) -> Iterator[Clip]:
    table = f"{tree.name}/annotations/annotations.txt"
    artists = _artists(tree)
    split_of = split_by_artist(list(artists.values()))
    rows = list(parse_table(tree.read("annotations/annotations.txt").decode(), table))
    require_columns(table, rows[0][1] if rows else {}, ["ID", "MANUAL KEY", "C"])
    for number, row in rows:
        if row["C"].strip() != "2" or "/" in row["MANUAL KEY"]:
            continue
        key = flat_key(row["MANUAL KEY"])
        if key is None:
            raise UserError(f"{table}, row {number}, column MANUAL KEY: {row['MANUAL KEY']!r} is not a key")
        if row["ID"] not in artists:
            raise UserError(f"{table}, row {number}, column ID: {row['ID']} is not in beatport_metadata.txt")
        names = artists[row["ID"]]
        yield Clip(
            key=f"giantsteps-mtg-{row['ID']}",
            audio=audio.audio(f"{row['ID']}.LOFI.mp3"),
            track=row["ID"],
            artist=", ".join(names),
            split=split_of[names[0]],
            categorical={"key": key},
        )


def _original_clips(tree: Tree, audio: Tree) -> Iterator[Clip]:
    for number, path in _annotations(tree, "annotations/key", ".LOFI.key"):
        text = tree.read(path).decode()
        key = flat_key(text)
        if key is None:
            raise UserError(f"{tree.name}/{path}: {text.strip()!r} is not a key")
        yield Clip(
            key=f"giantsteps-{number}",
            audio=audio.audio(f"{number}.LOFI.mp3"),
            track=number,
            split="test",
            categorical={"key": key},
        )


def split_by_artist(credits: list[tuple[str, ...]]) -> dict[str, Split]:
    """The split of every artist, from the artists of every track.

    Source: Castellon, Donahue, Liang (2021), released code: SHA-1 of the name in lower case, modulo 116.
    """
    split_of: dict[str, Split] = {}
    for artist in (name for names in credits for name in names):
        place = int(hashlib.sha1(artist.lower().encode(), usedforsecurity=False).hexdigest(), 16) % SHARES
        split_of[artist] = "train" if place < TRAIN_SHARE else "valid"
    for _ in range(2):
        for names in credits:
            if any(split_of[name] == "valid" for name in names):
                split_of.update(dict.fromkeys(names, "valid"))
    return split_of


def _artists(tree: Tree) -> dict[str, tuple[str, ...]]:
    """Of every track, those that were rejected too: their collaborations count."""
    table = f"{tree.name}/annotations/beatport_metadata.txt"
    rows = [row for _, row in parse_table(tree.read("annotations/beatport_metadata.txt").decode(), table)]
    require_columns(table, rows[0] if rows else {}, ["ID", "ARTIST"])
    return {row["ID"]: tuple(name.strip() for name in row["ARTIST"].split(",")) for row in rows}


def _audio(root: Path, names: tuple[str, ...]) -> Tree:
    return find_tree(root, *(f"{name}/audio" for name in names), "audio") or FolderTree(root / "audio")


def _annotations(tree: Tree, folder: str, suffix: str) -> Iterator[tuple[str, str]]:
    """(track number, path) of every file of a folder, by number."""
    found = [path for path in tree.paths() if path.startswith(f"{folder}/") and path.endswith(suffix)]
    if not found:
        raise UserError(f"{tree.name}: no {folder}/NUMBER{suffix}")
    named = [(path.rpartition("/")[2].removesuffix(suffix), path) for path in found]
    return iter(sorted(named, key=lambda pair: (len(pair[0]), pair[0])))
