"""A set of composed tracks with captions, and words of all kinds."""

from pathlib import Path

import pytest

from data_shards.build.build import BuildConfig, build
from data_shards.format.index import ShardIndex, read_index
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from data_shards.sources.synthetic.traits import TAGS
from data_shards.text.dictionary import load_dictionary
from data_shards.text.lexicon import Lexicon

COLUMNS = {"tags": TAGS, "tempo": ("slow", "mid-tempo", "fast"), "mode": ("major", "minor"), "era": ("80s", "90s")}


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 short tracks, all for training, each with a caption of all its tags and ten of parts of them."""
    folder = tmp_path_factory.mktemp("captioned") / "shards"
    music = SyntheticConfig(tracks=400, seconds=3.0, valid_share=0.0, test_share=0.0, captions=10)
    build(corpus(music), folder, BuildConfig(workers=1, rate=4_000))
    return folder


@pytest.fixture(scope="session")
def index(captioned: Path) -> ShardIndex:
    """Its index."""
    return read_index(captioned)


@pytest.fixture(scope="session")
def lexicon() -> Lexicon:
    """The words of composed music, and those of the dictionary ``music``."""
    return Lexicon(load_dictionary("music"), COLUMNS)
