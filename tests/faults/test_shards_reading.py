"""Faults 6, 9, 13, 27, 30 while a run reads: damage is replaced, named and counted; what is gone stops the run."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.settings import RunError, UserError
from data_shards.format.index import read_index
from data_shards.format.problems import ClipError
from data_shards.format.records import Batch, Clip
from data_shards.inspect.verify import verify
from data_shards.read.loader import BatchLoader
from data_shards.read.reader import ShardSet
from data_shards.sampling.config import DataConfig

MakeSet = Callable[..., Path]
NoiseClips = Callable[..., list[Clip]]
FRAMES = 4_000


def damage(folder: Path, rows: list[int]) -> set[str]:
    """Flip a bit in the middle of some clips' audio; their keys."""
    index = read_index(folder)
    for row in rows:
        with (folder / index.shards[index.shard[row]].name).open("r+b") as file:
            place = int(index.offset[row] + index.size[row] // 2)
            file.seek(place)
            (value,) = file.read(1)
            file.seek(place)
            file.write(bytes([value ^ 4]))
    return {str(index.key[row]) for row in rows}


def load(folder: Path, steps: int, **options: object) -> tuple[list[Batch], BatchLoader]:
    fields: dict[str, object] = {"labelled": str(folder), "b_s": 1.0, "batch": 8, "max_replaced": 1.0}
    ranks = {name: options.pop(name) for name in ("rank", "world") if name in options}
    config = DataConfig(**{**fields, **options})  # type: ignore[arg-type]  # fields by name, checked by the dataclass
    with BatchLoader(config, frames=FRAMES, seed=5, **ranks) as loader:  # type: ignore[arg-type]  # rank and world
        return list(loader.batches(0, steps)), loader


@pytest.mark.parametrize("codec", ["pcm16", "flac"])
def test_a_damaged_block_raises_with_shard_key_and_byte(make_set: MakeSet, codec: str) -> None:
    folder = make_set(count=4, frames=120_000, codec=codec)
    (key,) = damage(folder, [2])
    with ShardSet.open(folder) as shards:
        middle = int(shards.index.frames[2]) // 2
        with pytest.raises(ClipError, match=rf"shard-00000\.tar, clip {key}, byte [\d,]+: the checksum"):
            shards.read_window(2, middle - 500, 1_000)
        if codec == "pcm16":  # a window that does not touch the block is whole
            assert len(shards.read_window(2, 0, 1_000)) == 1_000


def test_without_checksums_nothing_is_checked(make_set: MakeSet) -> None:
    folder = make_set(count=2)
    damage(folder, [0])
    with ShardSet.open(folder, checksums=False) as shards:
        shards.read_window(0, 0, 6_000)


def test_damaged_clips_are_replaced_named_and_never_delivered(make_set: MakeSet) -> None:
    folder = make_set(count=40, per_shard=10)
    bad = damage(folder, [3, 17])
    batches, loader = load(folder, steps=20)
    index = read_index(folder)
    id_of = {int(index.id_hash[row]): row for row in range(len(index))}
    assert {replaced.key for replaced in loader.replaced} == bad
    # 160 places are four epochs of 40 clips, each with two damaged ones; a substitute may be the other of them.
    assert len({(replaced.step, replaced.slot) for replaced in loader.replaced}) == 8
    labels = index.labels("tags")
    for batch in batches:
        assert batch.wave_BT.shape == (8, FRAMES)
        for clip_id, label in zip(batch.clip_id_B.tolist(), batch.labels_BC.numpy(), strict=True):
            assert str(index.key[id_of[clip_id]]) not in bad
            assert (label == labels[id_of[clip_id]]).all()


def test_what_is_replaced_is_logged_and_the_list_of_names_is_bounded(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("data_shards.read.loader.MAX_NAMED", 5)
    folder = make_set(count=40, per_shard=10)
    bad = damage(folder, [3, 17])
    _, loader = load(folder, steps=20)
    assert loader.num_replaced >= 8
    assert len(loader.replaced) == len(caplog.messages) == 5
    assert all(any(key in message for key in bad) for message in caplog.messages)


def test_every_rank_and_restart_takes_the_same_substitutes(make_set: MakeSet) -> None:
    folder = make_set(count=24, per_shard=10)
    damage(folder, [1, 2, 9, 20])
    whole, _ = load(folder, steps=6)
    parts = [load(folder, steps=6, rank=rank, world=4)[0] for rank in range(4)]
    for step, batch in enumerate(whole):
        for rank in range(4):
            assert (parts[rank][step].clip_id_B == batch.clip_id_B[rank::4]).all()
            assert (parts[rank][step].wave_BT == batch.wave_BT[rank::4]).all()


def test_one_percent_of_the_shards_damaged_loses_exactly_their_clips(make_set: MakeSet) -> None:
    folder = make_set(count=200, frames=2_500, per_shard=2)
    index = read_index(folder)
    bad = damage(folder, np.flatnonzero(index.shard == 37).tolist())
    assert {problem.key for problem in verify(folder)} == bad
    with ShardSet.open(folder) as shards:
        lost = set()
        for row in range(len(index)):
            try:
                wave = shards.read_window(row, 0, 2_500)
            except ClipError as error:
                lost.add(error.problem.key)
            else:
                assert f"clip-{wave[0]:04d}" == index.key[row]  # audio under its own key
    assert lost == bad


def test_too_many_damaged_clips_stop_the_run(make_set: MakeSet) -> None:
    folder = make_set(count=40, per_shard=10)
    damage(folder, [3])
    with pytest.raises(RunError, match=r"(?s)data\.max_replaced = 0 .*clip-0003.*verify the shards"):
        load(folder, steps=10, max_replaced=0.0)
    damage(folder, list(range(40)))  # and back the one that was damaged twice
    with pytest.raises(RunError, match="16 clips one after another are damaged"):
        load(folder, steps=20)


def test_a_shard_that_goes_missing_stops_the_run_with_its_name(make_set: MakeSet) -> None:
    folder = make_set()
    with ShardSet.open(folder, retry_delays_s=(0.0, 0.0)) as shards:
        shards.read_window(0, 0, 100)
        (folder / "shard-00001.tar").unlink()
        with pytest.raises(RunError, match=r"shard-00001\.tar: cannot be opened after 3 attempts: No such file"):
            shards.read_window(5, 0, 100)


def test_a_shard_that_comes_back_is_read(make_set: MakeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_set()
    shard, away = folder / "shard-00001.tar", folder / "away"
    with ShardSet.open(folder) as shards:
        shard.rename(away)
        monkeypatch.setattr("data_shards.read.reader.time.sleep", lambda _: away.exists() and away.rename(shard))
        assert shards.read_window(5, 0, 1)[0] == 5


def test_a_shard_replaced_in_mid_run_is_refused(make_set: MakeSet) -> None:
    folder, other = make_set(), make_set("other", count=4)
    with ShardSet.open(folder) as shards:
        shutil.copy(other / "shard-00000.tar", folder / "shard-00001.tar")
        with pytest.raises(UserError, match=r"shard-00001\.tar: not the shard that was indexed"):
            shards.read_window(5, 0, 100)


@pytest.mark.parametrize(("policy", "drawn"), [("pad", 8), ("drop", 4)])
def test_clips_shorter_than_the_window_follow_the_policy(
    make_set: MakeSet, noise_clips: NoiseClips, policy: str, drawn: int
) -> None:
    both = make_set("both", clips=[*noise_clips(4, 6_000), *noise_clips(4, 2_500, first=4)])
    batches, loader = load(both, steps=4, short=policy)
    assert loader.sampler.summary(4)["labelled_clips"] == drawn
    assert loader.sampler.num_short == 8 - drawn
    for batch in batches:
        for wave, frames in zip(batch.wave_BT, batch.frames_B.tolist(), strict=True):
            assert frames == FRAMES or (policy == "pad" and frames == 2_500)
            assert not wave[frames:].any()
            assert wave[:frames].any()


def test_refusing_short_clips_names_the_first(make_set: MakeSet, noise_clips: NoiseClips) -> None:
    with pytest.raises(
        UserError, match=r"4 training clips are shorter than the window of 0\.18 s, the first is clip-0004"
    ):
        load(make_set(clips=[*noise_clips(4, 6_000), *noise_clips(4, 2_500, first=4)]), steps=1, short="refuse")


def test_a_set_without_any_label_is_refused_as_labelled_and_taken_as_unlabelled(
    make_set: MakeSet, noise_clips: NoiseClips
) -> None:
    bare = make_set(clips=[replace(clip, multilabel={"tags": ()}) for clip in noise_clips(8, 6_000)])
    with pytest.raises(UserError, match="no training clip with a tag of tags"):
        load(bare, steps=1)
    batches, loader = load(bare, steps=1, labelled=None, unlabelled=str(bare), b_s=0.0)
    assert loader.vocabulary == ()
    assert batches[0].labels_BC.shape == (8, 0)


def test_one_class_only_is_a_vocabulary_of_one(make_set: MakeSet, noise_clips: NoiseClips) -> None:
    folder = make_set(clips=[replace(clip, multilabel={"tags": ("only",)}) for clip in noise_clips(8, 6_000)])
    (batch,), loader = load(folder, steps=1)
    assert loader.vocabulary == ("only",)
    assert batch.labels_BC.all()
