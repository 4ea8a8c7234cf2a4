"""What the driver refuses before anything is taken. The runs themselves: tests/distributed/test_ray_training.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.settings import UserError
from trainers.config import ExperimentConfig
from trainers.pretrain import check, pretrain, world_sizes
from trainers.worker_failures import explain, note_place

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


def test_what_workers_raised_is_one_message_with_logs_and_the_way_on(tmp_path: Path) -> None:
    note_place(tmp_path, {"rank": 1, "world": 2, "node": "10.0.0.3", "log": "/tmp/worker.err"})
    error = explain(TrainingFailedError({1: OSError("trace\nlast words"), 0: RuntimeError("first")}), tmp_path, "LOGS")
    assert "worker 0: first; worker 1 on 10.0.0.3 (log /tmp/worker.err): last words" in str(error)
    assert "LOGS" in str(error)
    assert "The same command resumes" in str(error)


def test_a_worker_out_of_memory_is_told_which_batch_to_try(tmp_path: Path) -> None:
    failure = TrainingFailedError({0: RuntimeError("CUDA out of memory")})
    assert "half of data.batch" in str(explain(failure, tmp_path, "LOGS"))


def test_an_elastic_run_has_the_numbers_of_workers_that_divide_its_batch(make_config: MakeConfig) -> None:
    batch = {"data__batch": 12, "resources__num_workers": 6}
    assert world_sizes(make_config(**batch)) == [6]
    assert world_sizes(make_config(**batch, resources__min_workers=2)) == [2, 3, 4, 6]
    micro = make_config(**batch, resources__min_workers=1, optim__micro_batch=3, encoder__batch_norm="micro")
    assert world_sizes(micro) == [1, 2, 4]


def test_workers_that_cannot_share_the_batch_are_refused_with_numbers_that_can(
    make_config: MakeConfig,
) -> None:
    config = make_config(data__batch=14, resources__num_workers=6, resources__min_workers=3)
    with pytest.raises(UserError, match=r"min_workers=3 to .*=6 shares data\.batch=14 evenly; 1, 2, 7, 14 do"):
        check(config)
    assert world_sizes(make_config(data__batch=14, resources__num_workers=6, resources__min_workers=2)) == [2]
