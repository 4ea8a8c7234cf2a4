"""Building takes no object and few bytes a clip, whatever lists them: a function, a folder, a table of labels."""

import csv
import gc
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.files.spool import CHUNK
from cluster.settings import UserError
from data_shards.build.build import BuildConfig, BuildJob, Progress, build
from data_shards.build.writer import ShardResult
from data_shards.format.records import Clip, Listing
from data_shards.sources.folder import read_folder
from data_shards.sources.label_table import Row, read_labels

RATE = 22_050
SHARD = 64


@dataclass(frozen=True)
class ShortNoise:
    """A tenth of a second, another for each number."""

    number: int

    @property
    def name(self) -> str:
        """Of the sound."""
        return f"noise {self.number}"

    def read(self) -> tuple[NDArray[np.float32], int]:
        """The samples."""
        wave = np.random.default_rng(self.number).standard_normal(RATE // 10)
        return (wave / 10).astype(np.float32), RATE


def noises(count: int) -> Iterator[Clip]:
    for number in range(count):
        yield Clip(key=f"noise-{number}", audio=ShortNoise(number), track=f"t{number}", multilabel={"tags": ("a", "b")})


def alive(*kinds: type) -> int:
    return sum(issubclass(type(one), kinds) for one in gc.get_objects())


def test_the_clips_of_a_few_shards_are_alive_while_a_set_is_built(tmp_path: Path) -> None:
    most, before = 0, alive(Clip)  # other tests of this process may hold some

    def count(now: Progress) -> None:
        nonlocal most
        if now.done % (5 * SHARD) == 0:
            most = max(most, alive(Clip) - before)

    config = BuildConfig(clips_per_shard=SHARD, workers=1, shortest_s=0.05)
    summary = build(noises(1_000), tmp_path / "set", config, progress=count)
    assert summary.clips == 1_000
    assert 0 < most <= 2 * (CHUNK + SHARD)


class PlannedError(Exception):
    """The plan is made; nothing is written."""


def plan(clips: Iterable[Clip] | Listing, out: Path) -> None:
    """All of a build but the writing: every job is made once."""

    def stop(_: object, jobs: Sequence[BuildJob]) -> Iterable[ShardResult]:
        assert sum(len(job.clips) for job in jobs) > 0
        raise PlannedError

    with pytest.raises(PlannedError):
        build(clips, out, BuildConfig(clips_per_shard=SHARD, workers=1), map_jobs=stop)


def test_a_plan_takes_less_than_a_hundred_bytes_a_clip(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        plan(noises(count), tmp_path / "set")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(CHUNK)
    few, many = 4 * CHUNK, 32 * CHUNK
    assert (peak(many) - peak(few)) / (many - few) < 100  # a clip is 1,800


def test_a_folder_with_and_without_a_table_makes_no_object_a_file(tmp_path: Path) -> None:
    music, count = tmp_path / "music", 8 * CHUNK
    music.mkdir()
    for number in range(count):
        (music / f"{number:05d}.wav").touch()
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "track_id", "tags"])
        writer.writerows([f"{number:05d}.wav", "train", f"t{number}", "a|b"] for number in range(count))
    tables, before = (None, read_labels(tmp_path / "labels.csv")), alive(Clip, Path, Row)
    for table in tables:
        listing = read_folder(music, table)
        assert len(listing.clips) == count
        plan(listing.clips, tmp_path / "set")
        assert alive(Clip, Path, Row) - before < 4 * CHUNK


def test_a_key_that_came_twice_is_named_before_a_later_clip_that_is_wrong(tmp_path: Path) -> None:
    clips = [*noises(300), Clip(key="noise-7", audio=ShortNoise(300), track="t")]
    wrong = Clip(key="not/a key", audio=ShortNoise(301), track="t")
    for found in (clips, [*clips, wrong]):
        with pytest.raises(UserError, match="key noise-7 is used twice, by noise 7 and by noise 300"):
            build(iter(found), tmp_path / "set", BuildConfig(workers=1))
    with pytest.raises(UserError, match="noise 301: key 'not/a key' must be"):
        build(iter([wrong, *clips]), tmp_path / "set", BuildConfig(workers=1))
    assert not list(tmp_path.iterdir())
