"""MedleyDB as published: ``Metadata/TRACK_METADATA.yaml`` and ``Audio/TRACK/TRACK_STEMS/TRACK_STEM_01.wav``.

A clip is a stem with one instrument, of a recording without bleed. The paper published neither its 20 instruments nor
its split: these are the 20 most frequent, and whole artists chosen by a hash, in the paper's shares.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cluster.settings import UserError
from data_shards.audio.trees import FolderTree
from data_shards.format.records import Clip, Listing
from data_shards.sources.published.tables import count_note, first_below, split_by_group, split_counts

NUM_INSTRUMENTS = 20
PUBLISHED = {"train": 659, "valid": 117, "test": 137}
REPLACED = (
    "MedleyDB: the paper's 20 instruments and its split were never published; in their place stand the 20 most "
    "frequent instruments of what is here, and whole artists chosen by a hash in the paper's shares"
)
NO_INSTRUMENTS = ("Main System", "Unlabeled", "fx/processed sound", "sampler", "scratches")
"""Labels of the metadata that describe how a stem was made, not which instrument plays."""
LICENCE = "CC BY-NC-SA 4.0"


class Stem(NamedTuple):
    """One stem, and its recording."""

    recording: str
    artist: str
    path: str
    instrument: str


def read_medleydb(root: Path) -> Listing:
    """List the stems whose audio is there; categorical ``instrument``. ``root`` holds ``Audio`` and ``Metadata``.
    Raises UserError for no metadata, a file of it that is not of its form, or no audio.
    """
    metadata = first_below(root, "Metadata", "medleydb/data/Metadata", "metadata")
    audio = first_below(root, "Audio")
    files = sorted(metadata.glob("*_METADATA.yaml"))
    if not files:
        raise UserError(f"{metadata}: no TRACK_METADATA.yaml")
    tree = FolderTree(audio)
    there = [file for file in files if (audio / tree.spelled(file.name.removesuffix("_METADATA.yaml"))).is_dir()]
    if not there:
        raise UserError(f"{audio}: no folder of any of the {len(files)} recordings of {metadata}")
    stems = [stem for file in there for stem in _stems(file)]
    counts = Counter(stem.instrument for stem in stems)
    frequent = sorted(counts, key=lambda name: (-counts[name], name))[:NUM_INSTRUMENTS]
    stems = [stem for stem in stems if stem.instrument in frequent]
    total = sum(PUBLISHED.values())
    splits = split_by_group(
        [stem.artist for stem in stems], valid=PUBLISHED["valid"] / total, test=PUBLISHED["test"] / total
    )
    clips = [
        Clip(
            key=f"medleydb-{Path(stem.path).stem}",
            audio=tree.audio(stem.path),
            track=stem.recording,
            artist=stem.artist,
            split=split,
            categorical={"instrument": stem.instrument},
            licence=LICENCE,
        )
        for stem, split in zip(stems, splits, strict=True)
    ]
    notes = (*count_note("MedleyDB", split_counts(clips), PUBLISHED), REPLACED)
    if len(there) < len(files):
        notes += (f"MedleyDB: {len(files) - len(there)} of {len(files)} recordings have metadata and no audio here",)
    return Listing(tuple(clips), {}, notes)


def _stems(file: Path) -> Iterator[Stem]:
    import yaml

    try:
        tree: Mapping[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        if _yes(tree["has_bleed"]):
            return
        recording, artist = file.name.removesuffix("_METADATA.yaml"), str(tree["artist"])
        for stem in tree["stems"].values():
            instruments = stem["instrument"] if isinstance(stem["instrument"], list) else [stem["instrument"]]
            if len(instruments) == 1 and instruments[0] and instruments[0] not in NO_INSTRUMENTS:
                path = f"{recording}/{tree['stem_dir']}/{stem['filename']}"
                yield Stem(recording, artist, path, str(instruments[0]))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not of the published form: {type(error).__name__}: {error}") from None


def _yes(value: object) -> bool:
    return value is True or value == "yes"  # unquoted, YAML 1.1 reads it as a boolean
