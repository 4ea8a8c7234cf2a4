"""Faults 29, 31, 32 and a cluster that is not there at the start of `counterpoint shards build`.

One message with place and remedy, nothing made.
"""

from pathlib import Path

import numpy as np
import pytest
import soundfile

import counterpoint


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    (tmp_path / "music").mkdir()
    soundfile.write(tmp_path / "music/a.wav", np.ones(8_000) / 2, 22_050)
    return tmp_path / "music"


def refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command; its message, without the breaks of a narrow terminal."""
    monkeypatch.setattr("sys.argv", ["counterpoint", "shards", "build", "folder", *words])
    with pytest.raises(SystemExit) as caught:
        counterpoint.main()
    assert caught.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav,train,t,120,", "row 2: 5 cells, the header has 4 columns"),
        ("a.wav,tarin,t,120", "row 2, column split: 'tarin'; known are train, valid"),
        ("a.wav,train,,120", "row 2, column track_id: is empty"),
        ("../a.wav,train,t,120", "row 2, column path: '../a.wav' must lead to a file below"),
        ("a.wav,train,t,fast", "row 2, column bpm: 'fast' is not a number"),
        ('"a.wav,train,t,1', "row 2: not CSV in UTF-8"),
    ],
)
def test_a_malformed_row_is_named_with_file_row_and_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], audio: Path, row: str, message: str
) -> None:
    labels, out = audio.parent / "labels.csv", audio.parent / "set"
    labels.write_text(f"path,split,track_id,bpm\n{row}\n")
    error = refuse(
        monkeypatch, capsys, "--audio", str(audio), "--labels", str(labels), "--numeric", "bpm", "--out", str(out)
    )
    assert f"{labels}, {message}" in error
    assert not list(audio.parent.glob("set*"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("build.codek=flac", "unknown key build.codek; did you mean build.codec?"),
        ("codec=flac", "unknown key codec; did you mean build.codec?"),
        ("build.workers=many", "build.workers:"),
        ("build.rate=no", "build.rate:"),
        ("build.max_rejected=1e3", "max_rejected must be in [0, 1], got 1000"),
        ("build", "'build' is not an override; write key=value"),
        ("build.codec=" + "[" * 5_000, "build.codec"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], audio: Path, word: str, message: str
) -> None:
    error = refuse(monkeypatch, capsys, "--audio", str(audio), "--out", str(audio.parent / "set"), word)
    assert message in error
    assert not list(audio.parent.glob("set*"))


@pytest.mark.parametrize(
    ("address", "token", "message"),
    [
        ("127.0.0.1:9", "known", "127.0.0.1:9: nothing answers"),
        ("127.0.0.1:9", None, "no token for the cluster: copy the head's ~/.ray/auth_token to"),
        ("head", "known", "'head' is no address of a cluster; write host:port"),
        ("http://127.0.0.1:8265", "known", "send it there with `counterpoint submit --cluster"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_reported_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    audio: Path,
    address: str,
    token: str | None,
    message: str,
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(audio.parent / "token"))
    monkeypatch.setenv("RAY_ADDRESS", address)
    if token:
        (audio.parent / "token").write_text(token)
    assert message in refuse(monkeypatch, capsys, "--audio", str(audio), "--out", str(audio.parent / "set"), "--ray")
    assert not list(audio.parent.glob("set*"))


@pytest.mark.parametrize(("option", "value"), [("--list-separator", ";"), ("--missing", "?")])
def test_options_of_a_table_without_a_table_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], audio: Path, option: str, value: str
) -> None:
    out = audio.parent / "set"
    message = refuse(monkeypatch, capsys, "--audio", str(audio), "--out", str(out), option, value)
    assert f"{option}: belongs to a table of labels; add --labels FILE.csv" in message
    assert not list(audio.parent.glob("set*"))
