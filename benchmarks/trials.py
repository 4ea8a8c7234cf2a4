"""An evaluation that reads one split, and a sweep of four trials: this code and that of release 0.1, by turns.

    python -m benchmarks.trials [--rounds 1] [--only evaluation] [--trials 4]

CPU-seconds of all processes. The evaluation asks for neighbours by tags, key and tempo among 400 composed tracks, as
the tiny evidence does: its tasks read the test split, a fifth. Set and encoder are made by each code beforehand. The
sweep is conf/sweep/quickstart.yaml with four trials and one confirmed; what its trials took beyond their own steps is
`trials.csv` less the steps in their `metrics.jsonl`, evaluation included.

How much a sweep does is decided by which trial reports first: ASHA stops others, and a preset that scores highest is
not confirmed. So `whole` is the same sweep with neither: four trials to their last step, evaluated, in both codes.
"""

import argparse
import csv
import json
import platform
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.base import ROOT, Cost, base_tree, counterpoint

RESULTS = Path(__file__).parent / "results"
TASKS = """
tasks:
  tags: {column: tags, kind: tags, retrieval: true}
  key: {column: key, kind: key, retrieval: true}
  tempo: {column: bpm, kind: tempo, retrieval: true}
seeds: 1
"""
GOAL = 2.0
"""Times less than 0.1."""


def evaluation(tree: Path, folder: Path, _trials: int) -> dict[str, Any]:
    """What one evaluation costs once there are shards and an encoder."""
    labelled, unlabelled = folder / "labelled", folder / "unlabelled"
    _run(tree, folder, "shards build synthetic --tracks 400 --seconds 8 --out", labelled)
    _run(tree, folder, "shards build synthetic --tracks 48 --seconds 8 --seed 1 --out", unlabelled)
    sets = (f"data.labelled={labelled}", f"data.unlabelled={unlabelled}")
    few = ("optim.steps=4", "optim.warmup_steps=1", "run.snapshot_every=4", "tracking.enabled=false")
    _run(tree, folder, "pretrain conf/pretrain/tiny.yaml", *sets, f"run.dir={folder}/run", *few)
    (folder / "tasks.yaml").write_text(TASKS, encoding="utf-8")
    words = (folder / "run", folder / "tasks.yaml", f"data.shards={labelled}", "--out", folder / "evaluation")
    cost = _run(tree, folder, "evaluate", *words)
    return {"cpu_s": cost.cpu_s, "wall_s": cost.wall_s}


def sweep(tree: Path, folder: Path, trials: int) -> dict[str, Any]:
    """What some trials and the confirmation of the best cost."""
    return _sweep(tree, folder, trials, "sweep.confirm_seeds=1")


def whole(tree: Path, folder: Path, trials: int) -> dict[str, Any]:
    """What so many trials cost of which none is stopped, and none confirmed."""
    return _sweep(tree, folder, trials, "sweep.confirm_seeds=0", "stop.rule=none")


def _sweep(tree: Path, folder: Path, trials: int, *keys: str) -> dict[str, Any]:
    keys = (f"sweep.trials={trials}", "sweep.startup=2", f"sweep.dir={folder}/sweep", *keys)
    cost = _run(tree, folder, "sweep conf/sweep/quickstart.yaml", *keys)
    beyond = []
    for row in csv.DictReader((folder / "sweep/trials.csv").open(encoding="utf-8")):
        if row["seconds"]:
            file = folder / "sweep" / row["folder"] / "metrics.jsonl"
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            beyond.append(float(row["seconds"]) - sum(step.get("step_s", 0.0) for step in rows))
    logs = [file.read_text(encoding="utf-8") for file in (folder / "sweep").rglob("metrics.jsonl")]
    done = {"steps": sum('"step_s"' in line for log in logs for line in log.splitlines())}
    done |= {"evaluations": sum(1 for _ in (folder / "sweep").rglob("report.json"))}
    return {"cpu_s": cost.cpu_s, "wall_s": cost.wall_s, "beyond_s": beyond, "trials": trials} | done


WORK = {"evaluation": evaluation, "sweep": sweep, "whole": whole}


def _run(tree: Path, folder: Path, command: str, *words: Path | str) -> Cost:
    environment = {"PYTHONDONTWRITEBYTECODE": "", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    cost = counterpoint(tree, [*command.split(), *(str(word) for word in words)], environment)
    print(f"  {command}: {cost.cpu_s:.1f} CPU-s, {cost.wall_s:.0f} s", flush=True)
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=WORK, nargs="+", default=list(WORK))
    parser.add_argument("--trials", type=int, default=4, help="of the sweep, beside the confirmation of the best")
    asked = parser.parse_args()
    place = RESULTS / f"trials-{platform.machine()}"
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    if place.with_suffix(".json").exists():
        before = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
        found = {name: ways for name, ways in before.items() if name not in asked.only}
    with base_tree() as base:
        for _ in range(asked.rounds):
            for name in asked.only:
                for way, tree in (("now", ROOT), ("0.1", base)):
                    with tempfile.TemporaryDirectory(prefix="counterpoint-trials-") as folder:
                        row = WORK[name](tree, Path(folder), asked.trials)
                    found.setdefault(name, {}).setdefault(way, []).append(row)
                    print(name, way, row, flush=True)
                    place.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = table(found)
    place.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def table(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """The medians as Markdown."""
    lines = [
        "# An evaluation of one split, and a sweep of four trials, 2 shared cores",
        "",
        f"`python -m benchmarks.trials`, by turns; CPU-seconds of all processes, medians of rounds; goal {GOAL:g}.",
        "",
        "| work | steps, evaluations: 0.1 | now | CPU-s: 0.1 | now | 0.1 / now | clock, s: 0.1 | now "
        "| beyond a trial's steps, s: now |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, ways in found.items():
        if set(ways) != {"0.1", "now"}:
            continue
        cpu, wall = (
            {way: median(row[key] for row in rows) for way, rows in ways.items()} for key in ("cpu_s", "wall_s")
        )
        beyond = [seconds for row in ways["now"] for seconds in row.get("beyond_s", [])]
        done = {
            way: f"{row['steps']}, {row['evaluations']}" if "steps" in row else "–" for way, (row, *_) in ways.items()
        }
        lines.append(
            f"| {name} | {done['0.1']} | {done['now']} | {cpu['0.1']:.0f} | {cpu['now']:.0f} "
            f"| {cpu['0.1'] / cpu['now']:.2f} | {wall['0.1']:.0f} | {wall['now']:.0f} "
            f"| {f'{median(beyond):.1f}' if beyond else '–'} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
