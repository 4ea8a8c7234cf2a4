"""Building on a Ray cluster: the bytes of a local build, nothing done twice, and an error that says where."""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.ray_runtime.map import ray_map
from cluster.ray_runtime.session import ray_session
from cluster.settings import RunError, UserError
from data_shards.audio.decode import AudioError
from data_shards.build.build import BuildConfig, BuildJob, Progress, build
from data_shards.build.writer import ShardResult
from data_shards.inspect.verify import verify
from data_shards.sources.folder import read_folder

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

MakeFolder = Callable[..., tuple[Path, Path]]
CONFIG = BuildConfig(clips_per_shard=2)
on_ray = partial(ray_map, name_of=lambda job: job.name)


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with ray_session(workers=2, dashboard=False):
        yield


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@dataclass(frozen=True)
class FailingAudio:
    """Raises what it is given, as a decoder might."""

    error: Exception
    name: str = "songs/failing.mp3"

    def read(self) -> tuple[NDArray[np.float32], int]:
        raise self.error


@dataclass(frozen=True)
class DyingAudio:
    """Ends the worker that reads it first, as a machine that goes away would."""

    marker: str
    name: str = "songs/dying.mp3"

    def read(self) -> tuple[NDArray[np.float32], int]:
        if not Path(self.marker).exists():
            Path(self.marker).touch()
            os._exit(1)
        return np.full(5_000, 0.5, np.float32), 22_050


def test_ray_gives_the_bytes_of_a_local_build(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(11)).clips
    build(clips, tmp_path / "local", replace(CONFIG, workers=1))
    seen: list[Progress] = []
    summary = build(clips, tmp_path / "ray", CONFIG, map_jobs=on_ray, progress=seen.append)
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    assert (summary.clips, summary.shards, summary.resumed_shards) == (11, 6, 0)
    assert len(seen) == 6
    assert seen[-1].done == seen[-1].total == 11


def test_a_build_that_was_stopped_goes_on_on_ray(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(12)).clips
    build(clips, tmp_path / "whole", replace(CONFIG, workers=1))

    def interrupted(function: Callable[[BuildJob], ShardResult], jobs: Sequence[BuildJob]) -> Iterable[ShardResult]:
        yield from [function(job) for job in jobs[:2]]  # here, not on the cluster
        yield next(ray_map(function, jobs[2:], name_of=lambda job: job.name, workers=1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(clips, tmp_path / "set", CONFIG, map_jobs=interrupted)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set.partial").glob("*.tar")}
    assert len(kept) >= 3
    summary = build(clips, tmp_path / "set", CONFIG, map_jobs=on_ray)
    assert summary.resumed_shards == len(kept)
    assert kept == {name: (tmp_path / "set" / name).stat().st_mtime_ns for name in kept}
    assert {**digests(tmp_path / "set"), "build.json": ""} == {**digests(tmp_path / "whole"), "build.json": ""}
    assert verify(tmp_path / "set") == []


def test_a_task_whose_worker_dies_runs_again(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = list(read_folder(*make_folder(6)).clips)
    clips[3] = replace(clips[3], audio=DyingAudio(str(tmp_path / "died")))
    assert build(clips, tmp_path / "set", CONFIG, map_jobs=on_ray).clips == 6
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ZeroDivisionError("by zero"), UserError, r"songs/failing\.mp3: cannot be decoded: ZeroDivisionError: by zero"),
        (RunError("the disk is full"), RunError, r"shard-00001\.tar: the disk is full"),
        (UserError("give another folder"), UserError, r"\Agive another folder"),
    ],
)
def test_an_error_of_a_task_names_shard_and_clip(
    make_folder: MakeFolder, tmp_path: Path, error: Exception, kind: type[Exception], message: str
) -> None:
    clips = list(read_folder(*make_folder(6)).clips)
    clips[2] = replace(clips[2], audio=FailingAudio(error))
    with pytest.raises(kind, match=message):
        build(clips, tmp_path / "set", CONFIG, map_jobs=on_ray)
    assert not (tmp_path / "set").exists()


def test_a_rejected_clip_is_counted_and_too_many_make_no_set(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = list(read_folder(*make_folder(8)).clips)
    clips[2] = replace(clips[2], audio=FailingAudio(AudioError("is damaged")))
    allowed = replace(CONFIG, max_rejected=0.5)
    assert build(clips, tmp_path / "set", allowed, map_jobs=on_ray).rejected[0].why == "is damaged"
    with pytest.raises(UserError, match=r"songs/failing\.mp3: is damaged"):
        build(clips, tmp_path / "other", CONFIG, map_jobs=on_ray)
    assert not (tmp_path / "other").exists()


def test_no_more_tasks_are_in_flight_than_asked_for(tmp_path: Path) -> None:
    """Each task leaves a file while it runs and counts those that are there."""

    def count(number: int) -> int:
        mine = tmp_path / str(number)
        mine.touch()
        there = len(list(tmp_path.iterdir()))
        mine.unlink()
        return there

    assert list(ray_map(count, range(12), name_of=str, workers=1)) == [1] * 12
    assert sorted(ray_map(lambda number: -number, range(12), name_of=str)) == list(range(-11, 1))


def test_a_shard_that_was_written_elsewhere_is_reported(make_folder: MakeFolder, tmp_path: Path) -> None:
    """A machine that does not share the folder writes to its own disk: here another folder plays it."""
    (tmp_path / "elsewhere").mkdir()

    def far_away(function: Callable[[BuildJob], ShardResult], jobs: Sequence[BuildJob]) -> Iterable[ShardResult]:
        return on_ray(function, [replace(job, folder=str(tmp_path / "elsewhere")) for job in jobs])

    with pytest.raises(UserError, match=r"shard-0000\d\.tar: written by another machine.*all machines share"):
        build(read_folder(*make_folder(4)).clips, tmp_path / "set", CONFIG, map_jobs=far_away)


def test_tasks_end_with_an_iterator_that_is_left_early(
    running_below: Callable[[str], list[int]], tmp_path: Path
) -> None:
    def work(number: int) -> int:
        if number:
            (tmp_path / "begun").touch()
        while number or not (tmp_path / "begun").exists():
            os.sched_yield()
        return number

    results = ray_map(work, [0, 1], name_of=str)
    assert next(results) == 0
    assert isinstance(results, Generator)
    assert running_below("ray::work")
    results.close()
    assert not running_below("ray::work")
