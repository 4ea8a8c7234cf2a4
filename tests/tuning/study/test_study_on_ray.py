"""A study's rows on a Ray session of this machine: the numbers of the local pool, through the loss of a row's process
and of the driver."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.machine.placement import Machine
from cluster.progress import SILENT
from cluster.settings import ROOT
from tests.tuning.study.rows import steps, workers
from tuning.study.on_ray import needs_of
from tuning.study.plan import plan_study
from tuning.study.row_task import row_task, travelling
from tuning.study.runs import DONE
from tuning.study.sets import build_corpora
from tuning.study.study import StudyResult, run_study

pytestmark = pytest.mark.timeout(1200)
STEPS = 60
STUDY = f"""
title: two rows
source: a test
pretrain: conf/pretrain/tiny.yaml
set: {{data.batch: 8, views.samples: 16384, optim.steps: {STEPS}, run.snapshot_every: 5, tracking.enabled: false}}
rows:
  half: {{data.b_s: 0.5}}
  none: {{data.b_s: 0}}
evaluations:
  - preset: conf/evaluation/tiny.yaml
    set: {{tasks.tags.max_epochs: 2, confidence.resamples: 100}}
    metrics: {{AP: tags/ap}}
metrics: {{loss: loss}}
scales:
  paper:
    about: all there is
    corpora:
      labelled: {{tracks: 24, seconds: 5.0, valid_share: 0.2, test_share: 0.3}}
      unlabelled: {{tracks: 12, seconds: 5.0, valid_share: 0.0, test_share: 0.0, seed: 1}}
"""


def run(study_file: Path, folder: Path, *, ray: bool, **overrides: object) -> StudyResult:
    plan, settings = plan_study(str(study_file), "paper", {"study.dir": str(folder), "study.parallel": 2} | overrides)
    return run_study(plan, settings, progress=SILENT, ray=ray)


def values(tree: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row["values"] for row in tree["rows"]}


def pid_of(folder: Path, row: str) -> int:
    found: int = workers(folder, row)[0]["pid"]
    return found


def test_what_a_task_has_done_is_done_for_the_local_pool_too(study_file: Path, tmp_path: Path) -> None:
    """The same folder, snapshot, reports and fingerprint, without Ray: the task's function in this process."""
    folder = tmp_path / "study"
    plan, _ = plan_study(str(study_file), "paper", {"study.dir": str(folder), "optim.steps": 4})
    build_corpora(plan, folder / "shards", SILENT)
    needs = needs_of(plan, [Machine(address="here", cpus=1)])
    half = plan.runs[0]
    assert row_task(*travelling(half, needs[half.folder]), folder, needs[half.folder]) == (half.folder, 0, "")
    assert pid_of(folder, "half") == os.getpid()
    done = half.folder / DONE
    before = done.stat().st_mtime_ns

    tree = run(study_file, folder, ray=False, **{"optim.steps": 4}).tree
    assert not tree["failed"]
    assert done.stat().st_mtime_ns == before
    assert steps(folder, "half") == steps(folder, "none") == [1, 2, 3, 4]


@pytest.mark.ray
def test_two_rows_run_at_once_and_the_one_whose_process_was_killed_starts_again_alone(
    study_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    first: dict[str, int] = {}

    def kill_one() -> None:
        while not (len(steps(folder, "half")) >= 8 and steps(folder, "none")):
            time.sleep(0.02)
        first.update({row: pid_of(folder, row) for row in ("half", "none")})
        os.kill(first["half"], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    tree = run(study_file, folder, ray=True).tree
    killer.join(1)

    assert not tree["failed"]
    assert first["half"] != first["none"], "both were under way"
    assert pid_of(folder, "half") != first["half"]
    assert pid_of(folder, "none") == first["none"]
    assert steps(folder, "half") == steps(folder, "none") == list(range(1, STEPS + 1))
    assert values(tree) == values(run(study_file, tmp_path / "pool", ray=False).tree)


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_whose_driver_was_killed_goes_on_by_the_same_command(study_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "counterpoint", "study", str(study_file), "--ray", f"study.dir={folder}"]
    command += ["study.parallel=2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        while not all(len(steps(folder, row)) >= 8 for row in ("half", "none")):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
            assert child.poll() is None, child.communicate()[0]
        child.kill()
    assert not list(folder.glob("rows/*/*/done.json"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)

    assert done.returncode == 0, done.stdout + done.stderr
    assert steps(folder, "half") == steps(folder, "none") == list(range(1, STEPS + 1))
    tree = json.loads((folder / "study.json").read_text())
    assert values(tree) == values(run(study_file, tmp_path / "pool", ray=False).tree)
