"""Laws of stripes: the same batches for every W, every clip once an epoch, machines fetch different shards."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.columns import TextColumn
from data_shards.format.index import ShardIndex, id_hash
from data_shards.format.records import Clip
from data_shards.read.loader import BatchLoader
from data_shards.read.reader import ShardSet
from data_shards.sampling.config import DataConfig
from data_shards.sampling.sampler import LABELLED, UNLABELLED, Sampler


def index_of(count: int, shards: int, first: int = 0) -> ShardIndex:
    """Clips without files, all labelled, shards of unequal sizes."""
    keys = [f"clip-{number}" for number in range(first, first + count)]
    ids = np.array([id_hash(key) for key in keys])
    rng = np.random.default_rng(shards)
    shard = np.sort(np.concatenate([np.arange(shards), rng.integers(0, shards, count - shards)]))
    return ShardIndex(
        manifest={"hash": "", "rate": 22_050, "vocabularies": {"tags": ["a"]}, "classes": {}, "numeric": []},
        shards=(),
        columns={
            "key": TextColumn.of(keys),
            "split": TextColumn.of(["train"] * count),
            "shard": shard.astype(np.int32),
            "frames": np.full(count, 100_000),
            "id_hash": ids,
            "id_order": np.argsort(ids),
            "multilabel.tags": (np.zeros(count, np.int32), np.arange(count + 1)),
        },
    )


def sampler(stripes: int, **keys: object) -> Sampler:
    config = DataConfig(**{"batch": 48, "b_s": 0.25, "stripes": stripes, **keys})  # type: ignore[arg-type]
    return Sampler(config, index_of(600, 40), index_of(2_000, 100, first=10_000), seed=7)


@pytest.mark.parametrize("block_shards", [0, 2])
@pytest.mark.parametrize("stripes", [2, 4, 12])
def test_every_number_of_ranks_has_the_same_global_batch(stripes: int, block_shards: int) -> None:
    made = sampler(stripes, block_shards=block_shards)
    for step in (0, 3, 500):
        whole = made.plan(step)
        for world in (count for count in (1, 2, 4, 6, 12, 24) if max(count, stripes) % min(count, stripes) == 0):
            for rank in range(world):
                part = made.plan(step, rank, world)
                for name in ("stream_B", "row_B", "epoch_B", "position_B"):
                    np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rank::world])


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("block_shards", [0, 3])
@pytest.mark.parametrize("stripes", [2, 4, 8, 12])
def test_every_clip_is_drawn_once_an_epoch_of_its_stripe_in_both_streams(stripes: int, block_shards: int) -> None:
    made = sampler(stripes, block_shards=block_shards)
    drawn: Counter[tuple[int, int, int, int]] = Counter()
    for step in range(150):
        plan = made.plan(step)
        stripe = plan.slot_B % stripes
        drawn.update(
            zip(plan.stream_B.tolist(), stripe.tolist(), plan.epoch_B.tolist(), plan.row_B.tolist(), strict=True)
        )
    assert max(drawn.values()) == 1
    for stream in (LABELLED, UNLABELLED):
        striped = made.stripes[stream]
        assert striped is not None
        for number, part in enumerate(striped.streams):
            whole = {row for s, q, epoch, row in drawn if (s, q, epoch) == (stream, number, 0)}
            assert whole == set(part.rows.tolist())
        assert sum(len(part) for part in striped.streams) == len(made.streams[stream])  # type: ignore[arg-type]
        each = [len(part) / slots for part, slots in zip(striped.streams, striped.slots_each, strict=True)]
        assert max(each) < 1.3 * min(each)  # epochs of all stripes end at about the same step


def test_one_stripe_is_todays_order_bit_for_bit() -> None:
    plain, one = sampler(1), sampler(1)
    assert one.stripes == [None, None]
    for step in range(5):
        for left, right in zip(plain.plan(step), one.plan(step), strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_substitute_is_of_the_slots_own_stripe() -> None:
    made = sampler(4)
    for stream in (LABELLED, UNLABELLED):
        striped = made.stripes[stream]
        assert striped is not None
        for slot in range(12):
            rows = {made.substitute(stream, 0, 3, attempt, slot) for attempt in range(20)}
            assert rows <= set(striped.stream_of(slot).rows.tolist())


@pytest.mark.usefixtures("untraced")
@pytest.mark.medium
def test_clips_of_one_stripe_meet_as_seldom_as_the_documentation_says() -> None:
    """Two clips of one stripe meet (B − S)/B as often as two of different stripes."""
    stripes, batch, count = 8, 32, 512
    made = Sampler(DataConfig(batch=batch, b_s=0, stripes=stripes), None, index_of(count, 64), seed=3)
    striped = made.stripes[UNLABELLED]
    assert striped is not None
    of_row = np.empty(count, np.int64)
    for number, part in enumerate(striped.streams):
        of_row[part.rows] = number
    same = other = 0
    for step in range(3_000):
        stripe = of_row[made.plan(step).row_B]
        pairs = np.triu(stripe[:, None] == stripe[None], 1).sum()
        same, other = same + pairs, other + batch * (batch - 1) // 2 - pairs
    pairs_there = sum(len(part) * (len(part) - 1) // 2 for part in striped.streams)
    ratio = (same / pairs_there) / (other / (count * (count - 1) // 2 - pairs_there))
    assert ratio == pytest.approx((batch - stripes) / batch, rel=0.05)


# --- bad input ---


def test_stripes_that_do_not_fit_are_refused_with_what_does() -> None:
    with pytest.raises(ValueError, match=r"stripes = 16: a batch of 48 with b_s = 0\.25 has 12 labelled clips.*<= 12"):
        DataConfig(batch=48, b_s=0.25, stripes=16)
    with pytest.raises(ValueError, match="stripes must be >= 1"):
        DataConfig(stripes=0)
    with pytest.raises(UserError, match=r"data\.stripes=12: the labelled set has 5 shards.*data\.stripes <= 5"):
        Sampler(DataConfig(batch=48, b_s=0.25, stripes=12), index_of(600, 5), index_of(900, 50, 9_000), seed=0)
    with pytest.raises(UserError, match=r"data\.stripes=4 and 6 ranks: .*take 4 or 8 ranks"):
        sampler(4).plan(0, 0, 6)


# --- bytes ---


class CountingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Memory that counts the bytes of the shards that are opened."""

    protocol = "counting"
    fetched: ClassVar[Counter[str]] = Counter()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("counting://", "memory://")))

    def _open(self, path: str, mode: str = "rb", **kwargs: object) -> object:
        file = super()._open(path, mode, **kwargs)
        if path.endswith(".tar") and mode == "rb":
            self.fetched[path] += self.size(path)
        return file


@dataclass(frozen=True)
class Noise:
    """A clip that no file holds."""

    seed: int

    def read(self) -> tuple[NDArray[np.float32], int]:
        return np.random.default_rng(self.seed).uniform(-0.5, 0.5, 3_000).astype(np.float32), 22_050

    @property
    def name(self) -> str:
        return f"noise {self.seed}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 32 shards."""
    clips = [Clip(key=f"clip-{seed}", audio=Noise(seed), track=f"{seed}") for seed in range(128)]
    folder = tmp_path_factory.mktemp("stripes") / "set"
    build(clips, folder, BuildConfig(clips_per_shard=4, workers=1))
    return folder


@pytest.fixture
def counted(built: Path) -> str:
    """The URI of that set, in a memory that counts."""
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
    CountingFileSystem.fetched.clear()
    system = fsspec.filesystem("counting")
    for path in built.iterdir():
        system.pipe(f"/set/{path.name}", path.read_bytes())
    return "counting://set"


@pytest.mark.parametrize("nodes", [1, 2, 4, 8])
def test_all_machines_together_fetch_the_set_once_an_epoch(counted: str, tmp_path: Path, nodes: int) -> None:
    """Eight ranks on 1, 2, 4 or 8 machines: each machine fetches its share, and the batches are those of one rank."""
    world, batch = 8, 32
    ids: list[set[int]] = []
    shares = []
    for node in range(nodes):
        before = sum(CountingFileSystem.fetched.values())
        for rank in range(node * world // nodes, (node + 1) * world // nodes):
            config = DataConfig(unlabelled=counted, b_s=0, batch=batch, stripes=8, cache=str(tmp_path / f"node-{node}"))
            with BatchLoader(config, frames=100, seed=1, rank=rank, world=world, num_threads=1) as loader:
                steps = len(loader.sampler.streams[UNLABELLED] or ()) // batch
                ids.append({int(one) for step in loader.batches(0, steps) for one in step.clip_id_B})
        shares.append(sum(CountingFileSystem.fetched.values()) - before)
    with ShardSet.open(counted, cache=tmp_path / "all") as shards:
        size = sum(shard.size for shard in shards.index.shards)
        train = len(shards.index.rows("train"))
    assert sum(shares) <= 1.05 * size
    assert max(shares) <= 1.3 * size / nodes
    assert len(set.union(*ids)) == sum(map(len, ids)) == train // batch * batch


def test_a_cache_smaller_than_the_working_set_is_refused_with_the_size_that_fits(counted: str, tmp_path: Path) -> None:
    config = DataConfig(unlabelled=counted, b_s=0, batch=32, stripes=8, cache=str(tmp_path), cache_gb=6e-5)
    with pytest.raises(
        UserError, match=r"the stripes of a rank draw from [\d,]+ bytes.*data\.cache_gb >= .*block_shards"
    ):
        BatchLoader(config, frames=100, seed=1, rank=0, world=8)
