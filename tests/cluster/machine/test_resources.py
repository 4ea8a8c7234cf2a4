"""Workers share a node's cores once, and a GPU is used where every worker has one."""

from pathlib import Path

import pytest

from cluster.machine.process import num_cores
from cluster.machine.resources import ResourcesConfig, threads_per_worker, uses_gpu, worker_environment
from cluster.settings import UserError


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("cores", [1, 2, 8, 48])
def test_workers_of_a_node_never_oversubscribe_it_nor_stand_still(workers: int, cores: int) -> None:
    threads = threads_per_worker(ResourcesConfig(num_workers=workers), cores=cores)

    assert threads >= 1
    assert threads * workers <= max(cores, workers)


def test_workers_over_nodes_use_the_cores_of_each() -> None:
    assert threads_per_worker(ResourcesConfig(num_workers=4), cores=8, nodes=4) == 8
    assert threads_per_worker(ResourcesConfig(num_workers=4, threads_per_worker=3), cores=8) == 3


def test_a_worker_gets_its_threads_and_interface() -> None:
    given = worker_environment(ResourcesConfig(num_workers=2, network_interface="eth0"), cores=4)

    assert given["OMP_NUM_THREADS"] == "2"
    assert given["GLOO_SOCKET_IFNAME"] == given["NCCL_SOCKET_IFNAME"] == "eth0"
    assert "GLOO_SOCKET_IFNAME" not in worker_environment(ResourcesConfig())


@pytest.mark.parametrize(
    ("wanted", "gpus", "used"), [("auto", 0, False), ("auto", 1, False), ("auto", 2, True), ("no", 8, False)]
)
def test_gpus_are_used_when_there_is_one_for_every_worker(wanted: str, gpus: int, used: bool) -> None:
    config = ResourcesConfig(num_workers=2, use_gpu=wanted)  # type: ignore[arg-type]  # the values of the Literal

    assert uses_gpu(config, gpus) is used


def test_workers_may_share_a_gpu() -> None:
    assert uses_gpu(ResourcesConfig(num_workers=4, gpus_per_worker=0.25, use_gpu="yes"), gpus=1)


def test_too_few_gpus_are_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"needs 4 GPUs for 4 workers, the cluster has 2; lower resources\.num_workers"):
        uses_gpu(ResourcesConfig(num_workers=4, use_gpu="yes"), gpus=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_workers", -1), ("max_failures", -1), ("cpus_per_worker", 0.0), ("gpus_per_worker", 1.5)],
)
def test_impossible_resources_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} must .* got {value}"):
        ResourcesConfig(**{field: value})  # type: ignore[arg-type]  # one field at a time


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 6),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 6),
        ("what is this", 6),
        (None, 6),
    ],
)
def test_cores_are_the_containers_share_and_no_more_than_the_scheduler_gives(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert num_cores(tmp_path / "cpu.max") == cores
