"""Laws of the table of costs: numbers that follow from the schedule, refusals, and a source for every assumption."""

from dataclasses import replace

import pytest

from cluster.settings import UserError, load_config
from trainers.checks.cost import Asked, link_rate, loss_costs, table
from trainers.checks.footprint import Step
from trainers.config import ExperimentConfig
from trainers.losses.contrastive.schedule import RowShape, gather_cost, ring_cost

STEPS = [
    Step(clips=4, seconds=1.0, host_bytes=10**8, gpu_bytes=0, parameters=10**6),
    Step(clips=16, seconds=4.0, host_bytes=4 * 10**8, gpu_bytes=0, parameters=10**6),
]


def config(**keys: object) -> ExperimentConfig:
    words = {"data.labelled": "set", "data.unlabelled": "set", "data.batch": 4096, "data.b_s": 0.05} | keys
    return load_config(ExperimentConfig, None, [f"{key}={value}" for key, value in words.items()])


@pytest.mark.parametrize("world", [1, 2, 64, 1024, 4096])
@pytest.mark.parametrize("tags", [0, 50])
def test_bytes_of_the_simulated_schedule_are_the_formulas(world: int, tags: int) -> None:
    shape = RowShape(rows=8, width=128, tags=tags)
    block = 8 * (4 * 128 + 8 + -(-tags // 8))
    gather, ring = gather_cost(shape, world), ring_cost(shape, world // 3, world)
    assert gather.bytes_sent == (world - 1) * (block + 8 * 12 + 56)
    passes = (block + 8 * 4 * 8) + (block + 8 * 12 + 8 * 4 * 128)
    assert ring.bytes_sent == world // 2 * passes + (world - 1) * 56
    assert ring.hops == 2 * (world // 2)
    if world >= 64:
        assert ring.memory < gather.memory  # O(n·D) and O(N·D)
        assert ring.memory == ring_cost(shape, 0, 2 * world).memory
        assert gather_cost(shape, 2 * world).memory > 1.9 * (gather.memory - 3 * 512 * 512 * 4)


def test_every_rank_of_a_ring_sends_the_same() -> None:
    shape = RowShape(rows=8, width=16, heads=3, tags=5, epsilon=True, online=True)
    assert len({ring_cost(shape, rank, 64) for rank in range(64)}) == 1


def test_a_table_has_the_worlds_below_and_a_source_for_everything() -> None:
    found = table(config(), Asked(world=1024, gpu="h200"), STEPS, num_tags=50)
    assert [row["world"] for row in found["worlds"]] == [1, 8, 64, 256, 1024]
    kinds = ("measured", "published", "guess", "counted", "given")
    assert all(row["source"].startswith(kinds) for row in found["assumptions"])
    for row in found["worlds"]:
        assert row["clips_a_rank"] * row["world"] == 4096
        assert row["gather"]["loss_bytes_sent"] == loss_costs(config(), row["world"], 50)["gather"].bytes_sent
        assert row["take"] in ("gather", "ring")
        parts = sum(row["memory_gib"].values()) + row["gather"]["loss_memory_gib"]
        assert row["gather"]["memory_gib"] == pytest.approx(parts, abs=2e-3)
        assert row["largest_batch"] > 0
    steps = [row[row["take"]]["step_s"] for row in found["worlds"]]
    assert steps[0] > steps[1] > steps[2]


def test_all_reduces_are_counted_and_those_of_batch_norm_do_not_grow_with_the_ranks() -> None:
    steps = [replace(step, norm_layers=10, norm_features=3_000) for step in STEPS]
    rows = {row["world"]: row["all_reduce"] for row in table(config(), Asked(world=4096), steps, 50)["worlds"]}
    assert set(rows) == {1, 8, 64, 256, 1024, 4096}
    assert all(size == 0 for one in rows[1].values() for size in one.values())
    assert rows[8]["gradients"] == {"bytes_sent": 2 * 7 * 4 * 10**6 // 8, "messages": 2 * 3}
    numbers = 8 * (2 * 3_000 + 10) + 4 * 2 * 3_000
    assert rows[8]["batch_norm"] == {"bytes_sent": 2 * 7 * numbers // 8, "messages": 20 * 2 * 3}
    assert rows[4096]["batch_norm"]["bytes_sent"] < 2 * numbers


def test_a_gpu_that_holds_nothing_is_said() -> None:
    huge = [replace(step, host_bytes=step.host_bytes * 10_000) for step in STEPS]
    found = table(config(), Asked(world=1, gpu="a100"), huge, num_tags=50)
    assert found["worlds"][0]["take"] == "none fits 80 GB"
    assert found["worlds"][0]["largest_batch"] == 0


@pytest.mark.parametrize("text", ["", "fast", "400", "0Gb", "-4Gb", "4 Tb"])
def test_a_link_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--link .*400Gb"):
        link_rate(text)


def test_what_no_table_can_be_made_of_is_refused() -> None:
    with pytest.raises(UserError, match="--gpu abacus: known are a100, h100, h200"):
        Asked(world=8, gpu="abacus").check(config())
    with pytest.raises(UserError, match=r"1000 ranks do not divide data\.batch = 4096; take"):
        Asked(world=1000).check(config())
