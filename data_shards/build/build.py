"""Build a set of shards from the clips of any dataset: in parallel, resumable, the same bytes for the same input.

Shards are written to ``OUT.partial``, each with a record beside it; a build started again keeps those that match.
The folder is renamed to ``OUT`` when index and manifest are written, so ``OUT`` is always a whole set.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

from cluster.files.locks import LOCK_NAME, sole_writer
from cluster.files.spool import Spool
from cluster.files.storage import write_atomic
from cluster.machine.process import num_cores
from cluster.processes.map import local_map
from cluster.settings import Config, UserError
from data_shards.build.checks import RECORD_NAME, ClipChecks, require_place, tidied, tidied_orders
from data_shards.build.index_writer import write_index
from data_shards.build.rejections import Progress, Tally, TooManyRejected
from data_shards.build.summary import BuildSummary, summarise_build
from data_shards.build.writer import BuildConfig, BuildJob, ShardResult, build_shard, read_entries, recipe_of
from data_shards.format.paths import INDEX_NAME, MANIFEST_NAME, PARQUET_NAME
from data_shards.format.records import Clip, Listing

__all__ = ["BuildConfig", "BuildJob", "BuildSummary", "MapJobs", "Progress", "ShardsConfig", "build", "build_shard"]

PRELOAD = ("data_shards.build.build",)
"""What the processes that build import, before they are forked."""
MapJobs = Callable[[Callable[[BuildJob], ShardResult], Sequence[BuildJob]], Iterable[ShardResult]]
"""Applies a function to jobs, anywhere, and gives the results in any order."""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(Config):
    """A dataset of the user's own: ``counterpoint shards build module:function``."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function; its signature gives their types."""


@dataclass(frozen=True, kw_only=True)
class ShardsConfig(Config):
    """The tree of `counterpoint shards build`: ``build.codec=flac``."""

    build: BuildConfig = field(default_factory=BuildConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)


class Jobs(Sequence[BuildJob]):
    """A job for every `BuildConfig.clips_per_shard` clips; made `tidied` when it is asked for, and not kept."""

    def __init__(self, clips: Sequence[Clip], folder: str, config: BuildConfig) -> None:
        self._clips, self._folder, self._config = clips, folder, config

    def __len__(self) -> int:
        step = self._config.clips_per_shard
        return (len(self._clips) + step - 1) // step

    @overload
    def __getitem__(self, at: int) -> BuildJob: ...
    @overload
    def __getitem__(self, at: slice) -> list[BuildJob]: ...
    def __getitem__(self, at: int | slice) -> BuildJob | list[BuildJob]:
        """The job of a shard, or those of a slice."""
        numbers = range(len(self))[at]
        return self._job(numbers) if isinstance(numbers, int) else [self._job(number) for number in numbers]

    def _job(self, number: int) -> BuildJob:
        start = number * self._config.clips_per_shard
        clips = tuple(map(tidied, self._clips[start : start + self._config.clips_per_shard]))
        return BuildJob(number=number, clips=clips, folder=self._folder, config=self._config)


def build(
    clips: Iterable[Clip] | Listing,
    out: Path,
    config: BuildConfig,
    *,
    map_jobs: MapJobs | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> BuildSummary:
    """Build a set of shards in `out`, or finish one that was interrupted; a finished one is left as it is.

    The clips of some shards are in memory at a time, whatever gives them: an iterator's wait on disk.

    Args:
        clips: of all splits, in the order of the shards; `tidied` normalises their labels. A listing also gives tag
            orders (those of other columns are collected and sorted) and notes, which the manifest keeps.
        out: folder that does not exist yet, or holds this very set.
        config: rate, codec, sizes and limits.
        map_jobs: runs `build_shard` over the jobs; default a process a core.
        progress: called after each shard, once if all were finished before.

    Returns:
        Counts, rejected clips with their reasons, and the hash of the manifest.

    Raises:
        UserError: `out` cannot be written or holds something else, no clips, a key that is used twice, more rejected
            than allowed, or a worker's shard cannot be seen from this machine.
    """
    require_place(out, "the output")
    out = out.resolve()
    listing = clips if isinstance(clips, Listing) else Listing(clips if isinstance(clips, Sequence) else Spool(clips))
    listing = replace(listing, vocabularies=tidied_orders(listing.vocabularies))
    clips = listing.clips
    partial_folder = out.with_name(out.name + ".partial")
    jobs = Jobs(clips, str(partial_folder), config)
    recipe = _checked_recipe(jobs, listing)
    if _is_finished(out, recipe):
        summary = summarise_build(out, clips, resumed_shards=len(jobs), seconds=0.0)
        if progress:
            count, rejected = len(clips), len(summary.rejected)
            progress(Progress(done=count, total=count, rejected=rejected, resumed=count))
        return summary
    tally = Tally(total=len(clips))
    with sole_writer(partial_folder, "give another --out"):
        results = iter((map_jobs or partial(_over_cores, workers=config.workers))(build_shard, jobs))
        _count(results, tally, partial_folder, config.max_rejected, progress)
        _finish(partial_folder, out, tally, config=config, listing=listing, recipe=recipe)
    kept = sum(result.resumed for result in tally.results)
    return summarise_build(out, clips, resumed_shards=kept, seconds=time.monotonic() - tally.started)


def _checked_recipe(jobs: Jobs, listing: Listing) -> str:
    """What identifies the set, in one pass over the clips.
    Raises UserError for the first that is wrong, or if there are none.
    """
    orders = sorted((column, tuple(tags)) for column, tags in listing.vocabularies.items())
    digest, checks = hashlib.sha256(repr(orders).encode()), ClipChecks(listing.vocabularies)
    try:
        for job in jobs:
            for clip in job.clips:
                checks.add(clip)
            digest.update(recipe_of(job).encode())
    except UserError:
        checks.require_unique(listing.clips)  # a key that came twice before the clip that is wrong is named first
        raise
    checks.require_unique(listing.clips)
    return digest.hexdigest()


def _is_finished(out: Path, recipe: str) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    record = out / RECORD_NAME
    if record.is_file() and json.loads(record.read_text(encoding="utf-8"))["recipe"] == recipe:
        return True
    what = "holds another set of shards" if record.is_file() else "exists and is no set of shards"
    raise UserError(f"{out} {what}; delete it, or give another folder")


def _count(
    results: Iterator[ShardResult],
    tally: Tally,
    folder: Path,
    max_rejected: float,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Count shards as they are written; where too many clips are rejected the workers end, and an empty folder goes."""
    try:
        for result in results:
            _check_here(result, folder)
            reached = tally.add(result)
            tally.check(max_rejected)
            if progress:
                progress(reached)
    except TooManyRejected:
        if isinstance(results, Generator):
            results.close()  # stops its workers
        if not list(folder.glob("*.tar")):
            shutil.rmtree(folder)
        raise


def _check_here(result: ShardResult, folder: Path) -> None:
    """A worker on another machine may have written to a disk of its own."""
    if result.shard and not (folder / result.shard.name).is_file():
        raise UserError(
            f"{folder / result.shard.name}: written by another machine, and not visible here; "
            "give --out on storage that all machines share under the same path"
        )


def _finish(folder: Path, out: Path, tally: Tally, *, config: BuildConfig, listing: Listing, recipe: str) -> None:
    results = sorted(tally.results, key=lambda result: result.number)
    rejected = [one for result in results for one in result.rejected]
    shards = [result.shard for result in results if result.shard]
    extra: dict[str, Any] = {
        "build": config.content(),
        "rejected": {one.key: one.why for one in rejected},
        "silent": [key for result in results for key in result.silent],
    }
    if listing.notes:
        extra["notes"] = list(listing.notes)
    entries = ((shard, read_entries(folder, shard)) for shard in shards)
    write_index(folder, entries, vocabularies=listing.vocabularies, extra=extra)
    # The paths of rejected files are those of this machine; the manifest is the same everywhere.
    write_atomic(folder / RECORD_NAME, json.dumps({"recipe": recipe, "rejected": [list(one) for one in rejected]}))
    keep = {INDEX_NAME, MANIFEST_NAME, PARQUET_NAME, RECORD_NAME, LOCK_NAME, *(shard.name for shard in shards)}
    for path in folder.iterdir():
        if path.name not in keep:
            path.unlink()
    folder.replace(out)
    (out / LOCK_NAME).unlink(missing_ok=True)  # after the rename: until then it guards the old folder


def _over_cores(function: Callable[[Any], Any], jobs: Sequence[Any], *, workers: int) -> Iterator[Any]:
    """Results over processes of this machine; 0 workers take one a core, one stays in this process."""
    count = min(workers or num_cores(), len(jobs))
    if count <= 1:
        return map(function, jobs)
    return local_map(function, jobs, workers=count, preload=PRELOAD)
