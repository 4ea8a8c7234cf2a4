"""The sets of a study: the music that a scale brings along, and whether each row finds clips in its sets."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cluster.machine.process import num_cores
from cluster.processes.map import local_pool
from cluster.progress import Bar, Progress
from cluster.refusals import Refusals
from cluster.settings import UserError
from data_shards.build.build import PRELOAD, BuildConfig, build
from data_shards.build.rejections import Progress as BuildProgress
from data_shards.format.paths import no_set
from data_shards.read.stores import open_index
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from evaluation.config import EvaluationConfig
from evaluation.runnable import read_targets
from trainers.config import ExperimentConfig
from trainers.distributed.world import world_sizes
from trainers.views.batches import open_batches
from tuning.study.plan import Plan
from tuning.study.runs import is_done


def is_there(config: ExperimentConfig) -> bool:
    """Whether the sets that an experiment draws from are there; those of a URI are taken to be."""
    places = [place for name in config.data.drawn_from if (place := getattr(config.data, name)) is not None]
    return all("://" in place or Path(place).is_dir() for place in places)


def check_sets(plan: Plan, checked: frozenset[str] = frozenset()) -> frozenset[str]:
    """The rows that have clips and the sets on which their tasks can run, as soon as these sets are there; for all
    others one UserError with each and its reason.
    """
    refusals, found = Refusals(), set(checked)
    for run in (*plan.starts, *plan.runs):
        if run.row in found or is_done(run) or not is_there(run.experiment):
            continue
        found.add(run.row)  # no other seed is refused for its clips
        try:
            open_batches(run.experiment, world=world_sizes(run.experiment)[-1]).close()
        except UserError as error:
            refusals.add(f"row {run.row}: {error}")
    for run in plan.runs:
        for asked, config in run.evaluations:
            place = config.data.shards or ""
            key = f"{place} {asked.preset} {asked.set}"
            if key in found or is_done(run) or "://" in place or no_set(Path(place)):
                continue
            found.add(key)
            with refusals.noted():
                _check_targets(asked.preset, config)
    refusals.require_none()
    return frozenset(found)


def _check_targets(preset: str, config: EvaluationConfig) -> None:
    """Refuse a set that lacks what a task asks for, which an evaluation would find out after hours of training."""
    assert config.data.shards is not None
    try:
        read_targets(open_index(config.data.shards), config)
    except UserError as error:
        raise UserError(f"{preset} on {config.data.shards}: {error}") from None


def build_corpora(plan: Plan, folder: Path, progress: Progress) -> None:
    """Shards of the music that a scale brings along and that a run asks for."""
    asked = {config.data.shards for run in plan.runs for _, config in run.evaluations}
    trained = [run.experiment.data for run in (*plan.starts, *plan.runs)]
    asked |= {place for data in trained for place in (data.labelled, data.unlabelled)}
    corpora = plan.study.scales[plan.scale].corpora
    compose({folder / name: config for name, config in corpora.items() if str(folder / name) in asked}, progress)


def compose(corpora: Mapping[Path, SyntheticConfig], progress: Progress, config: BuildConfig | None = None) -> None:
    """Compose, render and write sets, each in its folder; one that is there already is kept.

    One pool of processes makes all: the notes that a process has rendered serve the next set.
    """
    with local_pool(workers=num_cores(), preload=PRELOAD) as pool:
        for out, music in corpora.items():
            clips = corpus(music)
            with progress.stage(f"shards: {out.name}", len(clips)) as bar:
                show = partial(_show, bar)
                build(clips, out, config or BuildConfig(), map_jobs=pool.map, progress=show)


def _show(bar: Bar, now: BuildProgress) -> None:
    bar(now.done, "")
