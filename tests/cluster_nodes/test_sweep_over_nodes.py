"""A sweep submitted to a cluster from a machine that is no part of it, a node lost on the way (issue 8, part 3)."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
TRIALS = 6
SMALL = [
    "corpora.labelled.tracks=48", "corpora.labelled.seconds=6.0", "corpora.unlabelled.tracks=12",
    "corpora.unlabelled.seconds=6.0", "optim.steps=24", "run.quick_every=8", "run.snapshot_every=8",
    "data.batch=8", "encoder.channels=4", "head.hidden=32", "head.width=16", "objective.seeds=1", "stop.grace_steps=8",
    "run.quick_clips=16", "sweep.startup=3", "sweep.confirm_seeds=0", "sweep.retries=2", "tracking.enabled=false",
    f"sweep.trials={TRIALS}",
]  # fmt: skip


def test_a_sweep_ends_with_all_its_trials_though_a_node_was_killed(
    nodes: Any, whole: Callable[[], None], tmp_path: Path
) -> None:
    import pandas

    whole()
    folder = tmp_path / "sweep"
    words = ["sweep", "conf/sweep/quickstart.yaml", f"sweep.dir={folder}", *SMALL]
    job = nodes.popen("desk", ["counterpoint", "submit", "--cluster", nodes.url, "--", *words])
    deadline = time.monotonic() + 400
    while len(list(folder.glob("trials/*/metrics.jsonl"))) < 2:  # one on each node
        if job.poll() is not None or time.monotonic() > deadline:
            job.kill()
            pytest.fail(job.communicate()[0])
        time.sleep(0.5)
    nodes.kill("two")
    output, _ = job.communicate(timeout=700)

    assert job.returncode == 0, output
    assert len(pandas.read_parquet(folder / "trials.parquet")) == TRIALS
    assert (folder / "best.yaml").is_file()
    assert "trials.parquet" in output
