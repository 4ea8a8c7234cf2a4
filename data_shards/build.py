"""Clips of any dataset to a set of shards: parallel, resumable after a kill, the same bytes for the same input.

Shards grow in ``OUT.partial``; a finished shard has a record beside it, and a build started again keeps what matches.
The folder gets its name only when index and manifest are written: a set is whole or not there.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cluster.locks import LOCK_NAME, sole_writer
from cluster.outputs import require_writable_folder
from cluster.settings import Config, UserError
from cluster.storage import write_atomic
from data_shards.duplicates import find_same_audio
from data_shards.index import read_index
from data_shards.index_writer import write_index
from data_shards.parallel import run_jobs
from data_shards.places import INDEX_NAME, MANIFEST_NAME
from data_shards.records import Clip
from data_shards.shard_writer import (
    BuildConfig,
    BuildJob,
    Rejected,
    ShardResult,
    build_shard,
    recipe_of,
)
from data_shards.show import label_counts, labels_alike, leaking_tracks
from data_shards.sources.listing import Listing, tidied
from data_shards.tally import Progress, Tally, TooManyRejected

__all__ = [
    "BuildConfig",
    "BuildJob",
    "BuildSummary",
    "MapJobs",
    "Progress",
    "Rejected",
    "SameClip",
    "build",
    "build_shard",
    "require_place",
]

MapJobs = Callable[[Callable[[BuildJob], ShardResult], Sequence[BuildJob]], Iterable[ShardResult]]
"""Applies a function to jobs, anywhere, and gives the results in any order."""
RECORD_NAME = "build.json"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}\Z")  # with its extension it fits a tar header's 100 bytes


@dataclass(frozen=True, kw_only=True)
class ShardsConfig(Config):
    """The tree of `counterpoint shards build`: ``build.codec=flac``."""

    build: BuildConfig = field(default_factory=BuildConfig)


@dataclass(frozen=True, kw_only=True)
class SameClip:
    """A clip that holds the same audio as another."""

    key: str
    name: str
    """What a person would look at: the path of the file."""
    track: str
    split: str


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build made."""

    out: Path
    clips: int
    hours: float
    shards: int
    resumed_shards: int
    splits: Mapping[str, int]
    labels: Mapping[str, Mapping[str, int]]
    """Clips per tag or class, by column, most frequent first."""
    rejected: tuple[Rejected, ...]
    silent: tuple[str, ...]
    """Keys of clips that hold zeros only; they are in the set."""
    leaking_tracks: tuple[str, ...]
    """Tracks with clips in more than one split: scores on such splits flatter."""
    same_audio: tuple[tuple[SameClip, ...], ...]
    """Groups of clips with the same samples in more than one split: scores on such splits flatter."""
    same_audio_in_one_split: int
    """Groups of clips with the same samples that lie in one split."""
    labels_alike: Mapping[str, Sequence[tuple[str, ...]]]
    """By column, labels that look the same and are different, such as "Rock" and "rock"."""
    seconds: float
    manifest_hash: str


def build(
    clips: Iterable[Clip] | Listing,
    out: Path,
    config: BuildConfig,
    *,
    map_jobs: MapJobs | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> BuildSummary:
    """Build a set of shards in `out`, or finish one that was interrupted; a finished one is left as it is.

    Args:
        clips: of all splits; their order is the order in the shards; their labels are made tidy.
            A listing also gives tag orders (those of other
            columns are collected and sorted) and the notes that the set shall carry.
        out: folder that does not exist yet, or is this very set.
        config: how.
        map_jobs: runs `build_shard` over the jobs; default a process a core.
        progress: called after each shard, once where all were there.

    Returns:
        Counts, rejected clips with their reasons, and the hash of the manifest.

    Raises:
        UserError: `out` cannot be written or holds something else, no clips, a key that is used twice, more rejected
            than allowed, or a worker's shard is not to be seen from here.
    """
    require_place(out, "the output")
    out = out.resolve() if out.is_symlink() else out
    listing = tidied(clips if isinstance(clips, Listing) else Listing(tuple(clips)))
    clips = listing.clips
    check_clips(clips, listing.vocabularies)
    partial_folder = out.with_name(out.name + ".partial")
    step = config.clips_per_shard
    jobs = [
        BuildJob(number=number, clips=clips[start : start + step], folder=str(partial_folder), config=config)
        for number, start in enumerate(range(0, len(clips), step))
    ]
    recipe = _recipe(jobs, listing.vocabularies)
    if _is_finished(out, recipe):
        summary = _summary(out, clips, resumed_shards=len(jobs), seconds=0.0)
        if progress:
            count, rejected = len(clips), len(summary.rejected)
            progress(Progress(done=count, total=count, rejected=rejected, resumed=count))
        return summary
    tally = Tally(total=len(clips))
    with sole_writer(partial_folder, "give another --out"):
        results = iter((map_jobs or partial(run_jobs, workers=config.workers))(build_shard, jobs))
        try:
            for result in results:
                _check_here(result, partial_folder)
                reached = tally.add(result)
                tally.check(config.max_rejected)
                if progress:
                    progress(reached)
        except TooManyRejected:
            if isinstance(results, Generator):
                results.close()  # its workers write no more
            if not list(partial_folder.glob("*.tar")):
                shutil.rmtree(partial_folder)
            raise
        _finish(partial_folder, out, tally, config=config, listing=listing, recipe=recipe)
    kept = sum(result.resumed for result in tally.results)
    return _summary(out, clips, resumed_shards=kept, seconds=time.monotonic() - tally.started)


def require_place(out: Path, key: str) -> None:
    """Refuse a place where a set could not be made, before any work: it grows beside `out` and is renamed at the end.

    Args:
        out: the folder of the set.
        key: the option that it was given as, for the message.

    Raises:
        UserError: names `out`, what is wrong and the remedy.
    """
    require_writable_folder(out, key, replaced=True)
    if out.is_dir() and os.path.ismount(out) and not (out / RECORD_NAME).exists():
        raise UserError(f"{key} {out}: is where a disk is mounted, which cannot be renamed; give a folder below it")
    growing = out.with_name(out.name + ".partial")
    if os.path.lexists(growing) and not growing.is_dir():
        raise UserError(f"{key} {out}: {growing}, where the set grows, is a file; move it away, or give another folder")


def check_clips(clips: Sequence[Clip], vocabularies: Mapping[str, Sequence[str]]) -> None:
    """Refuse what cannot become a set, before any work.

    Raises:
        UserError: no clips, a key that is no key or is used twice (both places are named), an unknown tag.
    """
    if not clips:
        raise UserError("there are no clips to build shards from")
    seen: dict[str, Clip] = {}
    for clip in clips:
        if not _KEY.match(clip.key):
            raise UserError(f"{clip.audio.name}: key {clip.key!r} must be 1 to 90 letters, digits, '_' or '-'")
        other = seen.setdefault(clip.key, clip)
        if other is not clip:
            raise UserError(f"key {clip.key} is used twice, by {other.audio.name} and by {clip.audio.name}")
        for column, known in vocabularies.items():
            unknown = sorted(set(clip.multilabel.get(column, ())) - set(known))
            if unknown:
                raise UserError(f"{clip.audio.name}: {column} {', '.join(unknown)} not in the given vocabulary")


def _recipe(jobs: Sequence[BuildJob], vocabularies: Mapping[str, Sequence[str]]) -> str:
    digest = hashlib.sha256(repr(sorted((column, tuple(tags)) for column, tags in vocabularies.items())).encode())
    for job in jobs:
        digest.update(recipe_of(job).encode())
    return digest.hexdigest()


def _is_finished(out: Path, recipe: str) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    record = out / RECORD_NAME
    if record.is_file() and json.loads(record.read_text(encoding="utf-8"))["recipe"] == recipe:
        return True
    what = "holds another set of shards" if record.is_file() else "is there already and is no set of shards"
    raise UserError(f"{out} {what}; delete it, or give another folder")


def _check_here(result: ShardResult, folder: Path) -> None:
    """A worker on another machine may have written to a disk of its own."""
    if result.shard and not (folder / result.shard.name).is_file():
        raise UserError(
            f"{folder / result.shard.name}: written by another machine, and not to be seen here; "
            "give --out on storage that all machines share under the same path"
        )


def _finish(
    folder: Path,
    out: Path,
    tally: Tally,
    *,
    config: BuildConfig,
    listing: Listing,
    recipe: str,
) -> None:
    results = sorted(tally.results, key=lambda result: result.number)
    rejected = [one for result in results for one in result.rejected]
    shards = [(result.shard, result.entries) for result in results if result.shard]
    extra: dict[str, Any] = {
        "build": config.content(),
        "rejected": {one.key: one.why for one in rejected},
        "silent": [key for result in results for key in result.silent],
    }
    if listing.notes:
        extra["notes"] = list(listing.notes)
    write_index(folder, shards, vocabularies=listing.vocabularies, extra=extra)
    # The paths of rejected files are those of this machine; the manifest is the same everywhere.
    write_atomic(folder / RECORD_NAME, json.dumps({"recipe": recipe, "rejected": [list(one) for one in rejected]}))
    keep = {INDEX_NAME, MANIFEST_NAME, RECORD_NAME, LOCK_NAME, *(shard.name for shard, _ in shards)}
    for path in folder.iterdir():
        if path.name not in keep:
            path.unlink()
    folder.replace(out)
    (out / LOCK_NAME).unlink(missing_ok=True)  # not before: nobody may begin to write in the old place


def _summary(out: Path, clips: Sequence[Clip], *, resumed_shards: int, seconds: float) -> BuildSummary:
    index = read_index(out)
    record = json.loads((out / RECORD_NAME).read_text(encoding="utf-8"))
    same = find_same_audio(index)
    keys = {index.key[row] for group in same.across for row in group}
    names = {clip.key: clip.audio.name for clip in clips if clip.key in keys}

    def same_clip(row: int) -> SameClip:
        key = index.key[row]
        return SameClip(key=key, name=names[key], track=index.track[row], split=index.split[row])

    return BuildSummary(
        out=out,
        clips=len(index),
        hours=int(index.frames.sum()) / index.manifest["rate"] / 3600,
        shards=len(index.shards),
        resumed_shards=resumed_shards,
        splits=index.manifest["splits"],
        labels=label_counts(index),
        rejected=tuple(Rejected(*one) for one in record["rejected"]),
        silent=tuple(index.manifest["silent"]),
        leaking_tracks=tuple(leaking_tracks(index)),
        same_audio=tuple(tuple(map(same_clip, group)) for group in same.across),
        same_audio_in_one_split=len(same.within),
        labels_alike=labels_alike(index),
        seconds=seconds,
        manifest_hash=index.manifest_hash,
    )
