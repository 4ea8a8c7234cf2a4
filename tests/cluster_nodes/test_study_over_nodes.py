"""A study submitted to a cluster from a machine that is no part of it: rows on several machines, one of them lost."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tuning.study.rows import steps, workers

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
STEPS = 60
STUDY = f"""
title: three rows
source: a test
pretrain: conf/pretrain/tiny.yaml
set:
  data.batch: 8
  views.samples: 16384
  optim.steps: {STEPS}
  run.snapshot_every: 5
  resources.network_interface: eth0
  resources.start_timeout_s: 10
  tracking.enabled: false
rows:
  half: {{data.b_s: 0.5}}
  none: {{data.b_s: 0}}
  wide: {{resources.num_workers: 2}}
metrics: {{loss: loss}}
scales:
  paper:
    about: all there is
    corpora:
      labelled: {{tracks: 24, seconds: 5.0, valid_share: 0.0, test_share: 0.0}}
      unlabelled: {{tracks: 12, seconds: 5.0, valid_share: 0.0, test_share: 0.0, seed: 1}}
"""


def test_rows_run_on_all_machines_and_only_the_one_whose_machine_was_killed_starts_again(
    nodes: Any, whole: Callable[[], None], study_file: Path, tmp_path: Path
) -> None:
    whole()
    folder = tmp_path / "study"
    words = ["study", str(study_file), f"study.dir={folder}"]
    job = nodes.popen("desk", ["counterpoint", "submit", "--cluster", nodes.url, "--", *words])
    deadline = time.monotonic() + 900
    while not all(len(steps(folder, row)) >= 8 for row in ("half", "none")):
        if job.poll() is not None or time.monotonic() > deadline:
            job.kill()
            pytest.fail(job.communicate()[0])
        time.sleep(0.2)
    first = {row: workers(folder, row)[0] for row in ("half", "none")}
    assert {one["node"] for one in first.values()} == {"10.77.0.11", "10.77.0.12"}, "at once, a machine each"
    (lost,) = [row for row, one in first.items() if one["node"] == "10.77.0.12"]
    (kept,) = set(first) - {lost}
    nodes.kill("two")
    assert len(steps(folder, lost)) < STEPS
    nodes.start("two")
    output, _ = job.communicate(timeout=1500)

    assert job.returncode == 0, output
    assert workers(folder, kept)[0]["pid"] == first[kept]["pid"]
    assert workers(folder, lost)[0] != first[lost]
    assert {one["node"] for one in workers(folder, "wide")} == {"10.77.0.11", "10.77.0.12"}, "its workers are apart"
    for row in ("half", "none", "wide"):
        assert steps(folder, row) == list(range(1, STEPS + 1)), row
    tree = json.loads((folder / "study.json").read_text())
    assert [row["name"] for row in tree["rows"]] == ["half", "none", "wide"]
    assert not tree["failed"]


def test_a_folder_that_each_machine_has_for_itself_is_refused_with_the_machine_and_the_key(
    nodes: Any, whole: Callable[[], None], study_file: Path
) -> None:
    """/tmp/ray is another folder on each node."""
    whole()
    words = ["counterpoint", "study", str(study_file), "study.dir=/tmp/ray/mine"]
    done = nodes.run("head", words, RAY_ADDRESS=nodes.gcs, timeout_s=600)

    assert done.returncode == 2, done.stdout
    for address in ("10.77.0.11", "10.77.0.12"):
        assert f"{address}: study.dir=/tmp/ray/mine is not the driver's folder there" in done.stdout


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["pretrain", "conf/pretrain/quickstart.yaml", "run.dir={0}/run", "data.labelled={1}", "data.unlabelled={2}"],
         "the run needs 3 workers of 1 core"),
        (["sweep", "conf/sweep/quickstart.yaml", "sweep.dir={0}/sweep", "corpora.labelled.tracks=24",
          "corpora.labelled.seconds=5.0", "corpora.unlabelled.tracks=8", "corpora.unlabelled.seconds=5.0"],
         "a trial needs 3 workers of 1 core"),
        (["study", "{0}/mine.yaml", "study.dir={0}/study"], "row half needs 3 workers of 1 core"),
    ],
    ids=["pretrain", "sweep", "study"],
)  # fmt: skip
def test_what_the_cluster_can_never_hold_is_refused_at_once_with_what_there_is(
    nodes: Any,
    whole: Callable[[], None],
    study_file: Path,
    tiny_sets: tuple[Path, Path],
    words: list[str],
    what: str,
) -> None:
    whole()
    filled = [word.format(study_file.parent, *tiny_sets) for word in words]
    keys = ["resources.num_workers=3", "data.batch=12", "tracking.enabled=false"]
    rows = keys if words[0] != "study" else [*keys[:2]]
    done = nodes.run("head", ["counterpoint", *filled, *rows], RAY_ADDRESS=nodes.gcs, timeout_s=600)

    assert done.returncode == 2, done.stdout
    assert what in done.stdout
    assert "the cluster has 2 machines of 1 core (10.77.0.11, 10.77.0.12)" in " ".join(done.stdout.split())
    assert not any(found.stat().st_size for found in study_file.parent.glob("*/**/metrics.jsonl"))
