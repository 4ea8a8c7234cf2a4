"""From a study and a scale to the runs it takes: every configuration validated before the first one starts."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.files.outputs import require_writable_folder
from cluster.refusals import Refusals
from cluster.settings import COMMAND_LINE, ROOT, UserError, flatten, load_config, to_tree
from cluster.validation.messages import new_name
from evaluation.config import EvaluationConfig
from trainers.config import ExperimentConfig, may_differ_on_resume
from tuning.own_parts import try_own_parts
from tuning.study.columns import check_columns
from tuning.study.config import Evaluation, Overrides, Scale, Study, StudyKeys, StudySettings

NOT_OF_A_ROW = ("run.dir", "seed", "data.labelled", "data.unlabelled")
"""Keys that the study sets itself."""
PLACES: Overrides = {"data.labelled": "$labelled", "data.unlabelled": "$unlabelled"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    place: dict[str, str]
    """Axis → level; empty for rows beside the axes."""
    overrides: Overrides


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row at one seed: what is trained, how it is evaluated, and where it lies."""

    row: str
    seed: int
    folder: Path
    experiment: ExperimentConfig
    evaluations: tuple[tuple[Evaluation, EvaluationConfig], ...]

    @property
    def fingerprint(self) -> str:
        """Changes with everything that decides the numbers."""
        tree = flatten(to_tree(self.experiment))
        keys = {key: value for key, value in tree.items() if key == "optim.steps" or not may_differ_on_resume(key)}
        evaluated = [
            {k: v for k, v in to_tree(config).items() if k not in ("data", "device", "cache")}
            for _, config in self.evaluations
        ]
        return hashlib.sha256(json.dumps([self.row, keys, evaluated], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study at a scale."""

    study: Study
    """With the scale's fields in place."""
    scale: str
    about: str
    rows: tuple[Row, ...]
    runs: tuple[Run, ...]
    """Row by row, seed by seed."""
    starts: tuple[Run, ...]
    """Runs that rows start from; they are trained before the rows, and not evaluated."""
    reduced: dict[str, tuple[Any, Any]]
    """What the scale changes: key → the paper's value, this one's."""


def plan_study(name: str, scale: str, overrides: Mapping[str, Any]) -> tuple[Plan, StudySettings]:
    """Resolve a study, of conf/study or a YAML file, without taking anything. Overrides ``study.*`` settle where and
    how; all other keys are of every row's experiment. Raises UserError for whatever does not fit.
    """
    own = {key: value for key, value in overrides.items() if key.startswith("study.")}
    rest = {key: value for key, value in overrides.items() if key not in own}
    own = {"study.dir": f"outputs/study/{Path(name).stem}-{scale}"} | own
    settings = load_config(StudyKeys, None, own, given=dict.fromkeys(own, COMMAND_LINE)).study
    require_writable_folder(Path(settings.dir), "study.dir")
    return make_plan(read_study(name), scale, settings, rest), settings


def read_study(name: str) -> Study:
    """A study of conf/study by name, or a YAML file of one's own."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else ROOT / "conf" / "study" / f"{name}.yaml"
    if "=" in name:
        raise UserError(f"{name}: a key where the study belongs; give the study first, and the keys behind it")
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (ROOT / "conf" / "study").glob("*.yaml")))
        raise UserError(f"no study {name}; known are {known}, or give a YAML file")
    return load_config(Study, path)


def scaled(study: Study, scale: str) -> Study:
    """The study with a scale's fields in place of the paper's."""
    if scale not in study.scales:
        raise UserError(f"no scale {scale}; this study has {', '.join(study.scales)}")
    chosen = study.scales[scale]
    given = {
        name: getattr(chosen, name)
        for name in ("pretrain", "axes", "rows", "starts", "evaluations", "claims", "seeds")
        if getattr(chosen, name) is not None
    }
    return replace(study, **given, set=study.set | chosen.set)


def rows_of(study: Study) -> list[Row]:
    """All combinations of the axes' levels, then the rows beside them."""
    rows = []
    for levels in itertools.product(*(axis.levels.items() for axis in study.axes)):
        if levels:
            place = {axis.name: name for axis, (name, _) in zip(study.axes, levels, strict=True)}
            rows.append(Row(name=", ".join(place.values()), place=place, overrides=_joined(o for _, o in levels)))
    rows += [Row(name=name, place={}, overrides=overrides) for name, overrides in study.rows.items()]
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"the study names a row twice: {', '.join(twice)}")
    slugs = [slug(name) for name in names]
    alike = [repr(name) for name, own in zip(names, slugs, strict=True) if slugs.count(own) > 1]
    if alike:
        raise UserError(f"the study's rows {', '.join(alike)} would share a folder; give them names that differ more")
    return rows


def make_plan(study: Study, scale: str, settings: StudySettings, overrides: Mapping[str, Any]) -> Plan:
    """Resolve every run of a study. Raises UserError, before anything is made, for an unknown key or scale, a set of
    shards that is not given, or claims on rows or columns that are not there.
    """
    here = scaled(study, scale)
    refusals = Refusals()
    own = sorted(set(overrides) & set(NOT_OF_A_ROW))
    if own:
        refusals.add(f"{', '.join(own)}: a study sets these itself; study.dir, study.seeds and study.sets decide them")
    rows = rows_of(here)
    _check_claims(here, rows, refusals)
    sets = corpus_sets(study.scales[scale], Path(settings.dir).absolute() / "shards") | settings.sets
    _check_sets(here, rows, sets, refusals)
    for name in settings.sets:
        if new := new_name("StudySettings", f"sets.{name}"):
            refusals.add(f"unknown key study.sets.{name}; it is called study.{new} now")
    seeds = settings.seeds or here.seeds
    runs, starts = [], []
    for name, seed in itertools.product(here.starts, range(seeds)):
        with refusals.noted():
            starts.append(_start(here, name, seed, settings=settings, sets=sets))
    for row, seed in itertools.product(rows, range(seeds)):
        with refusals.noted():
            runs.append(_run(here, row, seed, settings=settings, sets=sets, overrides=overrides))
    refusals.require_none()
    return Plan(
        study=here,
        scale=scale,
        about=study.scales[scale].about,
        rows=tuple(rows),
        runs=tuple(runs),
        starts=tuple(starts),
        reduced=_reduced(study, scale, seeds, overrides),
    )


def corpus_sets(scale: Scale, folder: Path) -> dict[str, str]:
    """Where a scale's own corpora will lie, by the names its rows use; the labelled one serves what is not given."""
    sets = {name: str(folder / name) for name in scale.corpora}
    if "labelled" in sets:
        sets = {"unlabelled": sets["labelled"], "evaluation": sets["labelled"]} | sets
    return sets


def slug(name: str) -> str:
    """A row's name as a folder's.

    >>> slug("Semi-SL, 2 × 96")
    'semi-sl-2-96'
    """
    return re.sub(r"[^a-z0-9.+]+", "-", name.lower().replace("≥", "ge")).strip("-") or "row"


def _start(study: Study, name: str, seed: int, *, settings: StudySettings, sets: Mapping[str, str]) -> Run:
    """A run that rows of one seed start from."""
    folder = _start_folder(settings, name, seed)
    own = {"seed": seed, "run.dir": str(folder), "tracking.name": f"start {name}, seed {seed}"}
    start = study.starts[name]
    keys, given = _filled(PLACES | start.set | own, sets), dict.fromkeys(start.set, f"start {name}")
    experiment = load_config(ExperimentConfig, ROOT / start.pretrain, keys, given=given)
    if not seed:  # the code of one seed is that of all
        try_own_parts(experiment)
    return Run(row=f"start {name}", seed=seed, folder=folder, experiment=experiment, evaluations=())


def _start_folder(settings: StudySettings, name: str, seed: int) -> Path:
    return Path(settings.dir).absolute() / "starts" / slug(name) / f"seed-{seed}"


def _run(
    study: Study,
    row: Row,
    seed: int,
    *,
    settings: StudySettings,
    sets: Mapping[str, str],
    overrides: Mapping[str, Any],
) -> Run:
    folder = Path(settings.dir).absolute() / "rows" / slug(row.name) / f"seed-{seed}"
    own = {"seed": seed, "run.dir": str(folder)}
    started = {name: str(_start_folder(settings, name, seed)) for name in study.starts}
    keys = PLACES | {"tracking.name": f"{row.name}, seed {seed}"} | study.set | row.overrides | dict(overrides) | own
    keys = _filled(keys, {**sets, **started})
    given = dict.fromkeys(study.set, "set") | dict.fromkeys(row.overrides, f"row {row.name}")
    given |= dict.fromkeys(overrides, COMMAND_LINE)
    refusals = Refusals()
    with refusals.noted():
        experiment = load_config(ExperimentConfig, ROOT / study.pretrain, keys, given=given)
        if not seed:  # the code of one seed is that of all
            try_own_parts(experiment)
    evaluations = []
    for one in study.evaluations:
        if one.rows and row.name not in one.rows:
            continue
        # One cache for all: rows of one seed begin with the same untrained network.
        cache = {"cache": str(Path(settings.dir).absolute() / "embeddings")}
        keys = one.set | cache | _filled({"data.shards": one.shards}, sets)
        with refusals.noted():
            config = load_config(EvaluationConfig, ROOT / one.preset, keys, given=dict.fromkeys(one.set, "evaluations"))
            evaluations.append((one, config))
            if not seed:
                try_own_parts(config)
    refusals.require_none()
    for asked, config in evaluations:
        with refusals.noted():
            check_columns(row.name, experiment, asked, config)
    refusals.require_none()
    return Run(row=row.name, seed=seed, folder=folder, experiment=experiment, evaluations=tuple(evaluations))


def _filled(keys: Mapping[str, Any], sets: Mapping[str, str]) -> dict[str, Any]:
    """``$NAME`` replaced by the folder of that set."""
    return {key: sets.get(value[1:], value) if _is_set(value) else value for key, value in keys.items()}


def _is_set(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$")


def _check_sets(study: Study, rows: list[Row], sets: Mapping[str, str], refusals: Refusals) -> None:
    values = [PLACES | study.set | row.overrides for row in rows]
    values += [PLACES | start.set for start in study.starts.values()]
    asked = [value for keys in values for value in keys.values()] + [one.shards for one in study.evaluations]
    missing = sorted({value[1:] for value in asked if _is_set(value)} - set(sets) - set(study.starts))
    if missing:
        refusals.add(
            f"this study needs the shards of {', '.join(missing)}: "
            f"{' '.join(f'study.sets.{name}=DIR' for name in missing)}, made by `counterpoint shards build`"
        )


def _joined(parts: Iterator[Overrides]) -> Overrides:
    joined: Overrides = {}
    for part in parts:
        twice = sorted(set(joined) & set(part))
        if twice:
            raise UserError(f"two axes of the study set {', '.join(twice)}")
        joined |= part
    return joined


def _check_claims(study: Study, rows: list[Row], refusals: Refusals) -> None:
    names = {row.name for row in rows}
    columns: dict[str, set[str]] = dict.fromkeys(study.metrics, names)
    for one in study.evaluations:
        unknown = sorted(set(one.rows) - names)
        if unknown:
            refusals.add(f"{one.preset} evaluates {', '.join(unknown)}; the study has {', '.join(sorted(names))}")
        for column in one.metrics:  # two evaluations of different rows may share a column
            columns[column] = columns.get(column, set()) | {*(one.rows or names), "untrained"}
    for claim in study.claims:
        for name, column in ((claim.row, claim.metric), (claim.over, claim.baseline)):
            if column not in columns:
                refusals.add(f"claim {claim.statement!r}: no column {column}; there are {', '.join(sorted(columns))}")
            elif name not in columns[column]:
                known = ", ".join(sorted(columns[column]))
                refusals.add(f"claim {claim.statement!r}: no row {name}; {column} has {known}")


def _reduced(study: Study, scale: str, seeds: int, overrides: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs from the paper's scale: rows, seeds, music, evaluations, and keys of the first row's experiment."""
    paper, here = scaled(study, "paper"), scaled(study, scale)
    changed: dict[str, tuple[Any, Any]] = {}
    counts: tuple[tuple[str, Any, Any], ...] = (
        ("rows", [row.name for row in rows_of(paper)], [row.name for row in rows_of(here)]),
        ("seeds", paper.seeds, seeds),
        ("music", _music(study.scales["paper"]), _music(study.scales[scale])),
        ("evaluations", [one.preset for one in paper.evaluations], [one.preset for one in here.evaluations]),
    )
    for name, there, now in counts:
        if there != now:
            changed[name] = (there, now)
    configs = []
    for one, extra in ((paper, {}), (here, dict(overrides))):
        keys = PLACES | one.set | rows_of(one)[0].overrides
        stand_in = {k: v[1:] if _is_set(v) else v for k, v in (keys | extra).items()}
        configs.append(flatten(to_tree(load_config(ExperimentConfig, ROOT / one.pretrain, stand_in))))
    ignored = ("resources.", "run.", "tracking.")
    for key in sorted(configs[0].keys() | configs[1].keys()):
        there, now = configs[0].get(key), configs[1].get(key)
        if there != now and not key.startswith(ignored):
            changed[key] = (there, now)
    return changed


def _music(scale: Scale) -> list[str]:
    own = [f"{name}: {one.tracks} composed tracks of {one.seconds:g} s" for name, one in scale.corpora.items()]
    return own or ["the sets that are given"]
