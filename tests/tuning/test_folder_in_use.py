"""A second process is refused by every command that writes a folder, before it changes anything there."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.files.locks import LOCK_NAME, sole_file_writer, sole_writer
from cluster.progress import SILENT
from cluster.settings import UserError
from data_shards.build.index_writer import index_shards
from evaluation import evaluate
from evaluation.config import EvaluationConfig
from evaluation.embeddings.files import embed_files
from evaluation.search.track_index import TrackIndex, rewriting
from tuning.study.config import StudySettings
from tuning.study.study import run_study
from tuning.sweep.sweep import run_sweep


def study(folder: Path) -> None:
    run_study(cast(Any, None), StudySettings(dir=str(folder)), progress=SILENT)


def sweep(folder: Path) -> None:
    run_sweep(cast(Any, SimpleNamespace(config=None, folder=folder)), progress=SILENT)


def shards_index(folder: Path) -> None:
    index_shards(folder)


def search_index(folder: Path) -> None:
    with rewriting(TrackIndex(folder=folder, encoder="e", width=1, root="")):
        pass


def report(folder: Path) -> None:
    evaluate.evaluate("module:factory", EvaluationConfig(), folder)


@pytest.mark.parametrize("command", [study, sweep, shards_index, search_index, report])
def test_a_folder_in_use_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(evaluate, "load_any", lambda *_, **__: SimpleNamespace(provenance={}))
    monkeypatch.setattr(evaluate, "untrained_any", lambda *_, **__: None)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "shard.tar").touch()
    with sole_writer(folder, "wait"), pytest.raises(UserError, match=rf"{folder}: another process .*; wait .*, or \w+"):
        command(folder)
    assert [path.name for path in folder.iterdir() if path.name != LOCK_NAME] == ["shard.tar"]


def test_embeddings_that_another_process_writes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "embeddings.parquet"
    monkeypatch.setattr("evaluation.embeddings.files._schema", lambda *_, **__: None)
    with sole_file_writer(out, "wait"), pytest.raises(UserError, match=f"{out}: another process .*give another --out"):
        embed_files(cast(Any, SimpleNamespace()), ["a.wav"], out)
    assert list(tmp_path.iterdir()) == []
