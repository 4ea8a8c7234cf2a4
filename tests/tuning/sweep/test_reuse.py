"""A process that has run a trial gives the next one the same numbers as a new process would."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.machine.placement import Bundle
from tests.tuning.conftest import MakePlan
from tuning.placement import Need
from tuning.sweep.trial import SweepTrial

ALONE = Need(bundles=(Bundle(cpus=1),), alone=True)


def ended(actor: SweepTrial) -> dict[str, Any]:
    """All that a trial reports, but how long it took."""
    reported = [actor.step()]
    while not reported[-1].get("done"):
        reported.append(actor.step())
    return {
        "reported": [{k: v for k, v in row.items() if not k.endswith("seconds") and k[-2:] != "_s"} for row in reported]
    }


def left(folder: Path) -> dict[str, Any]:
    """Metrics of its steps without times, and its weights and resamples byte for byte."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    timed = ("_s", "_ms")
    kept = [{k: v for k, v in row.items() if not k.endswith(timed) and not k.startswith("share/")} for row in rows]
    weights = (folder / "snapshots" / "step-4" / "model.safetensors").read_bytes()
    return {"rows": kept, "weights": weights, "resamples": (folder / "evaluation/resamples.parquet").read_bytes()}


def test_a_trial_in_a_used_process_equals_the_first_bit_by_bit(make_plan: MakePlan) -> None:
    plan = make_plan("tracking.enabled=false")
    used, *others = [
        plan.job(f"trial-{number:03d}", plan.folder / f"trials/{number:03d}", values, one=ALONE)
        for number, values in enumerate(
            ({"loss.temperature": 0.1}, {"loss.temperature": 0.3}, {"loss.temperature": 0.1})
        )
    ]
    threads, environment = torch.get_num_threads(), dict(os.environ)
    actor = SweepTrial(used.packed())
    first = ended(actor) | left(used.folder)
    found = []
    for job in others:  # another trial, then the first one's values again, each after what a part of one's own may do
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.set_num_threads(2)
        assert actor.reset_config(job.packed())
        found.append(ended(actor) | left(job.folder))
    actor.cleanup()
    torch.set_num_threads(threads)
    assert [again == first for again in found] == [False, True]
    assert dict(os.environ) == environment
