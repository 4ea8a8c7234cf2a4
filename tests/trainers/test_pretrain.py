"""Ray Train around the loop: real workers, a real kill."""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.settings import RunError, UserError
from trainers.config import ExperimentConfig
from trainers.metrics_log import read_metrics
from trainers.pretrain import check, pretrain
from trainers.snapshot import open_snapshot

MakeConfig = Callable[..., ExperimentConfig]


def test_workers_that_do_not_divide_the_batch_are_refused_before_ray_starts(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="3 ranks do not divide"):
        pretrain(make_config(resources__num_workers=3))
    assert not Path(make_config().run.dir).exists()


def test_a_share_that_rounds_to_nothing_is_refused_with_sizes_that_work(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"no labelled one; take batch >= 50"):
        make_config(data__b_s=0.01)


def test_a_uri_as_the_runs_folder_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="a folder that all nodes mount"):
        pretrain(make_config(run__dir="s3://bucket/run"))


def test_the_check_tells_realised_shares(make_config: MakeConfig) -> None:
    summary, data_hash = check(make_config(data__batch=10, data__b_s=0.25))
    assert summary["labelled_a_batch"] == 3
    assert summary["b_s_realised"] == pytest.approx(0.3)
    assert len(data_hash.split(":")) == 2


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_worker_killed_under_ray_is_replaced_and_the_run_ends_with_the_same_bits(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    whole = make_config(resources__num_workers=2, optim__steps=8, run__dir=str(tmp_path / "whole"), run__report_every=2)
    assert pretrain(whole) == 0
    broken = make_config(
        resources__num_workers=2, optim__steps=8, run__dir=str(tmp_path / "broken"), run__report_every=2
    )
    killed = threading.Event()

    def kill_a_worker(row: Mapping[str, Any]) -> None:
        if row["step"] >= 3 and not killed.is_set():
            killed.set()
            os.kill(_train_workers()[-1], signal.SIGKILL)

    assert pretrain(broken, watch=kill_a_worker) == 0
    assert killed.is_set()
    for config in (whole, broken):
        rows = list(read_metrics(Path(config.run.dir) / "metrics.jsonl"))
        assert [row["step"] for row in rows] == list(range(1, 9))
    one, other = (open_snapshot(config.run.dir) for config in (whole, broken))
    assert (one.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()


def _train_workers() -> list[int]:
    """Processes below this one in which Ray Train runs a rank."""
    below = psutil.Process().children(recursive=True)
    return sorted(p.pid for p in below if "RayTrainWorker" in " ".join(p.cmdline()))


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_what_a_worker_refuses_reaches_the_user_as_one_message(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(resources__num_workers=2, resources__max_failures=0, optim__steps=500)
    folder = Path(config.run.dir)

    def break_the_folder(row: Mapping[str, Any]) -> None:
        if row["step"] == 1:
            (folder / "snapshots").write_text("a file where a folder belongs")

    with pytest.raises(RunError, match=r"training failed: worker 0: .*snapshots.*The same command resumes"):
        pretrain(config, watch=break_the_folder)
