"""The main job end to end on music it composes itself: what a newcomer runs first, and what CI proves."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.files.outputs import require_writable_folder
from cluster.processes.cpu_time import cpu_watch
from cluster.progress import Progress
from cluster.settings import ROOT, PreemptedError, UserError, load_config
from data_shards.build.build import BuildConfig, build
from data_shards.format.records import Clip
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from evaluation.config import EvaluationConfig
from evaluation.evaluate import evaluate
from evaluation.report.tracking import log_report
from evaluation.report.write import Report
from trainers.config import ExperimentConfig
from trainers.pretrain import pretrain
from tuning.own_parts import try_own_parts

LABELLED = SyntheticConfig(tracks=400, seconds=12.0, valid_share=0.15, test_share=0.45, seed=0)
"""160 tracks to learn from with their tags, 60 to stop probes on, 180 for evaluation."""
UNLABELLED = SyntheticConfig(tracks=160, seconds=12.0, valid_share=0.0, test_share=0.0, seed=1)
"""Tracks of another seed, to learn from without their tags."""


@dataclass(frozen=True, kw_only=True)
class QuickstartResult:
    """Where everything is."""

    report: Report
    snapshot: Path
    tracking: str
    """The run in MLflow, or its store."""
    seconds: Mapping[str, float]
    """Of the clock, by stage."""
    cpu_seconds: Mapping[str, float]
    """Of processors, by kind of process, Ray's among them."""


def run_quickstart(out: Path, overrides: Mapping[str, Any], *, progress: Progress) -> QuickstartResult:
    """Corpus → shards → pretraining on two Ray workers → evaluation → MLflow.

    What an earlier call finished is not done again: shards are kept, pretraining resumes.
    Raises UserError for a wrong key, before anything is composed, and PreemptedError if pretraining was asked to stop.
    """
    require_writable_folder(out, "--out")
    if "run.dir" in overrides:
        raise UserError("run.dir of the quickstart is --out; give --out DIR")
    labelled, unlabelled = out / "shards" / "labelled", out / "shards" / "unlabelled"
    places = {"data.labelled": str(labelled), "data.unlabelled": str(unlabelled), "run.dir": str(out)}
    config = load_config(ExperimentConfig, ROOT / "conf/pretrain/quickstart.yaml", {**places, **overrides})
    try_own_parts(config)
    with cpu_watch() as seconds:
        found = _run(out, config, progress)
    return replace(found, cpu_seconds=seconds())


def _run(out: Path, config: ExperimentConfig, progress: Progress) -> QuickstartResult:
    """Everything behind the checks."""
    seconds: dict[str, float] = {}
    labelled = out / "shards" / "labelled"
    with timed(seconds, "shards"):
        build_sets(out / "shards", progress)
    steps: list[float] = []

    def watch(row: Mapping[str, Any]) -> None:
        steps.append(float(row["step_s"]))
        bar(int(row["step"]), f"loss {row['loss']:.3f}")

    with timed(seconds, "pretraining"), progress.stage("pretraining", config.optim.steps) as bar:
        code = pretrain(config, watch=watch)
        if not code:
            bar(config.optim.steps, "")  # of a run that was finished before, no step was watched
    seconds["of which steps"] = sum(steps)
    if code:
        raise PreemptedError(f"stopped with a snapshot in {out}/snapshots/last; the same command resumes")
    tasks = load_config(EvaluationConfig, ROOT / "conf/evaluation/quickstart.yaml", {"data.shards": str(labelled)})
    with timed(seconds, "evaluation"):
        report = evaluate(out, tasks, out, trust_code=True, progress=progress)  # the overrides named its code
    with timed(seconds, "MLflow"):
        tracking = log_report(report) or "off"
    snapshot = (out / "snapshots/last").resolve()
    return QuickstartResult(report=report, snapshot=snapshot, tracking=tracking, seconds=seconds, cpu_seconds={})


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long the block took."""
    began = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - began


def build_sets(out: Path, progress: Progress) -> None:
    """Compose ``labelled``, a set of all three splits, and ``unlabelled``, one to learn from."""
    sets: dict[str, list[Clip]] = {
        "labelled": corpus(LABELLED),
        "unlabelled": [replace(clip, multilabel={}, categorical={}, numeric={}) for clip in corpus(UNLABELLED)],
    }
    for name, clips in sets.items():
        with progress.stage(f"shards: {name}", len(clips)) as bar:
            build(clips, out / name, BuildConfig(), progress=lambda now: bar(now.done, ""))
