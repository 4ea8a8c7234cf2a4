"""Batches: those of the plan, read ahead, the same for any ranks, threads and starting point."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import id_hash
from data_shards.format.records import Batch
from data_shards.read.loader import BatchLoader
from data_shards.sampling.config import DataConfig
from data_shards.sources.folder import read_folder

MakeFolder = Callable[..., tuple[Path, Path]]
T = 3_000


@pytest.fixture
def config(make_folder: MakeFolder, tmp_path: Path) -> DataConfig:
    """A labelled and an unlabelled set of 24 clips, 12 of each for training."""
    shape = BuildConfig(clips_per_shard=10, workers=1)
    build(read_folder(*make_folder(24)).clips, tmp_path / "labelled", shape)
    audio, _ = make_folder(24, name="more")
    build(read_folder(audio).clips, tmp_path / "unlabelled", shape)
    labelled, unlabelled = str(tmp_path / "labelled"), str(tmp_path / "unlabelled")
    return DataConfig(labelled=labelled, unlabelled=unlabelled, batch=12, b_s=0.25)


def batches(config: DataConfig, *, start: int = 0, rank: int = 0, world: int = 1, threads: int = 2) -> list[Batch]:
    with BatchLoader(config, frames=T, seed=3, rank=rank, world=world, num_threads=threads) as loader:
        return list(loader.batches(start, 6))


def test_a_batch_holds_what_the_plan_says(config: DataConfig) -> None:
    with BatchLoader(config, frames=T, seed=3) as loader:
        assert loader.vocabulary == ("calm", "dark")
        assert loader.rate == 22_050
        for step, batch in enumerate(loader.batches(0, 6)):
            plan = loader.sampler.plan(step)
            assert batch.wave_BT.dtype == torch.int16
            assert batch.wave_BT.shape == (12, T)
            assert batch.frames_B.tolist() == [T] * 12
            assert batch.slot_B.tolist() == list(range(12))
            assert batch.labels_BC.tolist() == [[True, True]] * 3 + [[False, False]] * 9
            for place in range(12):
                opened = loader.sets[plan.stream_B[place]]
                assert opened is not None
                row = int(plan.row_B[place])
                assert batch.clip_id_B[place] == id_hash(opened.index.key[row])
                assert opened.index.split[row] == "train"
                start = loader.sampler.window_start(step, place, 4_000 - T)
                folder = Path(config.labelled or "").parent / ("music" if place < 3 else "more")
                wave, _ = soundfile.read(folder / f"sub/{row:03d}.wav", dtype="int16")
                assert np.array_equal(batch.wave_BT[place].numpy(), wave[start : start + T])


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])
def test_ranks_share_the_global_batch(config: DataConfig, world: int) -> None:
    whole = batches(config)
    for rank in range(world):
        for part, batch in zip(batches(config, rank=rank, world=world), whole, strict=True):
            for mine, all_of_it in zip(part, batch, strict=True):
                assert torch.equal(mine, all_of_it[rank::world])


def test_a_resumed_run_reads_the_same_batches(config: DataConfig) -> None:
    whole = batches(config)
    for one, two in zip(batches(config, start=4), whole[4:], strict=True):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, two, strict=True))


def test_threads_change_nothing(config: DataConfig) -> None:
    for one, two in zip(batches(config, threads=1), batches(config, threads=7), strict=True):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, two, strict=True))


def test_batches_are_read_before_they_are_asked_for(config: DataConfig) -> None:
    with BatchLoader(config, frames=T, seed=3, prefetch=3) as loader:
        stream = loader.batches(0, 10)
        next(stream)
        planned = threading.Event()
        plan = loader.sampler.plan
        loader.sampler.plan = lambda *where: (planned.set(), plan(*where))[1]  # type: ignore[method-assign,func-returns-value]
        loader._pool.shutdown(wait=True)  # steps 1, 2 and 3 are on their way already: nobody has to ask for them
        assert not planned.is_set()


def test_leaving_the_stream_early_stops_the_reading(config: DataConfig) -> None:
    before = threading.active_count()
    with BatchLoader(config, frames=T, seed=3) as loader:
        for _ in loader.batches(0, 1_000_000):
            break
    assert threading.active_count() == before


def test_unlabelled_clips_never_show_their_tags(config: DataConfig) -> None:
    # The labelled set drawn from as unlabelled: b_s = 0 is the self-supervised baseline on the same music.
    same = replace(config, labelled=None, unlabelled=config.labelled, b_s=0.0)
    for batch in batches(same):
        assert batch.labels_BC.shape == (12, 0)


def test_the_hash_names_both_sets(config: DataConfig) -> None:
    def hash_of(config: DataConfig) -> str:
        with BatchLoader(config, frames=T, seed=3) as loader:
            return loader.manifest_hash

    both, one = hash_of(config), hash_of(replace(config, b_s=1.0))
    assert both.split(":")[0] == one.split(":")[0]
    assert one.endswith(":-")
    assert len(both) == 129


def test_sets_of_two_rates_are_refused(config: DataConfig, make_folder: MakeFolder, tmp_path: Path) -> None:
    build(read_folder(*make_folder(6, name="low")).clips, tmp_path / "low-set", BuildConfig(rate=16_000, workers=1))
    with pytest.raises(UserError, match=r"labelled shards have 22,050 Hz, unlabelled 16,000 Hz"):
        BatchLoader(replace(config, unlabelled=str(tmp_path / "low-set")), frames=T, seed=3)


def test_what_cannot_work_is_refused_before_any_file_is_opened(config: DataConfig) -> None:
    with pytest.raises(UserError, match="5 ranks do not divide"):
        BatchLoader(config, frames=T, seed=3, world=5)
    with pytest.raises(UserError, match=r"give data\.unlabelled=DIR"):
        BatchLoader(replace(config, unlabelled=None), frames=T, seed=3)
    with pytest.raises(ValueError, match="frames, num_threads and prefetch must be > 0"):
        BatchLoader(config, frames=0, seed=3)
