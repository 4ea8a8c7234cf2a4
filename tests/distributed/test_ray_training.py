"""Ray Train around the loop: real workers, a real kill."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.ray_runtime.session import ray_session
from cluster.settings import RunError, to_tree
from tests.distributed.training import train_rank
from trainers.config import ExperimentConfig
from trainers.pretrain import pretrain
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

pytestmark = [pytest.mark.ray, pytest.mark.dist, pytest.mark.timeout(600)]

MakeConfig = Callable[..., ExperimentConfig]


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with ray_session(workers=2):
        yield


@pytest.mark.slow  # test_own_parts_on_ray.py does the same with other parts
def test_a_worker_killed_under_ray_is_replaced_and_the_run_ends_with_the_bits_of_an_unbroken_one(
    ranks: Callable[..., list[Any]],
    make_config: MakeConfig,
    tmp_path: Path,
    running_below: Callable[[str], list[int]],
) -> None:
    unbroken = make_config(optim__steps=8, run__dir=str(tmp_path / "unbroken"))
    assert ranks(2, train_rank, to_tree(unbroken), timeout_s=120) == [0, 0]
    broken = make_config(resources__num_workers=2, optim__steps=8, run__dir=str(tmp_path / "broken"))
    killed = threading.Event()

    def kill_a_worker(row: Mapping[str, Any]) -> None:
        if row["step"] >= 3 and not killed.is_set():
            killed.set()
            os.kill(running_below("RayTrainWorker")[-1], signal.SIGKILL)

    assert pretrain(broken, watch=kill_a_worker) == 0
    assert killed.is_set()
    rows = [list(read_metrics(Path(c.run.dir) / "metrics.jsonl")) for c in (unbroken, broken)]
    assert [row["step"] for row in rows[1]] == list(range(1, 9))
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    one, other = (open_snapshot(c.run.dir).path / "model.safetensors" for c in (unbroken, broken))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_what_a_worker_cannot_do_reaches_the_user_as_one_message(make_config: MakeConfig) -> None:
    config = make_config(resources__num_workers=2, resources__max_failures=0)
    folder = Path(config.run.dir)
    folder.mkdir()
    (folder / "snapshots").write_text("a file where a folder belongs")
    with pytest.raises(RunError, match=r"training failed: worker 0 on .*snapshots.*The same command resumes"):
        pretrain(config)


@pytest.mark.slow
def test_a_worker_without_memory_is_tried_again_and_then_told_which_batch_to_try(make_config: MakeConfig) -> None:
    """Faults 36: a head whose weights no machine holds, 256 TB."""
    config = make_config(resources__num_workers=1, resources__max_failures=1, head__hidden=10**12)
    place, done = Path(config.run.dir) / "workers" / "rank-0.json", threading.Event()
    tried: set[int] = set()

    def watch() -> None:
        while not done.wait(0.1):
            if place.exists():
                tried.add(json.loads(place.read_text())["pid"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(RunError, match=r"worker 0 on .*try half of data.batch, or more workers"):
            pretrain(config)
    finally:
        done.set()
        watcher.join()
    assert len(tried) == 2


@pytest.mark.slow
def test_a_frozen_worker_is_named_with_its_machine_and_log_and_the_run_goes_on_without_waiting_for_it(
    make_config: MakeConfig,
) -> None:
    """Faults 34 under Ray: the time-out is the run's own, and the missing rank is named."""
    config = make_config(
        resources__num_workers=2, resources__max_failures=0, resources__collective_timeout_s=5, optim__steps=500
    )
    frozen = threading.Event()

    def freeze_rank_one(row: Mapping[str, Any]) -> None:
        if row["step"] >= 2 and not frozen.is_set():
            frozen.set()
            place = json.loads((Path(config.run.dir) / "workers" / "rank-1.json").read_text())
            os.kill(place["pid"], signal.SIGSTOP)

    with pytest.raises(RunError, match=r"worker 0 on [\d.]+ \(log .*rank 1 of 2 did not answer.*same command resumes"):
        pretrain(config, watch=freeze_rank_one)
    place = json.loads((Path(config.run.dir) / "workers" / "rank-1.json").read_text())
    assert place["log"].endswith(".err")
    with suppress(psutil.NoSuchProcess):
        psutil.Process(place["pid"]).wait(60)  # Ray ends it
    assert pretrain(make_config(resources__num_workers=2, optim__steps=4)) == 0
