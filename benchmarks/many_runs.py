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

The sweep's parts are those of `benchmarks.many_trials`. Times are processor seconds, and wall seconds beside them.
"""

import argparse
import json
import platform
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.many_trials import METRIC, Measured, command, journal, timed
from cluster.tracking import Tracker, TrackingConfig
from cluster.tracking.pages import PARENT, objective_name
from cluster.tracking.store import MlflowStore, valid_key
from trainers.state.metrics_log import MetricsLog

RESULTS = Path(__file__).parent / "results"
KEYS, PARAMS, TAGS = 128, 150, 12
PAGE = 100
"""Runs that MLflow's page asks for at a time."""
PARTS = ("sending", "sweep", "command", "mlflow")
SENDERS = {"none": "its line alone", "thread": "and a thread that sends", "apart": "and a process that sends"}
SENT_STEPS, STEPS_A_S, ROUNDS = 70, 7, 3
REAL_STEP_MS = 771
"""A step of conf/pretrain/open_music.yaml in one process of this machine: 64 clips, by --dry-run."""


def main() -> None:
    """Measure, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default a temporary one")
    parser.add_argument("--child", choices=SENDERS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(_sending(asked.child, asked.folder)))
        return
    name = RESULTS / f"many_runs-{platform.machine()}"
    file = name.with_suffix(".json")
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    record |= {"machine": platform.machine(), "keys": KEYS}
    for part in asked.parts:
        with tempfile.TemporaryDirectory(dir=asked.folder) as place:
            record[part] = _measured(part, Path(place), asked)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        name.with_suffix(".md").write_text(_table(record), encoding="utf-8")
    print(_table(record))


def _measured(part: str, folder: Path, asked: argparse.Namespace) -> Any:
    trials = list(dict.fromkeys([min(2000, asked.trials), asked.trials]))
    if part == "sending":
        return _by_turns(folder) | {"row_ms": _row_ms(folder)}
    if part == "sweep":
        return [{"trials": count, **journal(folder / f"sweep-{count}", count)} for count in trials]
    if part == "command":
        return [{"trials": count, **command(folder / f"command-{count}", count)} for count in trials]
    store, stages = _Store(folder / "mlflow.db"), []
    for runs, steps in ((asked.runs // 10, 1), (asked.runs, 1), (asked.runs, asked.steps)):
        store.fill(runs, steps)
        stages.append({"runs": runs, "rows": runs * KEYS * steps, **store.measure()})
    return stages


def _by_turns(folder: Path) -> dict[str, Any]:
    """Medians of what a step costs the process that trains, by who sends."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in SENDERS}
    for _ in range(ROUNDS):
        for kind, rows in found.items():
            words = [sys.executable, "-m", "benchmarks.many_runs", "--child", kind, "--folder"]
            run = folder / f"{kind}-{len(rows)}"
            rows.append(json.loads(subprocess.run([*words, run], check=True, capture_output=True, text=True).stdout))
    return {kind: {name: median(row[name] for row in rows) for name in rows[0]} for kind, rows in found.items()}


def _sending(kind: str, run: Path) -> dict[str, float]:
    """Log steps in this process as a training does, and count what all its threads take meanwhile."""
    log, draw = MetricsLog(run / "metrics.jsonl"), random.Random(0)
    config = TrackingConfig(uri=f"sqlite:///{run.parent / kind}.db", enabled=kind != "none", system_metrics_s=0)
    with Tracker(config, run, apart=kind == "apart") if kind != "none" else nullcontext() as tracker:
        while tracker and tracker.run_id is None:
            time.sleep(0.1)
        before = time.process_time()
        for step in range(1, SENT_STEPS + 1):
            log.write({"step": step, **{f"group/curve_{number}": draw.random() for number in range(KEYS)}})
            time.sleep(1 / STEPS_A_S)
        while tracker and tracker._account.state["sent"]["step"] < SENT_STEPS:
            time.sleep(0.1)
        return {"cpu_ms": 1e3 * (time.process_time() - before) / SENT_STEPS}


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
        timed(times, "first request: find or make the run, its parameters", lambda: store.send([params]))
        batches = [list(self._records(range(begin, begin + 7))) for begin in range(0, 70, 7)]
        store.send(batches[0])

        def send() -> None:
            for batch in batches[1:]:
                store.send(batch)

        timed(times, "send 63 steps", send)
        asked, order = f"tags.`{PARENT}` = '{self._parent}'", [f"metrics.`{objective_name(METRIC)}` DESC"]
        page = timed(
            times,
            "page of the trials",
            lambda: self._client.search_runs([self._home], asked, max_results=PAGE, order_by=order),
        )
        assert len(page) == min(PAGE, len(self._runs))
        timed(times, "one run", lambda: self._client.get_run(self._runs[0]))
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


def _table(record: dict[str, Any]) -> str:
    lines: list[str] = []
    if sending := record.get("sending"):
        lines += [
            f"| a step of {KEYS} curves: CPU of the process that trains | ms a step | share of a step of "
            f"{REAL_STEP_MS} ms (open_music) |",
            "|---|---|---|",
        ]
        for kind, words in SENDERS.items():
            ms = sending[kind]["cpu_ms"]
            lines.append(f"| {words} | {ms:.2f} | {ms / REAL_STEP_MS:.2%} |")
        lines += ["", f"The step itself waits for its line alone: {sending['row_ms']:.3f} ms", ""]
    if stages := record.get("mlflow"):
        heads = [f"{one['runs']:,} runs, {one['rows']:,} rows" for one in stages]
        lines += ["| MLflow, SQLite | " + " | ".join(heads) + " |", "|---" * (1 + len(stages)) + "|", *_lines(stages)]
        ms = [f"{1e3 * one['send_a_step']['cpu_s']:.1f} ms" for one in stages]
        lines += [f"| send a step of {KEYS} values, beside the training | " + " | ".join(ms) + " |", ""]
    for part, words in (("sweep", "journal"), ("command", "command over a finished sweep")):
        if stages := record.get(part):
            heads = [f"{one['trials']:,} trials, {one['journal_mb']:.0f} MB" for one in stages]
            lines += [f"| {words} | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|", *_lines(stages), ""]
    return "\n".join(lines)


def _lines(stages: list[dict[str, Any]]) -> list[str]:
    """CPU-seconds of every time, a column a stage."""
    return [
        f"| {name}, CPU-s | " + " | ".join(f"{one['times'][name]['cpu_s']:.3f}" for one in stages) + " |"
        for name in (stages[0]["times"] if stages else ())
    ]


if __name__ == "__main__":
    main()
