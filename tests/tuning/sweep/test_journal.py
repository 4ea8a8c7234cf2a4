"""The journal alone remembers: what a killed driver left is handed out again, and nothing reported is lost."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from cluster.machine.placement import Bundle
from cluster.settings import UserError
from tuning.placement import Need
from tuning.sweep.config import SettingsConfig
from tuning.sweep.journal import SweepJournal, claim
from tuning.sweep.space import read_space

ALONE = Need(bundles=(Bundle(cpus=1),), alone=True)

SPACE = read_space({"x": {"uniform": [0.0, 1.0]}, "n": {"int": [1, 8]}}, "test")


def opened(folder: Path, trials: int = 6, *, objectives: int = 1, sampler: str = "tpe") -> SweepJournal:
    settings = SettingsConfig(trials=trials, startup=2, sampler=sampler)  # type: ignore[arg-type]  # a name of the test
    return SweepJournal(folder, settings, SPACE, objectives=objectives, first={"x": 0.5, "n": 4})


def reported(folder: Path, *, reopen: bool, sampler: str = "tpe") -> list[dict[str, object]]:
    """A whole sweep one trial at a time, the journal opened anew for each or once."""
    journal = opened(folder, sampler=sampler)
    while (trial := journal.next()) is not None:
        journal.done(trial.number, [-((trial.params["x"] - 0.3) ** 2)])
        journal = opened(folder, sampler=sampler) if reopen else journal
    return [trial.params for trial in journal.trials]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_sweep_killed_after_every_trial_samples_what_an_unbroken_one_does(tmp_path: Path, sampler: str) -> None:
    for name in ("broken", "unbroken"):
        (tmp_path / name).mkdir()
    broken = reported(tmp_path / "broken", reopen=True, sampler=sampler)
    assert broken == reported(tmp_path / "unbroken", reopen=False, sampler=sampler)
    assert broken[0] == {"x": 0.5, "n": 4}
    assert len({str(params) for params in broken}) == 6


def test_what_was_under_way_is_handed_out_again_and_what_was_reported_is_not(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    first, second, third = (journal.next() for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    journal.note(second.number, curve=[[5, 0.2]])
    journal.stopped(second.number, [(5, 0.2)])
    del journal  # killed: two of three were never reported

    again = opened(tmp_path)
    assert again.counts() == {"done": 0, "stopped": 1, "failed": 0, "running": 2}
    handed = [again.next(), again.next()]
    assert [trial and (trial.number, trial.params) for trial in handed] == [
        (first.number, first.params),
        (third.number, third.params),
    ]
    again.done(first.number, [0.7])
    again.failed(third.number, "out of memory")
    assert again.curves() == [[(5, 0.2)]] or again.curves() == [[], [(5, 0.2)]]
    assert again.trials[third.number].user_attrs["reason"] == "out of memory"
    best = again.best()
    assert best is not None
    assert (best.number, best.value) == (first.number, 0.7)
    assert len(list(iter(again.next, None))) == 3


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_trial_whose_asking_was_killed_has_all_its_values_when_it_is_handed_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """The journal takes a trial first and then its values one by one."""

    class Killed(BaseException):
        """The end of the driver."""

    suggest = optuna.Trial._suggest

    def cut_off(trial: optuna.Trial, name: str, distribution: Any) -> Any:
        if name == "n":
            raise Killed
        return suggest(trial, name, distribution)

    for number, preset in ((0, {"x": 0.5, "n": 4}), (1, None)):
        with monkeypatch.context() as broken:
            broken.setattr(optuna.Trial, "_suggest", cut_off)
            with pytest.raises(Killed):
                opened(tmp_path, sampler=sampler).next()
        journal = opened(tmp_path, sampler=sampler)
        trial = journal.next()
        assert trial is not None
        assert (trial.number, set(trial.params)) == (number, {"x", "n"})
        assert preset is None or trial.params == preset
        assert 1 <= trial.params["n"] <= 8
        journal.done(number, [0.5])


def test_a_line_that_a_full_disk_cut_off_and_a_lock_that_a_kill_left_do_not_stop_the_next_start(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    first = journal.next()
    assert first is not None
    journal.done(first.number, [0.5])
    file = tmp_path / "study.journal"
    whole = file.read_bytes()
    for torn in (whole.splitlines()[-1][:20], b"x" * 200_000):
        file.write_bytes(whole + torn)
        optuna_lock = tmp_path / "study.journal.lock"
        optuna_lock.symlink_to(file)
        again = opened(tmp_path)
        assert not optuna_lock.is_symlink()
        after = file.read_bytes()
        assert after.startswith(whole)
        assert all(json.loads(line) for line in after.splitlines())
        assert again.counts()["done"] == 1
    second = again.next()
    assert second is not None
    again.done(second.number, [0.6])
    assert opened(tmp_path).counts()["done"] == 2


def test_no_trial_is_copied_to_hand_one_out_or_to_find_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of all make a sweep of 10,000 trials wait for seconds at each of them."""
    asked: list[bool] = []
    plain = optuna.storages.JournalStorage.get_all_trials

    def counted(storage: Any, study_id: int, deepcopy: bool = True, states: Any = None) -> Any:
        asked.append(deepcopy)
        return plain(storage, study_id, deepcopy=deepcopy, states=states)

    monkeypatch.setattr(optuna.storages.JournalStorage, "get_all_trials", counted)
    for objectives in (1, 2):
        (tmp_path / str(objectives)).mkdir()
        journal = opened(tmp_path / str(objectives), objectives=objectives, sampler="random")
        for score in (0.1, 0.3, 0.2):
            trial = journal.next()
            assert trial is not None
            journal.done(trial.number, [score] * objectives)
            journal.best()
        assert journal.front() == {1}
        assert len(journal.trials) == 3
    assert asked
    assert not any(asked)


def test_more_trials_go_on_where_a_finished_sweep_ended(tmp_path: Path) -> None:
    reported(tmp_path, reopen=False)
    more = opened(tmp_path, trials=8)
    assert [trial.number for trial in iter(more.next, None)] == [6, 7]


def test_several_objectives_make_a_front_and_its_first_is_the_best(tmp_path: Path) -> None:
    journal = opened(tmp_path, trials=4, objectives=2, sampler="nsga2")
    for values in ([0.1, 0.9], [0.5, 0.5], [0.4, 0.4], [0.9, 0.1]):
        trial = journal.next()
        assert trial is not None
        journal.done(trial.number, values)
    assert journal.front() == {0, 1, 3}
    best = journal.best()
    assert best is not None
    assert best.values == [0.9, 0.1]


def test_a_folder_of_another_sweep_is_refused_with_what_differs(tmp_path: Path) -> None:
    identity = {"space": {"x": {"uniform": [0.0, 1.0]}}, "sweep": {"seed": 0}}
    claim(tmp_path, identity)
    claim(tmp_path, identity)
    with pytest.raises(UserError, match=r"sweep.seed: 0 there, 1 now.*choose another sweep.dir"):
        claim(tmp_path, identity | {"sweep": {"seed": 1}})


def test_trials_that_ray_killed_for_memory_are_handed_out_again_to_a_new_tuner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuning.sweep import runner as sweep_runner
    from tuning.sweep.confirm import ConfirmRuns
    from tuning.sweep.jobs import Job

    jobs = [
        Job(name=f"j{i}", experiment={"run": {"dir": str(tmp_path / str(i))}}, evaluation={}, metrics=(), parent="")
        for i in range(3)
    ]
    source = ConfirmRuns(jobs, lambda _done, _words: None)
    starts: list[list[str]] = []

    class Tuner:
        """Runs everything at once; the first dies after two, as Tune does when Ray kills an actor for memory."""

        def __init__(self, search: sweep_runner._Search) -> None:
            self.search = search

        def fit(self) -> None:
            names: list[str] = []
            starts.append(names)
            while isinstance(found := self.search.suggest(str(len(names))), dict):
                names.append(Job.unpacked(found).name)
                if len(starts) == 1 and len(names) == 2:
                    raise RuntimeError("Caught unexpected exception: the node running low on memory")
                (tmp_path / names[-1][1:]).mkdir(exist_ok=True)
                self.search.on_trial_complete(str(len(names) - 1), {"values": [1.0], "step": 1})

    monkeypatch.setattr(sweep_runner, "_tuner", lambda search, *_: Tuner(search))
    slots = sweep_runner.Slots(storage=tmp_path, one=ALONE, at_a_time=2, retries=1)
    assert sweep_runner.run_jobs(source, slots, limit=3)
    assert starts == [["j0", "j1"], ["j1", "j2"]]
    assert all((job.folder / "done.json").exists() for job in jobs)
