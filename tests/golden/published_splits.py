"""Write conf/evaluation/published/splits.yaml again: facts on the published splits, from the real lists.

Run as ``python -m tests.golden.published_splits`` where COUNTERPOINT_DATA names the folder above ``metadata``, and say
in the commit why a hash moved. The project's own sources read the lists, as they would read them beside the audio.
"""

import csv
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.settings import ROOT
from data_shards.format.records import Clip
from data_shards.sources.published.emomusic import read_emomusic
from data_shards.sources.published.giantsteps import read_giantsteps_keys, read_giantsteps_tempo
from data_shards.sources.published.gtzan import read_gtzan
from data_shards.sources.published.jamendo import Subset, read_jamendo
from data_shards.sources.published.mtat import BAD_CLIPS, read_mtat
from data_shards.sources.published.vocalset import TECHNIQUES
from evaluation.targets.splits import PINS, SPLITS, FrozenSplit, facts

PUBLISHED = "as published"
WHOLE = "as published, without the three bad clips"
HEAD = """\
# The published splits, pinned: clips and SHA-256 of the sorted ids of each split, and the classes in order; the lists
# are their owners' and are not here. Written by `python -m tests.golden.published_splits` from the real lists; `source`
# says which. The hashes are those that a report names (evaluation/targets/splits.py).
"""
FAMILIES = ["bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal"]
UNPINNED: dict[str, dict[str, Any]] = {
    "nsynth_pitch": {"unpinned": "NSynth's examples.json were not at hand"},
    "nsynth_instrument": {"unpinned": "NSynth's examples.json were not at hand", "classes": FAMILIES},
    "vocalset_singer": {"unpinned": "the paper's split was never published; a hash of the recordings stands for it"},
    "vocalset_technique": {
        "unpinned": "only its test singers were published; a hash of the other recordings stands for the rest",
        "classes": list(TECHNIQUES),
    },
    "medleydb_instrument": {"unpinned": "neither the paper's instruments nor its split were published"},
}
"""Tasks without a list, and what is known of them all the same."""


def write_table(path: Path, rows: Iterable[Sequence[Any]], delimiter: str = "\t") -> None:
    """A table as datasets publish them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def read_json(path: Path) -> dict[str, dict[str, Any]]:
    """One of jukemir's lists."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        tree: dict[str, dict[str, Any]] = json.load(file)
    return tree


def mtat_tree(root: Path, metadata: Path) -> None:
    """MagnaTagATune's two tables in their published form."""
    records = read_json(metadata / "jukemir/magnatagatune.json.gz").values()
    tagged = [record for record in records if record["y_all"] is not None]
    tags = sorted({tag for record in tagged for tag in record["y_all"]})

    def cells(names: Sequence[str]) -> Iterable[int]:
        return map(int, map(set(names).__contains__, tags))

    rows = ([r["extra"]["clip_id"], *cells(r["y_all"]), r["extra"]["mp3_path"]] for r in tagged)
    write_table(root / "annotations_final.csv", [["clip_id", *tags, "mp3_path"], *rows])
    fields = ["clip_id", "title", "artist", "mp3_path"]
    info = ([record["extra"][field] for field in fields] for record in records)
    write_table(root / "clip_info_final.csv", [fields, *info])


def giantsteps_tree(root: Path, metadata: Path) -> None:
    """GiantSteps' two key repositories and the tempo one."""

    def write(path: Path, content: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    for name, file in (("mtg_annotations", "annotations"), ("mtg_beatport_metadata", "beatport_metadata")):
        text = (metadata / f"giantsteps/{name}.txt").read_text(encoding="utf-8")
        write(root / f"giantsteps-mtg-key-dataset/annotations/{file}.txt", text)
    with (metadata / "giantsteps/giantsteps_key.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            write(root / f"giantsteps-key-dataset/annotations/key/{row['id']}.LOFI.key", row["key"])
            write(root / f"giantsteps-key-dataset/md5/{row['id']}.LOFI.md5", row["md5"] + "\n")
    with (metadata / "giantsteps/giantsteps_tempo.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            tempo = root / "giantsteps-tempo-dataset"
            write(tempo / f"annotations/tempo/{row['id']}.LOFI.bpm", row["bpm"])
            write(tempo / f"annotations_v2/tempo/{row['id']}.LOFI.bpm", row["bpm_v2"])


def emomusic_tree(root: Path, metadata: Path) -> None:
    """EmoMusic's two tables."""
    records = read_json(metadata / "jukemir/emomusic.json.gz").values()
    for table, source, columns in (
        ("songs_info", "songs_info", ["song_id", "Artist", "Song title", "Mediaeval 2013 set"]),
        ("static_annotations", "static_annotations", ["song_id", "mean_arousal", "mean_valence"]),
    ):
        rows = [[record["extra"][source][name] for name in columns] for record in records]
        write_table(root / f"{table}.csv", [columns, *rows], ",")


def gtzan_tree(root: Path, metadata: Path) -> None:
    """GTZAN's three fault-filtered lists."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("train", "valid", "test"):
        shutil.copy(metadata / f"gtzan/split__sturm2013faults__{name}_filtered.txt", root / f"{name}_filtered.txt")


def frozen(clips: Iterable[Clip], column: str, classes: Sequence[str], has: Callable[[Clip], bool]) -> FrozenSplit:
    """The split of the clips that have a target."""
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    for clip in clips:
        if has(clip):
            ids[clip.split].append(clip.key)
    return FrozenSplit(column, tuple(classes), {split: tuple(sorted(keys)) for split, keys in ids.items()})


def pin(source: str, variants: dict[str, FrozenSplit], instead: str = "") -> dict[str, Any]:
    """A protocol's entry of the file."""
    first = next(iter(variants.values()))
    tree: dict[str, Any] = {"source": source} | ({"instead": instead} if instead else {})
    tree["variants"] = {name: facts(split) for name, split in variants.items()}
    return tree | {"classes": list(first.vocabulary), "classes_sha256": first.vocabulary_hash}


def mtat_pins(root: Path, metadata: Path) -> dict[str, Any]:
    """Top 50 and all 188 tags, each with and without the three bad clips."""
    mtat_tree(root, metadata)
    listing = read_mtat(root, variant="all188")
    bad = {f"mtat-{number}" for number in BAD_CLIPS}
    pins = {}
    for protocol, column, every in (("mtat_top50", "top50", False), ("mtat_all", "tags", True)):
        names = listing.vocabularies[column]

        def tagged(clip: Clip, column: str = column, every: bool = every) -> bool:
            return every or bool(clip.multilabel[column])

        pins[protocol] = pin(
            "split by first folder; records of jukemir (Castellon, Donahue, Liang 2021)",
            {
                PUBLISHED: frozen(listing.clips, column, names, tagged),
                WHOLE: frozen([clip for clip in listing.clips if clip.key not in bad], column, names, tagged),
            },
        )
    return pins


def jamendo_pins(metadata: Path) -> dict[str, Any]:
    """The four subsets of split-0."""
    subsets: dict[str, tuple[Subset, str]] = {
        "jamendo_top50": ("top50tags", "top50"),
        "jamendo_genre": ("genre", "genre"),
        "jamendo_instrument": ("instrument", "instrument"),
        "jamendo_mood": ("moodtheme", "moodtheme"),
    }
    pins = {}
    for protocol, (subset, column) in subsets.items():
        clips = read_jamendo(Path("audio"), metadata / "mtg-jamendo/splits/split-0", subset=subset).clips
        names = sorted({tag for clip in clips for tag in clip.multilabel["tags"]})
        source = f"MTG/mtg-jamendo-dataset, split-0, autotagging_{subset}"
        pins[protocol] = pin(source, {PUBLISHED: frozen(clips, column, names, lambda _: True)})
    return pins


def class_pin(clips: Sequence[Clip], column: str, source: str, variant: str, instead: str = "") -> dict[str, Any]:
    """A task of one class or one number a clip."""
    classes = sorted({name for clip in clips if (name := clip.categorical.get(column)) is not None})
    return pin(source, {variant: frozen(clips, column, classes, lambda _: True)}, instead)


def pinned(metadata: Path, work: Path) -> dict[str, Any]:
    """The whole file.

    Args:
        metadata: folder of the real lists.
        work: an empty folder.
    """
    giantsteps_tree(work / "giantsteps", metadata)
    emomusic_tree(work / "emomusic", metadata)
    gtzan_tree(work / "gtzan", metadata)
    keys = read_giantsteps_keys(work / "giantsteps").clips
    counts = {split: sum(clip.split == split for clip in keys) for split in SPLITS}
    instead = f"which is {counts['train']} / {counts['valid']} where the paper has 961 / 198 and published no list"
    songs = read_emomusic(work / "emomusic").clips
    tempi = read_giantsteps_tempo(work / "giantsteps").clips
    known = [clip for clip in tempi if clip.numeric["bpm"] > 0]
    return {
        **mtat_pins(work / "mtat", metadata),
        **jamendo_pins(metadata),
        "giantsteps_key": class_pin(
            keys,
            "key",
            "GiantSteps key (test) and MTG-key of confidence 2 with one key (train, valid)",
            "test as published, the rest by artist as in Castellon, Donahue, Liang 2021",
            instead,
        ),
        "giantsteps_tempo": class_pin(
            known, "bpm", "GiantSteps tempo, annotations v2, less 3 without tempo", PUBLISHED
        ),
        "gtzan_genre": class_pin(
            read_gtzan(work / "gtzan", work / "gtzan").clips, "genre", "fault-filtered lists (Sturm 2013)", PUBLISHED
        ),
        **{
            f"emomusic_{name}": class_pin(songs, name, "MediaEval 2013, the rest by artist as in jukemir", PUBLISHED)
            for name in ("arousal", "valence")
        },
        **UNPINNED,
    }


def dump(pins: dict[str, Any]) -> str:
    """The file's text."""
    return HEAD + yaml.safe_dump(pins, sort_keys=False, width=118, default_flow_style=None, allow_unicode=True)


def metadata_folder() -> Path:
    """Where the real lists are, if they are anywhere."""
    return Path(os.environ.get("COUNTERPOINT_DATA", ROOT.parent / "shared/data")) / "metadata"


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        PINS.write_text(dump(pinned(metadata_folder(), Path(work))), encoding="utf-8")


if __name__ == "__main__":
    main()
