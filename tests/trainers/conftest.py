from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.config import ExperimentConfig

MakeConfig = Callable[..., ExperimentConfig]


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen six-second tracks with captions of all and of parts of their tags."""
    from data_shards.build.build import (  # GPU machines, which may lack what it needs, collect these tests
        BuildConfig,
        build,
    )
    from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus

    folder = tmp_path_factory.mktemp("captioned") / "set"
    clips = corpus(SyntheticConfig(tracks=12, seconds=6.0, valid_share=0.0, test_share=0.0, captions=10, seed=0))
    build(clips, folder, BuildConfig(workers=1))
    return folder


@pytest.fixture(scope="session")
def towers_below(configs_below: Callable[[Path], MakeConfig], captioned: Path) -> Callable[[Path], MakeConfig]:
    """`make_towers` for runs below a folder."""

    def below(folder: Path) -> MakeConfig:
        def make(**overrides: object) -> ExperimentConfig:
            given = {
                "data__labelled": str(captioned),
                "data__unlabelled": None,
                "data__b_s": 1.0,
                "views__count": 1,
                "augment__preset": "none",
                "loss__objective": "music_text",
                "loss__learnable": True,
                "loss__temperature": 0.07,
                "text__encoder": "words",
                "text__hidden": 16,
                "text__swap__start": 1.0,
            }
            wanted = {name: value for name, value in (given | overrides).items() if value is not None}
            return configs_below(folder)(**wanted)

        return make

    return below


@pytest.fixture
def make_towers(towers_below: Callable[[Path], MakeConfig], tmp_path: Path) -> MakeConfig:
    """A run of two towers of seconds on `captioned`, as `make_config`; None leaves a key at its default."""
    return towers_below(tmp_path)
