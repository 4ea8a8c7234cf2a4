"""What a model was trained on: each set's size, licences and attributions, also of the runs that it started from."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.files.tables import csv_table
from cluster.settings import UserError
from data_shards.format.index import ShardIndex, read_index
from data_shards.format.problems import ShardError
from data_shards.sampling.sampler import Sampler
from data_shards.sources.folder import key_of
from data_shards.sources.label_table import read_labels
from trainers.config import ExperimentConfig
from trainers.inference.frozen import EncoderFiles, open_encoder
from trainers.state.places import check_encoder
from trainers.views.views import window_frames

NOT_USED = "-"
"""In a data hash: the run did not draw from this set."""
NOT_STATED = "not stated"
ATTRIBUTION, FACTS = "attribution.csv", "card.json"
"""Beside the card of an exported encoder: whose music it was trained on, and the card for programs."""
MOST_RUNS = 10
"""Runs that may have started from one another."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """A set of shards, as far as a run drew from it."""

    role: str
    """labelled or unlabelled."""
    name: str
    manifest: str
    unknown: str | None = None
    """Why nothing below is known."""
    size: str = ""
    """Clips and hours, by split."""
    licences: Mapping[str, int]
    """Clips by licence."""
    keys: tuple[str, ...] = ()
    """Of the clips that its batches are drawn from."""

    def line(self) -> str:
        """For the card."""
        licences = ", ".join(f"{name} ({count:,})" for name, count in sorted(self.licences.items()))
        what = self.unknown or f"{self.size}; licences (clips): {licences}"
        return f"{self.role}: `{self.name}`, manifest `{self.manifest}`; {what}"


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run and its sets."""

    run: str
    objective: str
    steps: int
    sets: tuple[TrainingSet, ...]
    unused: tuple[str, ...]
    """Roles that the run did not draw from."""
    unknown: str | None = None
    """Why nothing else is known of it."""

    def lines(self) -> list[str]:
        """A line a set."""
        return (
            [self.unknown]
            if self.unknown
            else [*(one.line() for one in self.sets), *(f"{role}: none" for role in self.unused)]
        )


def trainings(found: EncoderFiles) -> list[Training]:
    """The training of an encoder, then that of what it started from, and so on; of an exported one as in its card."""
    chain: list[Training] = []
    name = found.path.name
    while len(chain) < MOST_RUNS:
        if (found.path / FACTS).is_file():
            return [*chain, *_from_card(found.path / FACTS)]
        config = found.experiment
        sets = training_sets(config, found.data_hash, step=found.step)
        unused = tuple(role for role in ("labelled", "unlabelled") if role not in {one.role for one in sets})
        chain.append(
            Training(run=name, objective=config.loss.objective, steps=found.step, sets=tuple(sets), unused=unused)
        )
        source = found.config.get("init_from")
        if not source:
            break
        name = Path(source).name
        try:
            check_encoder(Path(source))
            found = open_encoder(source, trust_code=True)
        except UserError:
            gone = f"{source} is gone, so what it was trained on is not known"
            return [*chain, Training(run=name, objective="unknown", steps=0, sets=(), unused=(), unknown=gone)]
    return chain


def _from_card(file: Path) -> list[Training]:
    """Those of an exported encoder, whose shards need not be here."""
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))["training"]
        return [Training(**{**one, "sets": tuple(TrainingSet(**each) for each in one["sets"])}) for one in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not the card of an exported encoder ({error!r}); export it again") from None


def as_tree(training: Sequence[Training]) -> list[dict[str, Any]]:
    """As JSON has them, without the clips' names."""
    runs = [asdict(one) for one in training]
    return [{**run, "sets": [{k: v for k, v in one.items() if k != "keys"} for one in run["sets"]]} for run in runs]


def training_sets(config: ExperimentConfig, data_hash: str, *, step: int) -> list[TrainingSet]:
    """The sets that ``step`` steps of a run drew from.

    Sizes and licences are given where the shards are still in place, and count only what was drawn from.
    """
    hashes = dict(zip(("labelled", "unlabelled"), data_hash.split(":"), strict=False))
    opened = {role: _open(getattr(config.data, role), manifest) for role, manifest in hashes.items()}
    indexes = {role: found for role, found in opened.items() if isinstance(found, ShardIndex)}
    drawn = _streams(config, indexes)
    labelled = config.data.num_labelled
    a_step = {"labelled": labelled, "unlabelled": config.data.batch - labelled}
    sets = []
    for role, found in opened.items():
        if found is None:
            continue
        name, manifest = Path(getattr(config.data, role)).name, hashes[role]
        if isinstance(found, str):
            sets.append(TrainingSet(role=role, name=name, manifest=manifest, unknown=found, licences={}))
            continue
        rows = drawn.get(role)
        known = found.rows("train") if rows is None else rows
        licences = Counter(NOT_STATED if one is None else str(one) for one in found.licence[known])
        sets.append(
            TrainingSet(
                role=role,
                name=name,
                manifest=manifest,
                size=_size(found, rows, draws=step * a_step[role]),
                licences=dict(licences),
                keys=tuple(str(key) for key in found.key[known]),
            )
        )
    return sets


def attributions(training: Sequence[Training], table: Path) -> str:
    """CSV of whose music was trained on: attribution, licence, clips; a row for each pair of the two.

    ``table`` is a CSV with the columns path and attribution, and licence where there is one; paths as the shards were
    built from. A column key, with the clips' keys, replaces path where a set was not built from a folder.
    Raises UserError if it cannot be read, or a clip of the training, or of what it started from, is not in it.
    """
    read = read_labels(table, required=("attribution",), option="--attribution")
    if not {"key", "path"} & set(read.columns):
        raise UserError(f"--attribution {table}: no column path; there are {', '.join(read.columns)}")
    cells = (row.cells for row in read.rows)
    listed = {row.get("key") or key_of(row["path"]): (row["attribution"], row.get("licence", "")) for row in cells}
    keys = dict.fromkeys(key for run in training for one in run.sets for key in one.keys)
    if not keys:
        raise UserError(f"--attribution {table}: the clips of the training are not known; give the run and its shards")
    missing = [key for key in keys if not listed.get(key, ("", ""))[0]]
    if missing:
        raise UserError(
            f"--attribution {table}: {len(missing):,} of the {len(keys):,} clips of the training have none, such as "
            f"{missing[0]}; add their rows"
        )
    counts = sorted(Counter(listed[key] for key in keys).items())
    return csv_table([["attribution", "licence", "clips"], *([*pair, count] for pair, count in counts)])


def _open(place: str | None, manifest: str) -> ShardIndex | str | None:
    """The index of a set, why it cannot be read, or None for a set that a run did not draw from."""
    if manifest == NOT_USED or place is None:
        return None
    if "://" in place:
        return "licences not read: the shards are remote, `counterpoint shards show` prints them"
    lost = "licences not known: the shards of this manifest are not where the run read them"
    try:
        index = read_index(Path(place))
    except ShardError:
        return lost
    return index if index.manifest_hash == manifest else lost


def _streams(config: ExperimentConfig, indexes: Mapping[str, ShardIndex]) -> dict[str, NDArray[np.int64]]:
    """Rows of each set that its stream draws from; empty where a set that decides them is not there."""
    frames = window_frames(config.views, config.augment)
    try:
        sampler = Sampler(
            config.data,
            indexes.get("labelled"),
            indexes.get("unlabelled"),
            seed=config.seed,
            frames=frames,
            texts=config.reads_texts,
        )
    except UserError:
        return {}
    streams = zip(("labelled", "unlabelled"), sampler.streams, strict=True)
    return {role: stream.rows for role, stream in streams if stream}


def _size(index: ShardIndex, drawn: NDArray[np.int64] | None, *, draws: int) -> str:
    rows = index.rows("train") if drawn is None else drawn
    if drawn is None:
        size = f"at most the {len(rows):,} clips of split train"
    else:  # an epoch draws every clip once: the first draws are of different clips
        size = f"drew {min(len(rows), draws):,} of {len(rows):,} clips"
    splits = ", ".join(
        f"{split} {int((index.split[rows] == split).sum()):,} of {count:,}"
        for split, count in index.manifest["splits"].items()
    )
    hours = float(index.frames[rows].sum()) / index.manifest["rate"] / 3600
    return f"{size}, {hours:.1f} h (drawn from by split: {splits})"
