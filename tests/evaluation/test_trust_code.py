"""--trust-code of the three commands reaches the place that imports a user's code."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.settings import ROOT, UserError
from commands.app import app
from evaluation import evaluate
from evaluation.embeddings import files
from evaluation.encoders import sources


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("command", ["evaluate", "embed", "search"])
def test_trust_code_is_what_the_command_line_gave(
    command: str, trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def load(*_: Any, trust_code: bool, **__: Any) -> Any:
        asked.append(trust_code)
        raise UserError("loaded")

    monkeypatch.setattr(sources, "load_any", load)
    monkeypatch.setattr(evaluate, "load_any", load)
    song = tmp_path / "song.wav"
    song.touch()
    words = {
        "evaluate": [str(ROOT / "conf" / "evaluation" / "tiny.yaml"), "--out", str(tmp_path / "report")],
        "embed": [str(song), "--out", str(tmp_path / "e.parquet")],
        "search": [str(tmp_path), str(song)],
    }[command]
    flags = ["--trust-code"] * trusted
    result = CliRunner().invoke(app, [command, "module:factory", *words, *flags])
    assert (str(result.exception), asked) == ("loaded", [trusted])


@pytest.mark.parametrize("trusted", [True, False])
def test_the_next_command_has_trust_code_where_this_one_had_it(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = SimpleNamespace(notes=[], rejected={}, passed_over={}, rows=1)
    monkeypatch.setattr(files, "embed_files", lambda *_, **__: done)
    words = ["embed", "module:factory", str(tmp_path), "--out", str(tmp_path / "e.parquet"), "--json"]
    result = CliRunner().invoke(app, [*words, *["--trust-code"] * trusted])
    (search,) = (command for command in json.loads(result.stdout)["next"] if " search " in command)
    assert search.endswith(" --trust-code") == trusted
