"""VocalSet as published: ``FULL/female1/arpeggios/belt/f1_arpeggios_belt_c_a.wav``, as a folder or its zip.

Singers and techniques are two tasks with two splits, so they are two variants. The test singers of the technique task
are those of the dataset's own ``test_singers_technique.txt``. The papers published no other list: the remaining splits
have their shares, and a hash chooses the recordings.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cluster.settings import UserError
from data_shards.audio.trees import FolderTree, Tree, find_tree
from data_shards.format.records import Clip, Listing, Split
from data_shards.sources.folder import key_of
from data_shards.sources.published.tables import count_note, split_by_group, split_counts

NAMES = ("VocalSet1-2", "VocalSet11", "VocalSet")
PUBLISHED = {
    "singer": {"train": 2_467, "valid": 566, "test": 577},
    "technique": {"train": 2_282, "valid": 403, "test": 894},
}
REPLACED = {
    "singer": "VocalSet singer: the paper's split was never published; in its place a hash chooses the recordings, in "
    "the paper's shares",
    "technique": "VocalSet technique: the test singers are the dataset's own, but the paper's split of the others into "
    "train and valid was never published; in its place a hash chooses the recordings, in the paper's shares",
}
TECHNIQUES = (
    "belt",
    "breathy",
    "fast_forte",
    "fast_piano",
    "forte",
    "inhaled",
    "lip_trill",
    "messa",
    "pp",
    "slow_forte",
    "slow_piano",
    "spoken",
    "straight",
    "trill",
    "trillo",
    "vibrato",
    "vocal_fry",
)
TEST_SINGERS = ("female2", "female8", "male3", "male5", "male10")
_PATH = re.compile(r"(?:.*/)?((?:fe)?male\d+)/(?:.*/)?([^/]+)/([^/]+\.wav)\Z")
LICENCE = "CC BY 4.0"


class Recording(NamedTuple):
    """A file and the labels in its path."""

    path: str
    singer: str
    technique: str


def read_vocalset(root: Path, *, variant: str = "technique") -> Listing:
    """List the recordings; categorical ``singer`` or ``technique``.

    Args:
        root: holds the zip, its unpacked folder, or ``FULL`` itself.
        variant: the task: ``singer`` takes every recording, ``technique`` those of the 17 techniques.

    Raises:
        UserError: no recordings.
    """
    tree = find_tree(root, *NAMES) or FolderTree(root)
    recordings = _recordings(tree)
    others = [one for one in recordings if one.technique not in TECHNIQUES]
    if variant == "technique":
        recordings = [one for one in recordings if one.technique in TECHNIQUES]
    if not recordings:
        raise UserError(f"{tree.name}: no recordings of the form SINGER/EXERCISE/TECHNIQUE/NAME.wav")
    splits = {"singer": _singer_splits, "technique": _technique_splits}[variant](recordings)
    clips = [
        Clip(
            key=key_of(one.path),
            audio=tree.audio(one.path),
            track=one.path,
            artist=one.singer,
            split=split,
            categorical={variant: one.singer if variant == "singer" else one.technique},
            licence=LICENCE,
        )
        for one, split in zip(recordings, splits, strict=True)
    ]
    notes = (*count_note(f"VocalSet {variant}", split_counts(clips), PUBLISHED[variant]), REPLACED[variant])
    if others and variant == "technique":
        folders = ", ".join(sorted({one.technique for one in others}))
        notes += (f"VocalSet: {len(others)} recordings of other techniques are left out: {folders}",)
    return Listing(tuple(clips), {}, notes)


def _recordings(tree: Tree) -> list[Recording]:
    matches = [match for path in tree.paths() if (match := _PATH.match(path))]
    return [Recording(match.string, match[1], match[2]) for match in matches]


def _singer_splits(recordings: Sequence[Recording]) -> list[Split]:
    total = sum(PUBLISHED["singer"].values())
    shares = {split: PUBLISHED["singer"][split] / total for split in ("valid", "test")}
    return split_by_group([one.path for one in recordings], valid=shares["valid"], test=shares["test"])


def _technique_splits(recordings: Sequence[Recording]) -> list[Split]:
    counts = PUBLISHED["technique"]
    rest = [one.path for one in recordings if one.singer not in TEST_SINGERS]
    share = counts["valid"] / (counts["train"] + counts["valid"])
    split_of = dict(zip(rest, split_by_group(rest, valid=share, test=0.0), strict=True))
    return [split_of.get(one.path, "test") for one in recordings]
