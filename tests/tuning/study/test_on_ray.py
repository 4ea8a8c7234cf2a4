"""Rows of a study on Ray: where they are placed, what is refused, and what starts again; Ray itself is a fake here."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from cluster.machine.placement import Machine
from cluster.settings import UserError
from trainers.loop import EXIT_PREEMPTED, STOP_FILE
from tuning.study import on_ray
from tuning.study.config import StudySettings
from tuning.study.on_ray import Needs, needs_of, places_of, preview
from tuning.study.plan import Plan, make_plan, read_study
from tuning.study.row_task import travelling
from tuning.study.runs import Outcome

STUDY = """
title: three rows
source: a test
pretrain: conf/pretrain/tiny.yaml
set: {data.batch: 8, optim.steps: 4, resources.num_workers: 1}
rows:
  small: {loss.temperature: 0.1}
  wide: {resources.num_workers: 2}
  shares: {resources.use_gpu: "auto", resources.gpus_per_worker: 0.5}
evaluations:
  - preset: conf/evaluation/tiny.yaml
    metrics: {AP: tags/ap}
scales:
  paper:
    about: all there is
"""


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    def make(**overrides: Any) -> Plan:
        file = tmp_path / "mine.yaml"
        file.write_text(STUDY)
        sets = dict.fromkeys(("labelled", "unlabelled", "evaluation"), "sets/a")
        settings = StudySettings(dir=str(tmp_path / "study"), sets=sets)
        return make_plan(
            read_study(str(file)), "paper", settings, {k.replace("__", "."): v for k, v in overrides.items()}
        )

    return make


def machines(*sizes: tuple[float, float]) -> list[Machine]:
    return [
        Machine(address=f"10.0.0.{n}", id=f"{n + 1:056x}", cpus=cpus, gpus=gpus) for n, (cpus, gpus) in enumerate(sizes)
    ]


def test_a_dry_run_shows_where_each_row_lies_and_which_wait(plan: Callable[..., Plan]) -> None:
    there = machines((0, 0), (1, 0), (1, 0), (1, 1))
    rows = plan()
    shown = preview(rows, needs_of(rows, there), there, most=9)
    assert json.loads(json.dumps(shown)) == shown
    assert shown["runs"] == {
        "small, seed 0": {"workers": 1, "cores": 1.0, "gpus": 1.0, "machines": {"10.0.0.3": 1}, "starts": "at once"},
        "wide, seed 0": {
            "workers": 2, "cores": 2.0, "gpus": 0.0, "machines": {"10.0.0.1": 1, "10.0.0.2": 1}, "starts": "at once",
        },
        "shares, seed 0": {
            "workers": 1, "cores": 1.0, "gpus": 0.5, "machines": {"10.0.0.3": 1}, "starts": "when others have ended",
        },
    }  # fmt: skip
    assert (shown["at_once"], shown["machines"].startswith("1 machine of 1 core and 1 GPU")) == (2, True)
    assert preview(rows, needs_of(rows, there), there, most=1)["at_once"] == 1


def test_two_rows_share_a_gpu_as_they_declare(plan: Callable[..., Plan]) -> None:
    rows, there = plan(resources__use_gpu="yes", resources__gpus_per_worker=0.5), machines((8, 2))
    shown = preview(rows, needs_of(rows, there), there, most=9)
    assert {run["starts"] for run in shown["runs"].values()} == {"at once"}
    assert sum(run["gpus"] for run in shown["runs"].values()) == 2.0


def test_rows_that_the_cluster_never_holds_are_refused_together_by_name(plan: Callable[..., Plan]) -> None:
    with pytest.raises(UserError) as refused:
        needs_of(plan(resources__cpus_per_worker=3), machines((3, 0), (2, 0)))
    (line,) = str(refused.value).splitlines()
    assert line.startswith("row wide needs 2 workers of 3 cores, the cluster has 1 machine of 3 cores (10.0.0.0), ")
    with pytest.raises(UserError) as refused:
        needs_of(plan(resources__use_gpu="yes"), machines((9, 0)))
    assert [line.split(" needs")[0] for line in str(refused.value).splitlines()] == [
        "row small",
        "row wide",
        "row shares",
    ]


def test_a_row_travels_with_absolute_paths_its_share_of_threads_and_the_plans_fingerprint(
    plan: Callable[..., Plan],
) -> None:
    rows, there = plan(resources__cpus_per_worker=2, resources__threads_per_worker=0), machines((8, 0))
    small, wide, _ = rows.runs
    needs = needs_of(rows, there)
    for run, workers in ((small, 0), (wide, 2)):
        sent, trained = travelling(run, needs[run.folder])
        assert sent.fingerprint == run.fingerprint
        assert trained.data.labelled == str(Path("sets/a").absolute())
        assert sent.evaluations[0][1].data.shards == str(Path("sets/a").absolute())
        assert (trained.resources.num_workers, trained.resources.threads_per_worker) == (workers, 2)
        assert trained.resources.use_gpu == "no"


def test_machines_must_share_the_folder_the_sets_and_the_store(plan: Callable[..., Plan], tmp_path: Path) -> None:
    rows = plan(tracking__uri=f"sqlite:///{tmp_path}/mlflow.db")
    places = places_of(rows, tmp_path / "study")
    assert places.written == {"study.dir": tmp_path / "study", "tracking.uri": tmp_path}
    assert set(places.read.values()) == {str(Path("sets/a").absolute())}


class FakeRay:
    """Ray as the driver sees it: tasks end in the order and the way that a script says."""

    def __init__(self) -> None:
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.running: list[str] = []
        self.cancelled: list[str] = []
        self.ends: dict[str, list[Any]] = {}
        """Row → how its tasks end, one after the other; a row without an entry ends well."""

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        def start(run: Any, *_: Any) -> str:
            self.started.append((run.row, options))
            self.running.append(f"{run.row}/{len(self.started)}/{run.folder}")
            return self.running[-1]

        return lambda _function: SimpleNamespace(remote=start)

    def wait(self, references: list[str], **_: float) -> tuple[list[str], list[str]]:
        assert set(references) == set(self.running)
        for one in references:
            if self.ends.get(one.split("/")[0]) != ["never"]:
                return [one], []
        return [], references

    def get(self, reference: str) -> Outcome:
        self.running.remove(reference)
        row, _, folder = reference.split("/", 2)
        end = self.ends[row].pop(0) if self.ends.get(row) else 0
        if isinstance(end, Exception):
            raise end
        return Path(folder), end, ""

    def cancel(self, reference: str, *, force: bool) -> None:
        assert force
        self.cancelled.append(reference.split("/")[0])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    clock = iter(range(10**6))
    monkeypatch.setattr(on_ray, "import_module", lambda name: made if name == "ray" else pytest.fail(name))
    monkeypatch.setattr(on_ray, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    return made


def ended(plan: Plan, needs: Needs, parent: Path, most: int = 9, wait_s: float = 5.0) -> dict[str, tuple[int, str]]:
    rows = {run.folder: run.row for run in plan.runs}
    runner = on_ray.on_ray(parent, needs, most=most, wait_s=wait_s)
    return {rows[folder]: (code, reason) for folder, code, reason in runner(plan.runs)}


def test_only_the_row_that_was_lost_starts_again_and_not_for_ever(
    plan: Callable[..., Plan], fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, there = plan(resources__max_failures=1), machines((2, 0), (2, 0))
    monkeypatch.setattr(on_ray, "machines_there", lambda: there)
    fake.ends = {"small": [WorkerCrashedError()], "shares": [WorkerCrashedError(), WorkerCrashedError()]}
    found = ended(rows, needs_of(rows, there), tmp_path)
    assert sorted(row for row, _ in fake.started) == ["shares", "shares", "small", "small", "wide"]
    assert (found["small"], found["wide"]) == ((0, ""), (0, ""))
    assert "lost more often than resources.max_failures=1 allows" in found["shares"][1]


def test_a_single_process_goes_to_its_machine_and_a_driver_of_workers_reserves_no_core(
    plan: Callable[..., Plan], fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, there = plan(), machines((1, 0), (1, 0), (1, 0))
    monkeypatch.setattr(on_ray, "machines_there", lambda: there)
    ended(rows, needs_of(rows, there), tmp_path)
    options = dict(fake.started)
    assert (options["small"]["num_cpus"], options["wide"]["num_cpus"]) == (1.0, 0)
    assert options["wide"]["memory"] > 0
    assert options["small"]["scheduling_strategy"].node_id in {one.id for one in there}
    assert "scheduling_strategy" not in options["wide"]
    assert {taken["max_retries"] for taken in options.values()} == {0}


def test_rows_that_no_machine_left_can_hold_are_named_and_the_others_finish(
    plan: Callable[..., Plan], fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, there = plan(), machines((1, 0), (1, 0))
    needs = needs_of(rows, there)
    monkeypatch.setattr(on_ray, "machines_there", lambda: there[:1])  # the other was lost since
    found = ended(rows, needs, tmp_path)
    assert (found["small"], found["shares"]) == ((0, ""), (0, ""))
    assert (
        "no room for study.machine_wait_s=5 s: the cluster has 1 machine of 1 core (10.0.0.0) left" in found["wide"][1]
    )


def test_workers_that_wait_for_a_lost_machine_are_given_up_too(
    plan: Callable[..., Plan], fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, there = plan(), machines((1, 0), (1, 0))
    needs = needs_of(rows, there)
    fake.ends = {"wide": ["never"]}  # Ray Train waits for room
    monkeypatch.setattr(on_ray, "machines_there", lambda: there if len(fake.started) < 3 else there[:1])
    found = ended(rows, needs, tmp_path)
    assert "no room" in found["wide"][1]
    assert fake.cancelled == ["wide"]
    assert found["small"] == found["shares"] == (0, "")


def test_after_a_request_to_stop_nothing_starts_and_what_is_lost_then_is_no_failure(
    plan: Callable[..., Plan], fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, there = plan(), machines((2, 0))
    monkeypatch.setattr(on_ray, "machines_there", lambda: there)
    outcomes = on_ray.on_ray(tmp_path, needs_of(rows, there), most=1, wait_s=5)(rows.runs)
    fake.ends = {"small": [WorkerCrashedError()]}
    original = fake.wait

    def asked(references: list[str], **_: float) -> tuple[list[str], list[str]]:
        (tmp_path / STOP_FILE).write_text("now")
        return original(references)

    monkeypatch.setattr(fake, "wait", asked)
    assert [code for _, code, _ in outcomes] == [EXIT_PREEMPTED]
    assert len(fake.started) == 1


def test_what_a_machine_cannot_run_is_the_rows_reason_at_once(
    plan: Callable[..., Plan], fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, there = plan(), machines((4, 0))
    monkeypatch.setattr(on_ray, "machines_there", lambda: there)
    failed: Any = RayTaskError  # untyped in Ray
    fake.ends = {"small": [failed("row_task", "trace", ModuleNotFoundError("No module named 'mine'"))]}
    found = ended(rows, needs_of(rows, there), tmp_path)
    assert found["small"] == (1, "No module named 'mine'")
    assert len(fake.started) == 3
