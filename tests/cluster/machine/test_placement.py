"""What fits a cluster machine by machine, and the refusal of what never will."""

import itertools

import numpy as np
import pytest

from cluster.machine.placement import Bundle, Machine, Placed, Room, copies, offered, worker_bundle
from cluster.machine.resources import ResourcesConfig
from cluster.settings import UserError


def machines(*sizes: tuple[float, float]) -> list[Machine]:
    return [Machine(address=f"10.0.0.{n}", id=f"m{n}", cpus=cpus, gpus=gpus) for n, (cpus, gpus) in enumerate(sizes)]


def used(placed: list[Placed] | None) -> dict[str, int]:
    assert placed is not None
    addresses = [one.machine.address for one in placed]
    return {address: addresses.count(address) for address in sorted(set(addresses))}


def held_by(machine: Machine, bundle: Bundle) -> int:
    """Naive: how many equal processes one machine holds; a share of a GPU lies on one GPU."""
    by_cpu = int(machine.cpus / bundle.cpus + 1e-9)
    if not bundle.gpus:
        return by_cpu
    of_gpus = int(machine.gpus) * int(1 / bundle.gpus + 1e-9) if bundle.gpus <= 1 else int(machine.gpus / bundle.gpus)
    return min(by_cpu, of_gpus)


def test_processes_of_one_size_find_a_place_whenever_there_is_one() -> None:
    drawn = np.random.default_rng(0)
    shapes = [Bundle(cpus=c, gpus=g) for c, g in itertools.product((0.5, 1, 2, 3), (0, 0.1, 0.25, 0.3, 0.6, 1, 2))]
    for _ in range(200):
        there = machines(*[(int(drawn.integers(9)), int(drawn.integers(4))) for _ in range(drawn.integers(1, 6))])
        bundle = shapes[drawn.integers(len(shapes))]
        most = sum(held_by(one, bundle) for one in there)
        assert Room(there).take([bundle] * (most + 1)) is None, (bundle, there)
        if most:
            placed = Room(there).take([bundle] * most)
            assert placed is not None, (bundle, there)
            by_machine = [sum(one.machine == machine for one in placed) for machine in there]
            assert by_machine == [held_by(machine, bundle) for machine in there]


def test_a_task_that_does_not_fit_takes_nothing() -> None:
    room = Room(machines((2, 0), (1, 0)))
    assert room.take([Bundle(cpus=1)] * 4) is None
    assert room.take([Bundle(cpus=1)] * 3) is not None
    assert room.take([Bundle(cpus=1)]) is None


def test_a_task_lies_on_as_few_machines_as_can_be_and_leaves_gpus_to_those_that_ask() -> None:
    there = machines((4, 1), (8, 0), (3, 0))
    assert used(Room(there).take([Bundle(cpus=1)] * 3)) == {"10.0.0.2": 3}, "the machine that it fills"
    assert used(Room(there).take([Bundle(cpus=1)] * 9)) == {"10.0.0.1": 8, "10.0.0.2": 1}
    assert used(Room(there).take([Bundle(cpus=1)] * 12)) == {"10.0.0.0": 1, "10.0.0.1": 8, "10.0.0.2": 3}
    assert used(Room(there).take([Bundle(cpus=1, gpus=0.5)] * 2)) == {"10.0.0.0": 2}


def test_shares_of_a_gpu_lie_on_one_gpu_and_whole_ones_stay_whole() -> None:
    room = Room(machines((8, 2)))
    assert room.take([Bundle(cpus=1, gpus=0.6)] * 3) is None
    assert room.take([Bundle(cpus=1, gpus=0.3)] * 3) is not None
    assert room.take([Bundle(cpus=1, gpus=1)]) is not None, "the second GPU is whole"
    assert Room(machines((8, 1))).take([Bundle(cpus=0.1, gpus=0.1)] * 10) is not None


def test_what_runs_is_taken_off_and_a_lost_machine_holds_nothing() -> None:
    first, second = machines((2, 0), (2, 0))
    running = [Placed(machine=first, bundle=Bundle(cpus=2)), Placed(machine=second, bundle=Bundle(cpus=1))]
    room = Room([second])
    room.hold(running)
    assert room.take([Bundle(cpus=2)]) is None
    assert used(room.take([Bundle(cpus=1)])) == {"10.0.0.1": 1}


def test_copies_count_whole_tasks_and_no_sums() -> None:
    pair = [Bundle(cpus=2), Bundle(cpus=2)]
    assert copies(pair, machines((3, 0), (3, 0), (3, 0), (3, 0)), most=9) == 2
    assert copies(pair, machines((12, 0)), most=9) == 3
    assert copies(pair, machines((12, 0)), most=2) == 2
    assert copies(pair, machines((3, 0)), most=9) == 0


@pytest.mark.parametrize(
    ("keys", "there", "words"),
    [
        (
            {"num_workers": 4, "cpus_per_worker": 2},
            machines((0, 0), (3, 0), (3, 0)),
            r"the run needs 4 workers of 2 cores, the cluster has 2 machines of 3 cores \(10\.0\.0\.1, 10\.0\.0\.2\); "
            r"lower resources\.num_workers or resources\.cpus_per_worker, or set resources\.autoscaling=true",
        ),
        (
            {"num_workers": 2, "cpus_per_worker": 3},
            machines((5, 0), (2, 0)),
            r"has 1 machine of 5 cores \(10\.0\.0\.0\), 1 machine of 2 cores \(10\.0\.0\.1\), which do not hold them "
            r"machine by machine; lower",
        ),
        (
            {"use_gpu": "yes", "gpus_per_worker": 2},
            machines((8, 1), (8, 1)),
            r"needs 1 worker of 1 core and 2 GPUs, the cluster has 2 machines of 8 cores and 1 GPU .*by machine; "
            r"lower resources\.cpus_per_worker or resources\.gpus_per_worker, or set resources\.use_gpu=no",
        ),
        (
            {"use_gpu": "yes", "num_workers": 2, "gpus_per_worker": 0.6},
            machines((8, 1)),
            r"needs 2 workers of 1 core and 0\.6 GPUs, the cluster has 1 machine of 8 cores and 1 GPU",
        ),
        ({"use_gpu": "yes"}, machines((8, 0)), r"1 GPU, the cluster has 1 machine of 8 cores \("),
        ({}, machines((0, 0)), r"the cluster has no machine for work"),
    ],
    ids=[
        "too few cores",
        "no machine is large enough",
        "two GPUs apart",
        "shares that do not pair",
        "no GPU",
        "a head",
    ],
)
def test_what_never_fits_is_refused_with_what_there_is(
    keys: dict[str, object], there: list[Machine], words: str
) -> None:
    config = ResourcesConfig(**keys)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=words):
        worker_bundle(config, there, workers=max(1, config.num_workers), what="the run")
    waiting = ResourcesConfig(**keys, autoscaling=True)  # type: ignore[arg-type]
    assert worker_bundle(waiting, there, workers=1, what="the run").gpus == (
        waiting.gpus_per_worker if waiting.use_gpu == "yes" else 0
    )


def test_auto_takes_gpus_where_every_worker_finds_its_own_and_cores_elsewhere() -> None:
    pair = ResourcesConfig(num_workers=2, gpus_per_worker=2)
    assert worker_bundle(pair, machines((8, 2), (8, 2)), workers=2, what="the run").gpus == 2
    assert worker_bundle(pair, machines((8, 3), (8, 1)), workers=2, what="the run").gpus == 0


def test_machines_of_one_kind_are_named_together() -> None:
    assert offered(machines(*[(4.0, 1.0)] * 5)) == "5 machines of 4 cores and 1 GPU (10.0.0.0, 10.0.0.1, 10.0.0.2, …)"
