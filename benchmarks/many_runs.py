"""Thousands of runs: what MLflow and a sweep's journal cost once they are there.

Run as ``python -m benchmarks.many_runs [PART…] [--runs 2000] [--steps 10] [--trials 10000] [--folder DIR]``, a part
being sending, sweep, command or mlflow; those that are left out keep what they measured before.

Sending: what a process that trains pays for a step of 128 curves in MLflow, in all its threads: its line, and the
sender in a thread of it or in a process of its own, by turns, each in a process that does nothing else; seven steps a
second, once the run is in MLflow.

MLflow: a store in SQLite is made by MLflow, and filled through SQL with runs of 128 curves, 150 parameters and 12 tags
below one sweep, in stages: 200 runs of one step, all runs of one step, all runs of ``--steps`` steps. The latest value
of every curve is there for all runs, as MLflow keeps it apart; the history is as long as ``--steps`` says. 2,000 runs
of 1,000 steps are 256 million rows and some 80 GB, which was not made: the times of the stages show what depends on
the history. At each stage: one more run is found or made, and its rows are sent as the sender does; the page that
compares the trials is asked for as MLflow's page asks.

Journal: a hundred trials of a sweep are written to its ``study.journal`` through Optuna, without waiting for the disk,
then their lines again under other numbers. It is opened as a sweep that goes on does. Times are processor seconds of
this process, and wall seconds beside them.
"""

import argparse
import json
import os
import platform
import random
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import optuna

from cluster.settings import ROOT
from cluster.tracking.pages import PARENT, objective_name
from cluster.tracking.store import MlflowStore, valid_key
from trainers.state.metrics_log import MetricsLog
from tuning.sweep.config import SettingsConfig, load_sweep
from tuning.sweep.journal import SweepJournal
from tuning.sweep.outcome import note, rows_of, shown, write_table
from tuning.sweep.space import read_space

RESULTS = Path(__file__).parent / "results"
KEYS, PARAMS, TAGS = 128, 150, 12
METRIC = "tags/ap"
HUNDRED = 100
PAGE = 100
"""Runs that MLflow's page asks for at a time."""
Answer = TypeVar("Answer")
Measured = dict[str, dict[str, float]]


def main() -> None:
    """Measure, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default a temporary one")
    arguments = parser.parse_args()
    record: dict[str, Any] = {"machine": platform.machine(), "keys": KEYS, "mlflow": [], "sweep": []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        record["row_of_metrics_jsonl_ms"] = _row_ms(Path(folder))
        if arguments.trials:
            for trials in dict.fromkeys([min(2000, arguments.trials), arguments.trials]):
                record["sweep"].append({"trials": trials, **_journal(Path(folder) / f"sweep-{trials}", trials)})
        if arguments.runs:
            store = _Store(Path(folder) / "mlflow.db")
            for runs, steps in ((arguments.runs // 10, 1), (arguments.runs, 1), (arguments.runs, arguments.steps)):
                store.fill(runs, steps)
                record["mlflow"].append({"runs": runs, "rows": runs * KEYS * steps, **store.measure()})
    RESULTS.mkdir(exist_ok=True)
    name = RESULTS / f"many_runs-{platform.machine()}"
    name.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    name.with_suffix(".md").write_text(text := _table(record), encoding="utf-8")
    print(text)


def _timed(times: Measured, name: str, action: Callable[[], Answer]) -> Answer:
    wall, processor = time.perf_counter(), time.process_time()
    answer = action()
    times[name] = {"cpu_s": time.process_time() - processor, "wall_s": time.perf_counter() - wall}
    return answer


def _row_ms(folder: Path) -> float:
    """What the training thread pays to log a step of `KEYS` values: a line of metrics.jsonl."""
    log, draw = MetricsLog(folder / "metrics.jsonl"), random.Random(0)
    row = {f"group/curve_{number}": draw.random() for number in range(KEYS)}
    began = time.thread_time()
    for step in range(1000):
        log.write({"step": step, **row})
    return 1e3 * (time.thread_time() - began) / 1000


class _Store:
    """A store of MLflow that is filled through SQL."""

    def __init__(self, file: Path) -> None:
        from mlflow.tracking import MlflowClient

        self.uri, self._file = f"sqlite:///{file}", file
        self._client = MlflowClient(tracking_uri=self.uri)
        self._home = self._client.create_experiment("many", (file.parent / "files").as_uri())
        self._parent = self._client.create_run(self._home, run_name="sweep").info.run_id
        self._runs: list[str] = []
        self._steps = 0

    def fill(self, runs: int, steps: int) -> None:
        """Add what lacks to so many runs of so many steps."""
        base = sqlite3.connect(self._file)
        base.executescript("PRAGMA synchronous=OFF; PRAGMA cache_size=-400000")
        new = [uuid.UUID(int=random.Random(n).getrandbits(128)).hex for n in range(len(self._runs), runs)]
        for table, columns, rows in (
            ("runs", _RUN, (self._run(run) for run in new)),
            ("params", "key,value,run_uuid", ((f"p{n:03d}", "0.001", run) for run in new for n in range(PARAMS))),
            ("tags", "key,value,run_uuid", (tag for run in new for tag in self._tags(run))),
            ("metrics", _METRIC, self._history(new, 0, max(1, self._steps))),
            ("metrics", _METRIC, self._history([*self._runs, *new], max(1, self._steps), steps)),
            ("latest_metrics", _METRIC, self._history(new, steps - 1, steps)),
        ):
            marks = ",".join("?" * len(columns.split(",")))
            base.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
        base.commit()
        base.execute("UPDATE latest_metrics SET step = ?, timestamp = ?", (steps - 1, _ms(steps - 1)))
        base.commit()
        base.close()
        self._runs, self._steps = [*self._runs, *new], steps

    def measure(self) -> dict[str, Any]:
        """One more run as a sender brings it, and the page of the trials."""
        times: Measured = {}
        state: dict[str, Any] = {"identity": uuid.uuid4().hex, "name": "trial", "started_ms": _ms(0)}
        store = MlflowStore(self.uri, "many", state, lambda: self._parent)
        params = {"kind": "params", "values": {f"p{number:03d}": "0.001" for number in range(PARAMS)}}
        _timed(times, "first request: find or make the run, its parameters", lambda: store.send([params]))
        batches = [list(self._records(range(begin, begin + 7))) for begin in range(0, 70, 7)]
        store.send(batches[0])

        def send() -> None:
            for batch in batches[1:]:
                store.send(batch)

        _timed(times, "send 63 steps", send)
        asked, order = f"tags.`{PARENT}` = '{self._parent}'", [f"metrics.`{objective_name(METRIC)}` DESC"]
        page = _timed(
            times,
            "page of the trials",
            lambda: self._client.search_runs([self._home], asked, max_results=PAGE, order_by=order),
        )
        assert len(page) == min(PAGE, len(self._runs))
        _timed(times, "one run", lambda: self._client.get_run(self._runs[0]))
        self._client.delete_run(state["run_id"])
        sent = times.pop("send 63 steps")
        return {
            "file_mb": self._file.stat().st_size / 1e6,
            "times": times,
            "send_a_step": {name: seconds / 63 for name, seconds in sent.items()},
        }

    def _records(self, steps: range) -> Iterator[dict[str, Any]]:
        for step in steps:
            values = {name: random.random() for name in _CURVES}
            yield {"kind": "metrics", "values": values, "step": step, "time_ms": _ms(step)}

    def _run(self, run: str) -> tuple[Any, ...]:
        where = f"{(self._file.parent / 'files').as_uri()}/{run}"
        return (run, f"trial-{run[:4]}", "LOCAL", "counterpoint", "", "user", "FINISHED", _ms(0), _ms(9), "", "active",
                where, int(self._home))  # fmt: skip

    def _tags(self, run: str) -> Iterator[tuple[str, str, str]]:
        yield PARENT, self._parent, run
        yield "counterpoint.run", uuid.UUID(run).hex, run
        for number in range(TAGS - 2):
            yield f"tag{number}", "value", run

    def _history(self, runs: list[str], first: int, end: int) -> Iterator[tuple[Any, ...]]:
        for run in runs:
            draw = random.Random(run).random
            for step in range(first, end):
                for name in _CURVES:
                    yield name, draw(), _ms(step), step, 0, run


_CURVES = [objective_name(METRIC), *(valid_key(f"4 views/curve_{number}") for number in range(KEYS - 1))]
_METRIC = "key,value,timestamp,step,is_nan,run_uuid"
_RUN = (
    "run_uuid,name,source_type,source_name,entry_point_name,user_id,status,start_time,end_time,source_version,"
    "lifecycle_stage,artifact_uri,experiment_id"
)


def _ms(step: int) -> int:
    return 1_700_000_000_000 + 1_000 * step


def _journal(folder: Path, trials: int) -> dict[str, Any]:
    """Fill a journal, and open it as a sweep that goes on does."""
    folder.mkdir()
    config = load_sweep(ROOT / "conf/sweep/quickstart.yaml", [f"sweep.dir={folder}", "data.labelled=none"])
    space = read_space(config.space, "the benchmark")
    _fill_journal(folder, trials, space)
    times: Measured = {}
    settings = SettingsConfig(trials=trials + 100, dir=str(folder))
    journal = _timed(times, "open", lambda: SweepJournal(folder, settings, space, objectives=1, first={}))
    asked = _timed(times, "next trial (TPE)", journal.next)
    assert asked is not None
    _timed(times, "counts and best", lambda: (journal.counts(), journal.best()))
    plan: Any = mock.Mock(config=config, space=space)
    rows = _timed(times, "rows of the table", lambda: rows_of(journal, plan))
    write_table(rows[:10], folder)  # what it imports
    _timed(times, "write the table", lambda: write_table(rows, folder))
    _timed(times, "table of the terminal and of MLflow", lambda: (shown(rows, plan, {}, 100), note(rows, plan, [])))
    _timed(times, "report a trial", lambda: journal.done(asked.number, [0.5]))
    return {"journal_mb": (folder / "study.journal").stat().st_size / 1e6, "times": times}


def _fill_journal(folder: Path, trials: int, space: Any) -> None:
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


def _table(record: dict[str, Any]) -> str:
    lines = [
        f"A row of {KEYS} values in metrics.jsonl, which is all that a step waits for: "
        f"{record['row_of_metrics_jsonl_ms']:.3f} ms",
        "",
        "| MLflow, SQLite | "
        + " | ".join(f"{one['runs']:,} runs, {one['rows']:,} rows" for one in record["mlflow"])
        + " |",
        "|---" * (1 + len(record["mlflow"])) + "|",
    ]
    if record["mlflow"]:
        lines += _lines(record["mlflow"])
        ms = [f"{1e3 * one['send_a_step']['cpu_s']:.1f} ms" for one in record["mlflow"]]
        lines.append(f"| send a step of {KEYS} values, beside the training | " + " | ".join(ms) + " |")
    heads = [f"{one['trials']:,} trials, {one['journal_mb']:.0f} MB" for one in record["sweep"]]
    lines += ["", "| sweep | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|", *_lines(record["sweep"])]
    return "\n".join(lines) + "\n"


def _lines(stages: list[dict[str, Any]]) -> list[str]:
    """CPU-seconds of every time, a column a stage."""
    names = list(stages[0]["times"]) if stages else []
    return [
        f"| {name}, CPU-s | " + " | ".join(f"{one['times'][name]['cpu_s']:.3f}" for one in stages) + " |"
        for name in names
    ]


if __name__ == "__main__":
    main()
