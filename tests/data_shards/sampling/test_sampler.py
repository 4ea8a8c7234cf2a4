"""The laws of sampling: every clip once an epoch, whatever the ranks and kills; exact, nested shares."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.format.columns import TextColumn
from data_shards.format.index import ShardIndex, id_hash
from data_shards.sampling.config import DataConfig
from data_shards.sampling.permutation import permute
from data_shards.sampling.sampler import LABELLED, UNLABELLED, Sampler, check_world, chosen_share
from data_shards.sampling.stream import Stream

MakeIndex = Callable[..., ShardIndex]


@pytest.fixture(scope="module")
def make_index() -> MakeIndex:
    """An index of clips that have no files: ``make_index(1000, labelled=0.5, shards=10, first=0)``."""

    def make(count: int, *, labelled: float = 1.0, shards: int = 10, first: int = 0, train: float = 1.0) -> ShardIndex:
        keys = [f"clip-{number}" for number in range(first, first + count)]
        num_labelled = round(labelled * count)
        ends = np.minimum(np.arange(count + 1), num_labelled)
        ids = np.array([id_hash(key) for key in keys])
        split = np.where(np.arange(count) < train * count, "train", "test")
        return ShardIndex(
            manifest={"hash": "", "rate": 22_050, "vocabularies": {"tags": ["a"]}, "classes": {}, "numeric": []},
            shards=(),
            columns={
                "key": TextColumn.of(keys),
                "split": TextColumn.of(split.tolist()),
                "shard": (np.arange(count) * shards // count).astype(np.int32),
                "frames": np.full(count, 100_000),
                "id_hash": ids,
                "id_order": np.argsort(ids),
                "multilabel.tags": (np.zeros(num_labelled, np.int32), ends),
            },
        )

    return make


def both(make_index: MakeIndex, config: DataConfig, *, seed: int = 7) -> Sampler:
    return Sampler(config, make_index(1_000), make_index(5_000, first=50_000), seed=seed)


# --- permutation ---


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 255, 256, 257, 100_003])
def test_a_permutation_sends_every_place_to_another(n: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, key=n)), np.arange(n))


def test_a_permutation_of_a_part_is_the_part_of_the_permutation() -> None:
    whole, some = permute(np.arange(10_007), 10_007, key=3), np.array([5, 9_999, 5, 0])
    assert np.array_equal(permute(some, 10_007, key=3), whole[some])


def test_shuffles_look_independent_of_place_and_of_each_other() -> None:
    n = 100_000
    one, two = (permute(np.arange(n), n, key=key) for key in (1, 2))
    assert abs(np.corrcoef(np.arange(n), one)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(n)
    assert (one == two).sum() < 10
    neighbours = np.abs(np.diff(one)) == 1
    assert neighbours.sum() < 20  # two are expected


def test_every_clip_is_as_often_in_every_place_of_a_small_set() -> None:
    counts = np.zeros((7, 7))
    for key in range(2_100):
        counts[np.arange(7), permute(np.arange(7), 7, key=key)] += 1
    assert abs(counts - 300).max() < 5 * np.sqrt(300)


def test_positions_outside_the_domain_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        permute(np.array([5]), 5, key=0)


# --- exactly once ---


def run_with_kills(sampler: Sampler, steps: int, seed: int) -> tuple[NDArray[np.int64], int]:
    """Rows of the unlabelled stream as committed by a run that is killed again and again.

    It comes back with another number of ranks; work since the last snapshot (every 10 steps) is done again.
    """
    rng, batch = random.Random(seed), sampler.config.batch
    worlds = [world for world in range(1, 9) if batch % world == 0]
    committed: list[NDArray[np.int64]] = []
    kills = 0
    while len(committed) < steps:
        world = rng.choice(worlds)
        for _ in range(rng.randrange(1, 30)):
            if len(committed) == steps:
                return np.concatenate(committed), kills
            rows = np.full(batch, -1, np.int64)
            for rank in range(world):
                plan = sampler.plan(len(committed), rank, world)
                rows[plan.slot_B] = plan.row_B
            committed.append(rows[sampler.config.num_labelled :])
        kills += 1
        del committed[len(committed) // 10 * 10 :]
    return np.concatenate(committed), kills


@pytest.mark.usefixtures("untraced")
def test_a_million_samples_through_a_hundred_kills_are_each_drawn_exactly_once(make_index: MakeIndex) -> None:
    unlabelled = make_index(1_000_000, labelled=0.0, shards=500)
    config = DataConfig(batch=1_920, b_s=0.25)
    sampler = Sampler(config, make_index(1_000, first=5_000_000), unlabelled, seed=11)
    per_step = config.batch - config.num_labelled
    steps = 1_000_000 // per_step + 1
    rows, kills = run_with_kills(sampler, steps, seed=0)
    more = 1
    while kills < 100:  # the beginning again, other kills: it must be the same order too
        again, killed = run_with_kills(sampler, steps // 4, seed=more)
        assert np.array_equal(again, rows[: len(again)])
        kills, more = kills + killed, more + 1
    first_epoch = rows[:1_000_000]
    assert np.array_equal(np.sort(first_epoch), np.arange(1_000_000))
    assert np.array_equal(rows[1_000_000:], rows_of(sampler, 1, len(rows) - 1_000_000))


def rows_of(sampler: Sampler, epoch: int, count: int) -> NDArray[np.int64]:
    stream = sampler.streams[UNLABELLED]
    assert stream is not None
    return stream.rows_at(np.full(count, epoch), np.arange(count))


@pytest.mark.parametrize("block_shards", [0, 1, 3, 10, 99])
def test_every_epoch_draws_every_clip_once_in_another_order(make_index: MakeIndex, block_shards: int) -> None:
    config = DataConfig(batch=50, b_s=0.5, block_shards=block_shards)
    sampler = both(make_index, config)
    rows = np.concatenate([sampler.plan(step).row_B[:25] for step in range(120)]).reshape(3, 1_000)
    for epoch in rows:
        assert np.array_equal(np.sort(epoch), np.arange(1_000))
    assert (rows[0] == rows[1]).mean() < 0.1


def test_blocks_need_few_shards_at_a_time() -> None:
    shards = np.repeat(np.arange(40), 25)
    stream = Stream("s", np.arange(1_000), shards.astype(np.int32), seed=0, block_shards=4)
    rows = stream.rows_at(np.zeros(1_000, np.int64), np.arange(1_000))
    for block in range(10):
        assert len(set(shards[rows[100 * block : 100 * block + 100]])) == 4
    assert len(set(shards[rows[:20]])) > 1


def test_the_seed_and_the_stream_change_the_order(make_index: MakeIndex) -> None:
    config = DataConfig(batch=50, b_s=0.5)
    index = make_index(1_000)
    one = Sampler(config, index, make_index(1_000, first=9_000), seed=1).plan(0)
    two = Sampler(config, index, make_index(1_000, first=9_000), seed=2).plan(0)
    assert (one.row_B == two.row_B).mean() < 0.2
    assert (one.row_B[:25] == one.row_B[25:]).mean() < 0.2


# --- shares and ranks ---


@pytest.mark.parametrize("b_s", [0.0, 0.05, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8, 12, 96])
def test_any_number_of_ranks_sees_the_same_batch_with_equal_shares(
    make_index: MakeIndex, b_s: float, world: int
) -> None:
    sampler = both(make_index, DataConfig(b_s=b_s))
    whole = sampler.plan(3)
    assert np.array_equal(whole.slot_B, np.arange(96))
    num_labelled = int((whole.stream_B == LABELLED).sum())
    assert num_labelled == round(b_s * 96 + 1e-9)
    assert np.array_equal(whole.stream_B, np.arange(96) >= num_labelled)  # labelled first
    shares = []
    for rank in range(world):
        part = sampler.plan(3, rank, world)
        for mine, all_of_it in zip(part[1:], whole[1:], strict=True):
            assert np.array_equal(mine, all_of_it[rank::world])
        shares.append(int((part.stream_B == LABELLED).sum()))
    assert max(shares) - min(shares) <= 1


def test_p_s_is_nested_and_depends_on_the_id_alone(make_index: MakeIndex) -> None:
    ids = make_index(20_000).id_hash
    chosen = {share: chosen_share(ids, share) for share in (0.01, 0.05, 0.1, 0.5, 1.0)}
    for small, large in zip(list(chosen)[:-1], list(chosen)[1:], strict=True):
        assert not (chosen[small] & ~chosen[large]).any()
    for share, kept in chosen.items():
        assert abs(kept.mean() - share) < 5 * np.sqrt(share * (1 - share) / 20_000) + 1e-12
    assert np.array_equal(chosen_share(ids[::-1], 0.1)[::-1], chosen[0.1])


def test_p_s_is_applied_once_to_training_clips_and_reported(make_index: MakeIndex) -> None:
    labelled = make_index(4_000, labelled=0.5, train=0.5)  # 2,000 training clips, all with a tag; the rest is test
    sampler = Sampler(DataConfig(p_s=0.25), labelled, make_index(100, first=50_000), seed=0)
    stream = sampler.streams[LABELLED]
    assert stream is not None
    assert abs(len(stream) - 500) < 100
    assert (labelled.split[stream.rows] == "train").all()
    summary = sampler.summary(1_000)
    assert summary["labelled_available"] == 2_000
    assert summary["p_s_realised"] == len(stream) / 2_000
    assert summary["b_s_realised"] == 5 / 96
    assert summary["labelled_epochs"] == 5_000 / len(stream)


def test_labelled_clips_that_p_s_leaves_out_are_not_drawn_as_unlabelled(make_index: MakeIndex) -> None:
    whole = make_index(1_000, labelled=0.4)
    sampler = Sampler(DataConfig(p_s=0.1, b_s=0.5), whole, whole, seed=0)
    unlabelled = sampler.streams[UNLABELLED]
    assert unlabelled is not None
    assert np.array_equal(unlabelled.rows, np.arange(400, 1_000))
    with pytest.raises(UserError, match="all 100 are in the labelled set, with tags"):
        Sampler(DataConfig(), make_index(100), make_index(100), seed=0)


def test_a_stream_with_share_zero_needs_no_shards(make_index: MakeIndex) -> None:
    index = make_index(100)
    assert len(Sampler(DataConfig(b_s=0.0), None, index, seed=0).plan(0).row_B) == 96
    assert len(Sampler(DataConfig(b_s=1.0), index, None, seed=0).plan(0).row_B) == 96
    with pytest.raises(UserError, match=r"give data\.labelled=DIR, or data\.b_s=0"):
        Sampler(DataConfig(), None, index, seed=0)
    with pytest.raises(UserError, match=r"give data\.unlabelled=DIR, or data\.b_s=1"):
        Sampler(DataConfig(), index, None, seed=0)


# --- refusals (Faults 39) ---


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"b_s": 0.01, "batch": 32}, r"take batch >= 50 or b_s >= 0\.0312, or b_s = 0"),
        ({"b_s": 0.99, "batch": 32}, r"take batch >= 51 or b_s <= 0\.969, or b_s = 1"),
        ({"b_s": 1.5}, r"b_s must be in \[0, 1\], got 1\.5"),
        ({"p_s": 0.0}, r"p_s must be in \(0, 1\], got 0"),
        ({"batch": 0}, "batch must be > 0, got 0"),
    ],
)
def test_a_share_that_rounds_to_nothing_is_refused_with_what_would_work(fields: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        DataConfig(**fields)


@pytest.mark.parametrize(("b_s", "batch"), [(0.01, 50), (1 / 32, 32), (0.99, 51), (1 - 1 / 32, 32)])
def test_what_the_refusal_recommends_works(b_s: float, batch: int) -> None:
    assert 0 < DataConfig(b_s=b_s, batch=batch).num_labelled < batch


def test_ranks_that_do_not_divide_the_batch_are_refused_with_the_nearest_sizes() -> None:
    with pytest.raises(UserError, match=r"5 ranks do not divide data\.batch = 96; .*batch = 95 or 100, or 4 or 6"):
        check_world(96, 5)
    with pytest.raises(UserError, match=r"take data\.batch = 128, or 96 ranks"):
        check_world(96, 128)
    with pytest.raises(UserError, match="must be > 0, got 0"):
        check_world(96, 0)


def test_a_vocabulary_that_is_not_there_names_those_that_are(make_index: MakeIndex) -> None:
    with pytest.raises(UserError, match=r"data\.vocabulary = moods: the labelled set has no such column; it has tags"):
        Sampler(DataConfig(vocabulary="moods"), make_index(10), make_index(10, first=99), seed=0)


def test_windows_are_uniform_and_depend_on_seed_step_and_slot_alone(make_index: MakeIndex) -> None:
    sampler = both(make_index, DataConfig())
    starts = np.array([sampler.window_start(step, slot, 9) for step in range(200) for slot in range(50)])
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 10
    assert abs(counts - 1_000).max() < 5 * np.sqrt(1_000)
    assert sampler.window_start(1, 2, 0) == 0
    assert sampler.window_start(1, 2, 10**6) == both(make_index, DataConfig()).window_start(1, 2, 10**6)
    assert sampler.window_start(1, 2, 10**6) != both(make_index, DataConfig(), seed=8).window_start(1, 2, 10**6)


def test_the_plan_of_a_seed_never_changes(make_index: MakeIndex) -> None:
    # Written down once: a change here makes every earlier run impossible to resume.
    plan = both(make_index, DataConfig(batch=8, b_s=0.5)).plan(1_000)
    assert plan.row_B.tolist() == [169, 131, 286, 510, 409, 1953, 1200, 1469]


def test_substitutes_are_rows_of_the_stream_and_differ_by_attempt(make_index: MakeIndex) -> None:
    sampler = both(make_index, DataConfig())
    rows = [sampler.substitute(LABELLED, 0, 5, attempt) for attempt in range(20)]
    assert all(0 <= row < 1_000 for row in rows)
    assert len(set(rows)) > 15


def test_a_sampler_needs_no_files(make_index: MakeIndex, tmp_path: Path) -> None:
    assert both(make_index, DataConfig()).plan(10**12, 3, 4).row_B.shape == (24,)
