"""What the driver refuses before anything is taken. The runs themselves: tests/distributed/test_ray_training.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.settings import UserError
from trainers.config import ExperimentConfig
from trainers.pretrain import check, explain, pretrain

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


class TrainingFailedError(Exception):
    """As Ray's: what each worker raised, by rank."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("training failed")
        self.worker_failures = failures


def test_what_workers_raised_is_one_message_with_logs_and_the_way_on() -> None:
    error = explain(TrainingFailedError({1: OSError("trace\nlast words"), 0: RuntimeError("first")}), "LOGS")
    assert "worker 0: first; worker 1: last words" in str(error)
    assert "LOGS" in str(error)
    assert "The same command resumes" in str(error)


def test_a_worker_out_of_memory_is_told_which_batch_to_try() -> None:
    assert "half of data.batch" in str(explain(TrainingFailedError({0: RuntimeError("CUDA out of memory")}), "LOGS"))
