"""What a sweep leaves: the table of its trials, the best configuration as a preset, the importance of each path."""

import csv
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from optuna.trial import FrozenTrial
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from cluster.files.storage import atomic_file, write_atomic
from cluster.settings import flatten, put, to_tree, validate
from trainers.config import ExperimentConfig
from tuning.sweep.journal import SCHEMA_VERSION, STATES, SweepJournal
from tuning.sweep.plan import SweepPlan
from tuning.sweep.space import place, tried

NOT_IN_A_PRESET = ("run.", "tracking.", "seed")
FEWEST = 4
"""Evaluated trials without which an importance would be a guess."""
MOST = 400
"""Evaluated trials that the importances are computed from; their time grows with the square: 13 CPU-s for 500."""
IMPORTANCES = "importances.json"
MOST_SHOWN, MOST_REASONS = 100, 20
"""Trials and reasons of crashes that a terminal shows; the files have all."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep left."""

    code: int
    """0 when done, 143 when somebody asked it to stop; the same command resumes."""
    rows: list[Row]
    best: int | None
    """Number of the best trial."""
    files: dict[str, Path]
    importances: dict[str, float]
    confirmed: dict[str, Any]
    """Metric → both sides and their difference, or empty."""
    words: list[str]
    """Remarks on the result."""
    tracking: str


def rows_of(journal: SweepJournal, plan: SweepPlan) -> list[Row]:
    """A row a trial: number, state, objectives, what was tried, how it went."""
    front = journal.front()
    rows = []
    for trial in journal.trials:
        facts = trial.user_attrs
        # Optuna gives a stopped trial its last quick score as a value: another unit.
        evaluated = trial.values if STATES[trial.state] == "done" else None
        values = evaluated or [None] * len(plan.config.objective.metrics)
        curve = facts.get("curve") or []
        rows.append(
            {
                "number": trial.number,
                "state": STATES[trial.state],
                **dict(zip(plan.config.objective.metrics, values, strict=True)),
                **tried(trial.params),
                "preset": bool(facts.get("preset")),
                "front": trial.number in front,
                "step": facts.get("step") or (curve[-1][0] if curve else 0),
                plan.config.stop.metric: curve[-1][1] if curve else None,
                "seconds": facts.get("seconds"),
                "crashes": len(facts.get("crashes") or []),
                "reason": facts.get("reason") or "; ".join(facts.get("crashes") or []),
                "folder": f"trials/{trial.number:03d}",
            }
        )
    return rows


def write_table(rows: Sequence[Row], folder: Path) -> dict[str, Path]:
    """The table as Parquet, and as CSV, which MLflow shows; files that have these rows stay as they are."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    files = {"trials": folder / "trials.parquet", "csv": folder / "trials.csv"}
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    text = out.getvalue().encode()
    if all(file.is_file() for file in files.values()) and files["csv"].read_bytes() == text:
        return files
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    with atomic_file(files["trials"]) as partial:
        pq.write_table(table.replace_schema_metadata({"schema_version": str(SCHEMA_VERSION)}), partial)
    write_atomic(files["csv"], text)
    return files


def _column(values: Sequence[Any]) -> Any:
    """One type a column; a choice among several types is spelled as JSON."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds != {int, float}:
        return pa.array([None if value is None else json.dumps(value) for value in values])
    return pa.array([float(v) if v is not None else None for v in values] if kinds == {int, float} else list(values))


def best_preset(plan: SweepPlan, values: Mapping[str, Any], about: str) -> str:
    """A configuration as a preset that `counterpoint pretrain` takes: its differences from the defaults."""
    config = to_tree(validate(ExperimentConfig, place(plan.base, values), "the best trial"))
    default = flatten(to_tree(ExperimentConfig()))
    tree: dict[str, Any] = {}
    for path, value in flatten(config).items():
        if default.get(path, plan) != value and not path.startswith(NOT_IN_A_PRESET):
            put(tree, path, value)
    head = "".join(f"# {line}\n" for line in about.splitlines())
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def write_best(journal: SweepJournal, plan: SweepPlan, folder: Path) -> Path | None:
    """best.yaml, once a trial is evaluated; with several objectives, the front's highest in the first."""
    best = journal.best()
    if best is None:
        return None
    scores = ", ".join(f"{m} {v:.4f}" for m, v in zip(plan.config.objective.metrics, best.values, strict=True))
    several = f", of a front of {len(journal.front())}" if len(best.values) > 1 else ""
    about = (
        f"Trial {best.number} of {len(journal.trials)}{several}: {scores} on the validation split.\n"
        f"schema {SCHEMA_VERSION}; counterpoint pretrain {folder / 'best.yaml'} run.dir=DIR"
    )
    write_atomic(folder / "best.yaml", best_preset(plan, best.params, about))
    return folder / "best.yaml"


def importances(journal: SweepJournal, seed: int, folder: Path) -> dict[str, float]:
    """Share of the first objective's variance that each path explains (fANOVA over the evaluated trials).

    Args:
        journal: of the sweep.
        seed: of the forest, and of the draw of `MOST` trials where more were evaluated.
        folder: of the sweep; keeps what was computed from these trials, for the next look at the table.

    Returns:
        Highest first; empty where fewer than `FEWEST` trials were evaluated, or all scored the same.

    Source: Hutter, Hoos and Leyton-Brown 2014, as optuna.importance has it.
    """
    evaluated = [trial for trial in journal.trials if STATES[trial.state] == "done"]
    if len(evaluated) < FEWEST or len({trial.values[0] for trial in evaluated}) < 2:
        return {}
    about = {"schema_version": SCHEMA_VERSION, "evaluated": len(evaluated), "at_most": MOST, "seed": seed}
    known = _json(folder / IMPORTANCES)
    if about.items() <= known.items():
        shares: dict[str, float] = known["importances"]
        return shares
    shares = _fanova(journal.study, evaluated, seed)
    write_atomic(folder / IMPORTANCES, json.dumps(about | {"importances": shares}, indent=1))
    return shares


def _fanova(study: optuna.Study, evaluated: Sequence[FrozenTrial], seed: int) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if len(evaluated) > MOST:
        drawn = random.Random(seed).sample(range(len(evaluated)), MOST)
        study = optuna.create_study(directions=study.directions)
        study.add_trials([evaluated[place] for place in sorted(drawn)])
    evaluator = FanovaImportanceEvaluator(seed=seed)
    found = get_param_importances(study, evaluator=evaluator, target=lambda trial: float(trial.values[0]))
    return {path: float(share) for path, share in found.items()}


def _json(file: Path) -> dict[str, Any]:
    """A file that is only there to save time: anything but an object of JSON is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def note(rows: Sequence[Row], plan: SweepPlan, words: Sequence[str]) -> str:
    """The parent's description in the tracker: what came of it, and the trials, the best first, in Markdown."""
    metrics, paths = plan.config.objective.metrics, list(plan.space)
    names = ["trial", "state", *metrics, *paths, "steps", "reason"]
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in _ranked(rows, metrics[0]):
        cells = [str(row["number"]), row["state"], *_cells(row, metrics, paths), str(row["step"]), row["reason"][:120]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n\n".join([*words, "\n".join(lines)])


def shown(rows: Sequence[Row], plan: SweepPlan, importances: Mapping[str, float], width: int) -> Table:
    """The table of a terminal, the best `MOST_SHOWN` first; crashes with their reasons below it."""
    metrics = plan.config.objective.metrics
    listed = _ranked(rows, metrics[0])[:MOST_SHOWN]
    left = width - sum(len(name) + 1 for name in metrics) - len(" 00 stopped steps ")
    kept: set[str] = set()
    for path in sorted(plan.space, key=lambda path: -importances.get(path, 0.0)):
        lines = [*_broken(path).split("\n"), *(_cells(row, (), [path])[0] for row in listed)]
        if (needs := 1 + max(map(len, lines))) <= left:
            kept.add(path)
            left -= needs
    paths = [path for path in plan.space if path in kept]
    rest = [path for path in plan.space if path not in kept]
    reasons = [f"{row['number']}: crashes {row['crashes']}; {row['reason']}" for row in rows if row["reason"]]
    more = {"trials": len(rows) - len(listed), "reasons": len(reasons) - MOST_REASONS}
    also = [*(f"{count:,} more {name}" for name, count in more.items() if count > 0), *rest]
    notes = reasons[:MOST_REASONS] + ([f"in trials.csv also {', '.join(also)}"] if also else [])
    table = Table(box=SIMPLE, padding=0, caption=escape("\n".join(notes)) or None, caption_justify="left")
    for name in ("#", "state", *metrics, *map(_broken, paths), "steps"):
        table.add_column(escape(name), no_wrap=True)
    for row in listed:
        cells = [str(row["number"]), row["state"], *_cells(row, metrics, paths), str(row["step"])]
        table.add_row(*map(escape, cells))
    return table


def _ranked(rows: Sequence[Row], metric: str) -> list[Row]:
    return sorted(rows, key=lambda row: float("-inf") if row[metric] is None else row[metric], reverse=True)


def _cells(row: Row, metrics: Sequence[str], paths: Sequence[str]) -> list[str]:
    scores = ["–" if row[metric] is None else f"{row[metric]:.3f}" for metric in metrics]
    return scores + [f"{row[path]:.3g}" if isinstance(row[path], float) else str(row[path]) for path in paths]


def _broken(path: str) -> str:
    """A path in lines that are not much wider than a number."""
    return "\n".join(word for part in path.replace(".", ".\n").split("\n") for word in _halves(part))


def _halves(word: str) -> list[str]:
    return [word] if len(word) <= 10 else word.replace("_", "_\n").split("\n")


def as_json(result: SweepResult) -> dict[str, Any]:
    """A result as plain JSON types."""
    files = {name: str(path) for name, path in result.files.items()}
    return {**{field.name: getattr(result, field.name) for field in fields(result)}, "files": files}
