"""--trust-code of the three commands reaches the place that imports a user's code, and the commands to try next."""

import json
from pathlib import Path
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

    def load(*_: Any, trust_code: bool) -> Any:
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
def test_the_next_commands_trust_what_this_one_did(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.parquet"
    monkeypatch.setattr(files, "embed_files", lambda *_, **__: files.Embedded(out, 1, {}))
    flags = ["--trust-code"] * trusted
    result = CliRunner().invoke(app, ["embed", "module:factory", "song.wav", "--out", str(out), "--json", *flags])
    look, search = json.loads(result.stdout)["next"]
    assert ("--trust-code" in search, "--trust-code" in look) == (trusted, False)
