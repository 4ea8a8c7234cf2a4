"""GTZAN with the fault-filtered split: ``blues/blues.00000.wav`` below a folder, and the three published lists."""

from pathlib import Path

from cluster.settings import UserError
from data_shards.audio.trees import FolderTree
from data_shards.format.records import Clip, Listing, Split
from data_shards.sources.published.tables import count_note, first_below, split_counts

LISTS: dict[str, Split] = {"train_filtered.txt": "train", "valid_filtered.txt": "valid", "test_filtered.txt": "test"}
PUBLISHED = {"train": 443, "valid": 197, "test": 290}


def read_gtzan_below(root: Path) -> Listing:
    """`read_gtzan` of a folder with genres (or genres_original) and the lists."""
    return read_gtzan(first_below(root, "genres", "genres_original"), root)


def read_gtzan(audio: Path, splits: Path) -> Listing:
    """List the clips that the fault filter keeps (Sturm 2013; Kereliuk et al. 2015): ``audio`` holds the ten genres'
    folders, ``splits`` the three lists. Raises UserError if a list is missing, or names what is not ``GENRE/NAME``.
    """
    clips = []
    tree = FolderTree(audio)
    for name, split in LISTS.items():
        try:
            lines = (splits / name).read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            raise UserError(f"{splits / name}: no such file; it is one of the fault-filtered lists") from None
        for number, line in enumerate(lines, start=1):
            path = line.strip()
            if not path:
                continue
            genre, slash, file = path.partition("/")
            if not slash or not file.startswith(f"{genre}.") or "/" in file:
                raise UserError(f"{splits / name}, row {number}: {path!r} is not of the form GENRE/GENRE.NUMBER.wav")
            stem = file.rpartition(".")[0].replace(".", "-")
            audio_file = tree.audio(path)
            clips.append(
                Clip(key=f"gtzan-{stem}", audio=audio_file, track=path, split=split, categorical={"genre": genre})
            )
    return Listing(tuple(clips), {}, count_note("GTZAN", split_counts(clips), PUBLISHED))
