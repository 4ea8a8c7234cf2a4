"""Is the best really better? Best and preset on fresh seeds, evaluated on the test split, compared in pairs.

A sweep chooses the highest of many noisy scores, so that score flatters. Here nothing is chosen any more: both
configurations run on the same seeds, which no trial had, and are evaluated on the same resamples of clips nobody saw.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.files.storage import write_atomic
from cluster.progress import Bar
from evaluation.encoders.encoder import SUBJECT
from evaluation.metrics.confidence import as_row, two_sided_p
from evaluation.metrics.samples import RESAMPLES, load_resamples
from tuning.study.results import LEVEL, averaged
from tuning.sweep.jobs import Curve, Job, Source

FIRST_SEED = 1000
"""Seeds of the confirmation count from here above the sweep's own."""
SIDES = ("best", "preset")


@dataclass
class ConfirmRuns(Source):
    """The source of these runs: what is done is not run again, and metrics under way decide nothing."""

    jobs: Sequence[Job]
    bar: Bar

    def __post_init__(self) -> None:
        self._left = [number for number, job in enumerate(self.jobs) if not is_done(job)]
        self.reasons: dict[str, str] = {}
        self._show()

    def next(self) -> tuple[int, Job] | None:
        """The next run that is not done."""
        if not self._left:
            return None
        number = self._left.pop(0)
        return number, self.jobs[number]

    def done(self, number: int, result: Mapping[str, Any], curve: Curve) -> None:  # noqa: ARG002
        """Mark it, with its values."""
        job = self.jobs[number]
        write_atomic(job.folder / "done.json", json.dumps({"values": result["values"], "experiment": job.experiment}))
        self._show()

    def stopped(self, number: int, curve: Curve) -> None:  # noqa: ARG002
        """No scheduler stops them."""
        raise AssertionError(f"{self.jobs[number].name} was stopped")

    def again(self, number: int) -> None:
        """Hand it out once more."""
        self._left.insert(0, number)

    def failed(self, number: int, reason: str) -> None:
        """Its seed is left out, and the result names it."""
        self.reasons[self.jobs[number].name] = reason

    def _show(self) -> None:
        done = sum(is_done(job) for job in self.jobs)
        self.bar(done, f"{done} of {len(self.jobs)} done")


def is_done(job: Job) -> bool:
    """Whether a run of exactly this configuration was evaluated."""
    file = job.folder / "done.json"
    return file.is_file() and bool(_same(json.loads(file.read_text(encoding="utf-8"))["experiment"], job.experiment))


def _same(there: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    where = ("run", "tracking", "resources")
    return all(there.get(key) == value for key, value in now.items() if key not in where)


def compare(folders: Mapping[str, Sequence[Path]], metrics: Sequence[str]) -> dict[str, Any]:
    """Values of both sides and their paired difference, over seeds and over the test set's artists.

    Returns:
        Metric → side → value, low, high; by_seed; and the difference with its p-value.
    """
    result: dict[str, Any] = {}
    for metric in metrics:
        sides = {
            side: [load_resamples(folder / "evaluation" / RESAMPLES)[metric][SUBJECT] for folder in there]
            for side, there in folders.items()
        }
        means = {side: averaged(runs) for side, runs in sides.items()}
        delta_R = means["best"].values_R - means["preset"].values_R
        result[metric] = {
            **{side: evaluated.row(LEVEL) for side, evaluated in means.items()},
            "by_seed": {side: [float(one.values_R[0]) for one in runs] for side, runs in sides.items()},
            "difference": as_row(delta_R, LEVEL) | {"p": two_sided_p(delta_R)},
        }
    return result


def verdict(metric: str, found: Mapping[str, Any]) -> str:
    """The comparison of one metric in a sentence."""
    delta, seeds = found["difference"], len(found["by_seed"]["best"])
    values = f"{metric} on the test split, {seeds} fresh seeds: "
    if None in (found["best"]["value"], found["preset"]["value"], delta["value"]):
        return f"{values}it is undefined for the best or the preset, nothing is confirmed"
    values += f"best {found['best']['value']:.3f}, preset {found['preset']['value']:.3f}, "
    values += f"difference {delta['value']:+.3f} "
    if delta["low"] is None or delta["high"] is None:
        return f"{values}without an interval: no difference is shown"
    values += f"[{delta['low']:+.3f}, {delta['high']:+.3f}]"
    if delta["low"] > 0:
        return f"{values}: the best is better"
    return f"{values}: the best is worse" if delta["high"] < 0 else f"{values}: no difference is shown"
