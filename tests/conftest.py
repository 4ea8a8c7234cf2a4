import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import load_config
from trainers.config import ExperimentConfig

APART = ("ray", "dist", "timed")
"""Files with a test of one of these markers run one after another, in one of pytest-xdist's two processes."""

MakeConfig = Callable[..., ExperimentConfig]
RunningBelow = Callable[[str], list[int]]

MEDIUM = (
    "cluster/files/test_storage",
    "cluster/test_mlflow_model",
    "cluster/test_tracking",
    "cluster/tracking",
    "commands",
    "data_shards/build",
    "data_shards/read/test_remote",
    "data_shards/sampling/test_sampler",
    "data_shards/sources",
    "docs",
    "evaluation/encoders",
    "evaluation/metrics/test_confidence",
    "evaluation/report",
    "evaluation/scores",
    "evaluation/targets/test_published_splits",
    "evaluation/test_e",
    "evaluation/test_spaces",
    "evaluation/test_text_tasks",
    "examples",
    "faults",
    "test_",
    "trainers/augment/test_corruptions",
    "trainers/augment/test_kernels",
    "trainers/checks",
    "trainers/frontends",
    "trainers/inference",
    "trainers/losses/contrastive/triton/test_fused",
    "trainers/monitor",
    "trainers/state/test_background",
    "trainers/state/test_snapshot",
    "trainers/test_loop",
    "trainers/test_own_parts",
    "trainers/test_pretrain",
    "trainers/test_two_tower",
    "trainers/views",
    "tuning",
)
"""What begins with one of these is `medium`: it starts commands, builds corpora, trains, renders or compiles."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the medium tests; start those that run apart first, the long ones beside them, then all others.

    A long one at the end would leave one of the two processes without work.
    """
    here = Path(__file__).parent

    def turn(item: pytest.Item) -> int:
        if any(item.get_closest_marker(name) for name in APART):
            return 0
        given = item.get_closest_marker("timeout")  # what is given more time than others takes it
        return 1 if given and given.args[0] > int(item.config.getini("timeout")) else 2

    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).as_posix().startswith(MEDIUM):
            item.add_marker(pytest.mark.medium)
    items.sort(key=turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share tests out by file, so that a module's fixtures are made once, and all files that run apart as one.

    The groups of pytest-xdist would need no reading of files, but 3.8 forgets them with pytest 9.2: that no longer
    takes another name for a test.
    """
    from xdist.scheduler import LoadFileScheduling

    class Apart(LoadFileScheduling):  # type: ignore[misc]  # published without types
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "apart" if _runs_apart(config.rootpath / file) else file

    return Apart(config, log)


@cache
def _runs_apart(file: Path) -> bool:
    return any(f"pytest.mark.{name}" in file.read_text(encoding="utf-8") for name in APART)


@pytest.fixture(scope="session")
def running_below() -> RunningBelow:
    """Processes below this one whose command line holds a word, as it is now: those that ended meanwhile, and those
    that ended and were not waited for yet, are not among them."""
    import psutil  # which GPU machines may lack

    def find(word: str) -> list[int]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # a zombie's is one, too
                if word in " ".join(process.cmdline()):
                    found.append(process.pid)
        return sorted(found)

    return find


@pytest.fixture
def untraced() -> Iterator[None]:
    """Coverage traces nothing of a test that repeats many times what others run, too: tracing is a third of such a
    test's time or more.

    The marker no_cover of pytest-cov 7.1 fails with --no-cov.
    """
    coverage = sys.modules.get("coverage")  # which GPU machines may lack
    tracing = coverage and coverage.Coverage.current()
    if tracing:
        tracing.stop()
    yield
    if tracing:
        tracing.start()


@pytest.fixture
def study_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The study of a test's module, as a file."""
    written = tmp_path / "mine.yaml"
    written.write_text(request.module.STUDY)
    return written


@pytest.fixture(scope="session")
def tiny_sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A labelled and an unlabelled set of a dozen six-second tracks each."""
    from data_shards.build.build import (  # GPU machines, which may lack what it needs, collect these tests
        BuildConfig,
        build,
    )
    from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus

    folder = tmp_path_factory.mktemp("shards")
    config = BuildConfig(workers=1)
    labelled = corpus(SyntheticConfig(tracks=12, seconds=6.0, valid_share=0.0, test_share=0.0, seed=0))
    unlabelled = corpus(SyntheticConfig(tracks=12, seconds=6.0, valid_share=0.0, test_share=0.0, seed=1))
    bare = [replace(clip, multilabel={}, categorical={}, numeric={}) for clip in unlabelled]
    build(labelled, folder / "labelled", config)
    build(bare, folder / "unlabelled", config)
    return folder / "labelled", folder / "unlabelled"


@pytest.fixture(scope="session")
def configs_below(tiny_sets: tuple[Path, Path]) -> Callable[[Path], MakeConfig]:
    """`make_config` for runs below a folder."""

    def below(folder: Path) -> MakeConfig:
        return partial(_tiny_config, *tiny_sets, folder)

    return below


@pytest.fixture
def make_config(configs_below: Callable[[Path], MakeConfig], tmp_path: Path) -> MakeConfig:
    """A run of seconds on the tiny sets; dotted keys with underscores for dots: ``make_config(optim__steps=3)``."""
    return configs_below(tmp_path)


def _tiny_config(labelled: Path, unlabelled: Path, folder: Path, **overrides: object) -> ExperimentConfig:
    tree = {
        "data.labelled": str(labelled),
        "data.unlabelled": str(unlabelled),
        "data.batch": 8,
        "data.b_s": 0.5,
        "views.samples": 16_384,
        "frontend.kind": "mel",
        "encoder.name": "mel_cnn",
        "encoder.channels": 2,
        "head.hidden": 32,
        "head.width": 16,
        "optim.steps": 6,
        "optim.learning_rate": 1e-3,
        "resources.num_workers": 0,
        "resources.threads_per_worker": 1,  # two that wait for each other on a busy machine take minutes
        "resources.use_gpu": "no",
        "tracking.enabled": False,
        "run.dir": str(folder / "run"),
        "run.snapshot_every": 2,
    }
    return load_config(ExperimentConfig, None, tree | {k.replace("__", "."): v for k, v in overrides.items()})
