"""A request to stop reaches a run that is still starting: there is no moment in which it is lost."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.machine.placement import Bundle
from cluster.settings import RunError
from trainers.config import ExperimentConfig
from trainers.loop import EXIT_PREEMPTED, STOP_FILE
from trainers.pretrain import pretrain
from tuning.placement import Need
from tuning.stopping import asked_to_stop
from tuning.sweep import runner as sweep_runner
from tuning.sweep.confirm import ConfirmRuns
from tuning.sweep.jobs import Job

ALONE = Need(bundles=(Bundle(cpus=1),), alone=True)

MakeConfig = Callable[..., ExperimentConfig]


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("before", "meanwhile", "then"), [(a, b, c) for a in range(4) for b in range(4 - a) for c in range(4 - a - b)]
)
def test_a_run_notices_a_request_whatever_it_has_done_of_its_start(
    tmp_path: Path, before: int, meanwhile: int, then: int
) -> None:
    """It makes its folder, clears it of an old request, looks at its parent's. So many of these come before the
    request, so many before its folder is looked at, so many right after that, and the rest when all is handed on."""
    run, found = tmp_path / "runs" / "0", list[bool]()

    def start() -> Iterator[None]:
        run.mkdir(parents=True)
        yield
        (run / STOP_FILE).unlink(missing_ok=True)
        yield
        found.append((tmp_path / STOP_FILE).exists())
        yield

    steps = start()

    def go_on(count: int) -> None:
        list(itertools.islice(steps, count))

    def folders() -> Iterator[Path]:
        go_on(meanwhile)
        yield run
        go_on(then)

    go_on(before)
    with asked_to_stop(tmp_path, folders, lambda: None):
        ask()
    go_on(3)
    assert found == [True] or (run / STOP_FILE).exists()


def test_a_run_that_starts_below_a_parent_that_was_asked_to_stop_does_not(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(optim__steps=1)
    (tmp_path / STOP_FILE).write_text("signal 15")
    assert pretrain(config, parent=tmp_path) == EXIT_PREEMPTED
    assert not (Path(config.run.dir) / "metrics.jsonl").exists()
    (tmp_path / STOP_FILE).unlink()
    assert pretrain(config, parent=tmp_path) == 0


def test_a_sweep_keeps_a_request_that_comes_before_its_trial_has_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Tune leaves because Ray killed an actor for memory: no other tuner goes on with the trials."""
    jobs = [
        Job(name=f"j{i}", experiment={"run": {"dir": str(tmp_path / str(i))}}, evaluation={}, metrics=(), parent="")
        for i in range(2)
    ]
    seen: list[bool] = []

    class Tuner:
        """Asked to stop while the first trial starts."""

        def __init__(self, search: sweep_runner._Search) -> None:
            self.search = search

        def fit(self) -> None:
            assert isinstance(self.search.suggest("first"), dict)
            seen.append((tmp_path / STOP_FILE).exists())
            ask()
            seen.append((tmp_path / STOP_FILE).exists())
            assert not isinstance(self.search.suggest("second"), dict)
            raise RuntimeError("Caught unexpected exception: the node running low on memory")

    (tmp_path / STOP_FILE).write_text("of an earlier start")
    monkeypatch.setattr(sweep_runner, "_tuner", lambda search, *_: Tuner(search))
    slots = sweep_runner.Slots(storage=tmp_path, one=ALONE, at_a_time=1, retries=1)
    try:
        assert not sweep_runner.run_jobs(ConfirmRuns(jobs, lambda _done, _words: None), slots, limit=2)
    except RunError as error:
        pytest.fail(str(error))
    assert seen == [False, True]


def test_what_has_nothing_to_save_ends_with_the_request(tmp_path: Path) -> None:
    """As an evaluation in a task of Ray; this one would never end. One that ended before is left alone."""
    code = """
import sys, threading
from pathlib import Path
from tuning.stopping import ended_by_request
with ended_by_request(Path(sys.argv[1])):
    pass
with ended_by_request(Path(sys.argv[1])):
    print("begun", flush=True)
    threading.Event().wait()
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as evaluation:
        assert evaluation.stdout
        assert evaluation.stdout.readline() == "begun\n"
        (tmp_path / STOP_FILE).write_text("signal 15")
        assert evaluation.wait() == EXIT_PREEMPTED
