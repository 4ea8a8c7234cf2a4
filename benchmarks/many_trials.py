"""Sweeps of thousands of trials: their journal, and the command that shows the table of a finished one.

Part of ``python -m benchmarks.many_runs``. A hundred trials are written to a ``study.journal`` through Optuna, without
waiting for the disk, then their lines again under other numbers. It is opened as a sweep that goes on does; and
``counterpoint sweep`` runs over a folder that holds it, where every trial has ended: the second time, when importances
and figures are there, in a process that counts the imports of its main thread apart.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import optuna

from cluster.settings import ROOT
from tuning.sweep.config import SettingsConfig, load_sweep
from tuning.sweep.journal import SweepJournal
from tuning.sweep.outcome import note, rows_of, shown, write_table
from tuning.sweep.space import read_space

METRIC = "tags/ap"
HUNDRED = 100
SWEEP = ROOT / "conf/sweep/quickstart.yaml"
Answer = TypeVar("Answer")
Measured = dict[str, dict[str, float]]
COMMAND = """
import builtins, importlib, json, sys, threading, time

inside, spent, began = 0, 0.0, time.perf_counter()

def timed(function):
    def call(*words, **named):
        global inside, spent
        if threading.current_thread() is not threading.main_thread():
            return function(*words, **named)
        start, inside = time.thread_time(), inside + 1
        try:
            return function(*words, **named)
        finally:
            inside -= 1
            spent += 0 if inside else time.thread_time() - start
    return call

builtins.__import__, importlib.import_module = timed(builtins.__import__), timed(importlib.import_module)
sys.argv = ["counterpoint", *sys.argv[1:]]
from counterpoint import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
print(json.dumps({"imports": spent, "all": time.process_time(), "wall": time.perf_counter() - began}), file=sys.stderr)
"""


def timed(times: Measured, name: str, action: Callable[[], Answer]) -> Answer:
    """What an action returns; its seconds are noted under a name."""
    wall, processor = time.perf_counter(), time.process_time()
    answer = action()
    times[name] = {"cpu_s": time.process_time() - processor, "wall_s": time.perf_counter() - wall}
    return answer


def command(folder: Path, trials: int) -> dict[str, Any]:
    """Show the table of a finished sweep."""
    folder.mkdir()
    fill_journal(folder, trials, read_space(load_sweep(SWEEP, [f"sweep.dir={folder}"]).space, "the benchmark"))
    words = [str(SWEEP), f"sweep.dir={folder}", f"sweep.trials={trials}", "sweep.confirm_seeds=0", "--json"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder.parent / 'sweeps.db'}"}
    run = [sys.executable, "-c", COMMAND, "sweep", *words]
    for _ in range(2):
        done = subprocess.run(run, check=True, capture_output=True, text=True, env=environment)
        found = json.loads(done.stderr.splitlines()[-1])
        rows = json.loads(done.stdout)["rows"]
        assert len(rows) == trials
    times = {
        "the whole command": {"cpu_s": found["all"], "wall_s": found["wall"]},
        "of which imports": {"cpu_s": found["imports"]},
        "the rest: journal, table, MLflow": {"cpu_s": found["all"] - found["imports"]},
    }
    return {"journal_mb": (folder / "study.journal").stat().st_size / 1e6, "times": times}


def journal(folder: Path, trials: int) -> dict[str, Any]:
    """Fill a journal, and open it as a sweep that goes on does."""
    folder.mkdir()
    config = load_sweep(SWEEP, [f"sweep.dir={folder}", "data.labelled=none"])
    space = read_space(config.space, "the benchmark")
    fill_journal(folder, trials, space)
    times: Measured = {}
    settings = SettingsConfig(trials=trials + 100, dir=str(folder))
    study = timed(times, "open", lambda: SweepJournal(folder, settings, space, objectives=1, first={}))
    asked = timed(times, "next trial (TPE)", study.next)
    assert asked is not None
    timed(times, "counts and best", lambda: (study.counts(), study.best()))
    plan: Any = mock.Mock(config=config, space=space)
    rows = timed(times, "rows of the table", lambda: rows_of(study, plan))
    write_table(rows[:10], folder)  # what it imports
    timed(times, "write the table", lambda: write_table(rows, folder))
    timed(times, "table of the terminal and of MLflow", lambda: (shown(rows, plan, {}, 100), note(rows, plan, [])))
    timed(times, "report a trial", lambda: study.done(asked.number, [0.5]))
    return {"journal_mb": (folder / "study.journal").stat().st_size / 1e6, "times": times}


def fill_journal(folder: Path, trials: int, space: Any) -> None:
    """Every other trial is stopped early, one of a hundred failed; of a hundred, written again and again."""
    with mock.patch.object(os, "fsync", return_value=None):
        settings = SettingsConfig(trials=HUNDRED, sampler="random", dir=str(folder))
        journal, draw = SweepJournal(folder, settings, space, objectives=1), random.Random(0)
        journal.study.sampler = optuna.samplers.RandomSampler(seed=0)
        for number in range(HUNDRED):
            journal._asked[number] = journal.study.ask(journal._space)
            curve = [(9 * (rung + 1), draw.random()) for rung in range(2 if number % 2 else 4)]
            journal.note(number, curve=curve)
            if number % 100 == 99:
                journal.failed(number, "the loss is not finite")
            elif number % 2:
                journal.stopped(number, curve)
            else:
                journal.note(number, step=36, seconds=100.0)
                journal.done(number, [draw.random()])
    file = folder / "study.journal"
    head, *lines = file.read_text(encoding="utf-8").splitlines()
    with file.open("w", encoding="utf-8") as opened:
        opened.write(head + "\n")
        for first in range(0, trials, HUNDRED):
            for record in map(json.loads, lines):
                if "trial_id" in record:
                    record["trial_id"] += first
                opened.write(json.dumps(record, separators=(",", ":")) + "\n")
