"""The command line as a user meets it: commands, exit codes, one message an error."""

import csv
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile

import counterpoint
from cluster.settings import ROOT, PreemptedError, RunError, UserError
from commands.console import made, quoted, then

Run = Callable[..., int]
TINY = [
    "data.batch=4",
    "data.b_s=0.5",
    "views.samples=16384",
    "encoder.channels=2",
    "optim.steps=2",
    "resources.num_workers=0",
    "resources.use_gpu=no",
    "tracking.enabled=false",
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command line in this process and return its exit code."""

    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["counterpoint", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            counterpoint.main()
        return int(stopped.value.code or 0)

    return call


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Twelve tones of two seconds and a CSV: two tags, three splits."""
    folder = tmp_path / "music"
    folder.mkdir()
    rows = []
    for number in range(24):
        t = np.arange(44_100) / 22_050
        wave = 0.3 * np.sin(2 * np.pi * 110 * 2 ** (number / 12) * t) * (1 + number % 2 * np.sign(np.sin(30 * t))) / 2
        soundfile.write(folder / f"tone {number}.wav", wave, 22_050)
        split = ("train", "train", "val", "test")[number // 2 % 4]
        tags = ("smooth", "rough")[number % 2] if number % 8 != 3 else ""
        rows.append([f"tone {number}.wav", split, f"t{number}", tags + "|tone" * bool(tags), 60 + number])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "split", "track_id", "tags", "bpm"], *rows])
    return folder


def build(run: Run, music: Path, out: Path, *more: object) -> int:
    return run("shards", "build", "folder", "--audio", music, "--labels", music / "labels.csv", "--out", out, *more)


def test_a_folder_of_music_becomes_a_judged_encoder(
    run: Run, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, folder = tmp_path / "shards", tmp_path / "run"
    assert build(run, music, shards) == 0
    assert "multilabel: tags" in capsys.readouterr().out
    assert run("shards", "verify", shards) == 0
    assert run("shards", "show", shards, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["clips"] == 24

    preset = ROOT / "conf/pretrain/open_music.yaml"
    places = [f"data.labelled={shards}", f"data.unlabelled={shards}", f"run.dir={folder}"]
    capsys.readouterr()
    assert run("pretrain", preset, *places, *TINY, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["data"]["labelled_a_batch"] == 2
    assert not folder.exists()
    assert run("pretrain", preset, *places, *TINY) == 0
    assert run("pretrain", preset, *places, *TINY) == 0

    tasks = tmp_path / "tasks.yaml"
    tasks.write_text("tasks:\n  tags: {column: tags, kind: tags, probe: true}\nseeds: 1\n")
    capsys.readouterr()
    asked = ("evaluate", folder, tasks, f"data.shards={shards}", "--out", tmp_path / "report")
    assert run(*asked) == 0
    ending = "".join(capsys.readouterr().out.split())
    assert (
        "".join(map(str, ["counterpoint", *asked[:4], "--against", "NAME=RUN", "--out", tmp_path / "report"])) in ending
    )
    assert run(*asked, "--against", f"same={folder}", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"]["page"] == str(tmp_path / "report" / "report.html")
    assert all(command.startswith("counterpoint ") for command in told["next"])
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["metrics"] == told["metrics"]
    assert {"tags/auroc", "tags/ap"} <= report["metrics"].keys()
    for row in report["differences"]["same"].values():  # a run and itself
        assert (row["value"], row["low"], row["high"], row["p_holm"]) == (0, 0, 0, 1)
    assert {p.name for p in (tmp_path / "report").iterdir()} >= {"report.json", "report.md", "report.html"}

    table, some = tmp_path / "tones.parquet", tmp_path / "some"
    some.mkdir()
    (some / "tone 1.wav").write_bytes((music / "tone 1.wav").read_bytes())
    assert run("embed", folder, music / "tone 0.wav", some, "--out", table) == 0
    import pandas

    frame = pandas.read_parquet(table)
    assert list(frame.columns) == ["path", "embedding"]
    assert len(frame) == 2
    assert run("embed", folder, music / "tone 0.wav", "--out", table, "--timeline") == 0
    assert list(pandas.read_parquet(table).columns) == ["path", "start_s", "embedding"]


def test_real_music_goes_the_same_road(run: Run, tmp_path: Path) -> None:
    music = Path(os.environ.get("COUNTERPOINT_DATA", ROOT.parent / "shared/data")) / "music"
    if not music.is_dir():
        pytest.skip(f"{music} is not here; COUNTERPOINT_DATA names its parent")
    with (music / "labels.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    some = tmp_path / "labels.csv"
    with some.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows[::40]])  # of each of its four sets
    shards, folder = tmp_path / "shards", tmp_path / "run"
    assert run("shards", "build", "folder", "--audio", music, "--labels", some, "--out", shards) == 0
    assert run("shards", "verify", shards) == 0
    places = [f"data.labelled={shards}", f"data.unlabelled={shards}", f"run.dir={folder}"]
    assert run("pretrain", ROOT / "conf/pretrain/open_music.yaml", *places, *TINY) == 0
    assert run("embed", folder, music / rows[0][header.index("path")], "--out", tmp_path / "song.parquet") == 0


def refused(capsys: pytest.CaptureFixture[str], code: int, *, code_wanted: int = 2) -> str:
    """The one message of a refused command."""
    error = capsys.readouterr().err
    assert code == code_wanted, error
    assert "Traceback" not in error
    return " ".join(error.split())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda music: (music / "labels.csv").unlink(), "labels.csv: no such file"),
        (lambda music: (music / "labels.csv").write_text("path,split\na,train\n"), "row 1: no column track_id"),
        (lambda music: (music / "labels.csv").write_text("path,split,track_id\n"), "no rows below the header"),
        (
            lambda music: (music / "labels.csv").write_text("path,split,track_id\na.wav,trian,1\n"),
            "column split: 'trian'",
        ),
    ],
)
def test_labels_that_cannot_be_read_are_refused_and_nothing_is_left(
    run: Run,
    music: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    words: str,
) -> None:
    change(music)
    out = tmp_path / "shards"
    assert words in refused(capsys, build(run, music, out))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["music"]


def test_a_missing_folder_and_an_empty_one_are_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["shards", "build", "folder", "--audio", tmp_path / "nowhere", "--out", tmp_path / "out"]
    assert "nowhere: no such folder" in refused(capsys, run(*words))
    (tmp_path / "nowhere").mkdir()
    assert "no audio files" in refused(capsys, run(*words))


def test_an_unreadable_file_among_many_is_named_and_counted_up_to_a_limit(
    run: Run, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (music / "tone 3.wav").write_bytes(b"this is no audio" * 100)
    out = tmp_path / "shards"
    assert "tone 3.wav" in refused(capsys, build(run, music, out))
    assert not out.exists()
    assert build(run, music, out, "build.max_rejected=0.1") == 0
    assert run("shards", "show", out, "--json") == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["clips"] == 23
    assert len(facts["rejected"]) == 1


def test_a_column_that_is_not_there_is_named_with_those_that_are(
    run: Run, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = build(run, music, tmp_path / "out", "--multilabel", "moods")
    assert "no column moods for --multilabel; there are tags, bpm" in refused(capsys, code)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.b_s=0.01", "no labelled one; take batch >="),
        ("resources.num_workers=3", "3 ranks do not divide data.batch = 4"),
        ("data.vocabulary=moods", "no such column; it has tags"),
        ("data.labeled=x", "unknown key data.labeled; did you mean data.labelled?"),
        ("loss.temperature=-1", "temperature must be > 0"),
        ("augment.preset=papre", "no preset 'papre'"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(
    run: Run, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, words: str
) -> None:
    shards, folder = tmp_path / "shards", tmp_path / "run"
    assert build(run, music, shards) == 0
    capsys.readouterr()
    preset = ROOT / "conf/pretrain/open_music.yaml"
    places = [f"data.labelled={shards}", f"data.unlabelled={shards}", f"run.dir={folder}"]
    code = run("pretrain", preset, *places, *TINY, override)
    assert words in refused(capsys, code)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "2", "--device", "cuda"), "--device is of this process"),
        (("--device", "gpu"), "device gpu is not on this machine; it has cpu"),
    ],
)
def test_a_device_that_would_not_be_used_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    song = tmp_path / "a.wav"
    song.touch()
    for command in (("embed", "nowhere:Encoder", song), ("search", "nowhere:Encoder", tmp_path, song)):
        assert run(*command, *words) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_every_command_explains_itself(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    commands = ["quickstart", "doctor", "pretrain", "views", "export", "evaluate", "embed", "search", "sweep", "study"]
    for words in (
        [],
        *([name] for name in (*commands, "ui", "replay", "submit")),
        ["shards", "build"],
        ["shards", "verify"],
    ):
        assert run(*words, "--help") == 0
        shown = capsys.readouterr().out
        assert "Usage: counterpoint" in shown
        assert ("--debug" in shown) == (not words)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"tags": ["a", "b", "", ""]}, "data.labelled=OUT data.unlabelled=OUT run.dir"),
        ({"tags": ["a", "b", "c", "c"]}, "data.labelled=OUT data.b_s=1 run.dir"),
        ({"moods": ["a|b", "b", "", ""]}, "data.labelled=OUT data.unlabelled=OUT data.vocabulary=moods run.dir"),
        ({"bpm": ["1", "2", "3", "4"]}, "data.unlabelled=OUT data.b_s=0 run.dir"),
    ],
)
def test_a_build_names_a_pretraining_that_its_labels_allow(
    run: Run, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: dict[str, list[str]], words: str
) -> None:
    ((column, values),) = rows.items()
    lines = [f"tone {number}.wav,train,t{number},{value}" for number, value in enumerate(values)]
    (music / "labels.csv").write_text("\n".join([f"path,split,track_id,{column}", *lines]))
    assert build(run, music, tmp_path / "shards") == 0
    assert words.replace("OUT", str(tmp_path / "shards")) in capsys.readouterr().out


def test_the_version_is_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == version("counterpoint-audio")


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (UserError("x.yaml: no such file"), "error x.yaml: no such file", 2),
        (RunError("the disk is full"), "error the disk is full", 1),
        (PreemptedError("stopped; the same command resumes"), "stopped; the same command resumes", 143),
        (PermissionError(13, "Permission denied", "/[a]/out"), "error /[a]/out: Permission denied", 1),
        (
            ZeroDivisionError("[/x]"),
            "error ZeroDivisionError: [/x]; internal error: rerun with --debug and report the traceback",
            1,
        ),
    ],
)
def test_an_error_is_one_message_and_a_code(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
    code: int,
) -> None:
    def breaks(*_: object) -> None:
        raise error

    monkeypatch.setattr("cluster.doctor.checks", breaks)
    assert refused(capsys, run("doctor"), code_wanted=code).startswith(words)
    monkeypatch.setattr(sys, "argv", ["counterpoint", "doctor", "--debug"])
    with pytest.raises(type(error)):
        counterpoint.main()


def test_debug_behind_two_dashes_is_the_jobs_own(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def send(words: list[str], **_: object) -> int:
        print(words)
        return 7

    monkeypatch.setattr("cluster.ray_runtime.jobs.submit", send)
    assert run("submit", "--", "pretrain", "x.yaml", "--debug") == 7
    assert capsys.readouterr().out.strip() == "['pretrain', 'x.yaml', '--debug']"


def test_paths_with_brackets_and_blanks_are_shown_as_a_shell_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    made(page=Path("my run [a]/[/b].html"))
    then(quoted("counterpoint", "embed", Path("my run [a]"), "SONG.mp3"))
    shown = capsys.readouterr().out
    assert "page        my run [a]/[/b].html" in shown
    assert "counterpoint embed 'my run [a]' SONG.mp3" in shown


def test_tars_of_another_program_are_indexed_once(
    run: Run, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, foreign = tmp_path / "shards", tmp_path / "foreign"
    assert build(run, music, shards) == 0
    foreign.mkdir()
    next(shards.glob("*.tar")).rename(foreign / "theirs.tar")
    capsys.readouterr()
    assert run("shards", "index", foreign, "--json") == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 24
    assert run("shards", "verify", foreign) == 0
    assert "has an index; delete its manifest.json" in refused(capsys, run("shards", "index", foreign))


def test_the_doctor_opens_the_shards_it_is_given(
    run: Run, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    assert build(run, music, shards) == 0
    capsys.readouterr()
    assert run("doctor", "--shards", shards, "--shards", tmp_path / "none", "--json") == 1
    good, bad = json.loads(capsys.readouterr().out)[-2:]
    assert (good["state"], good["found"]) == ("ok", "24 clips; shards: 1")
    assert (bad["state"], bad["remedy"]) == ("fail", f"counterpoint shards verify {tmp_path / 'none'}")
    assert run("shards", "verify", tmp_path / "none") == 2
    assert "none: no such folder" in capsys.readouterr().err


def test_damaged_shards_exit_1_with_every_problem(
    run: Run, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    assert build(run, music, shards) == 0
    tar = next(shards.glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[5000] ^= 1
    tar.write_bytes(content)
    capsys.readouterr()
    assert run("shards", "verify", shards, "--json") == 1
    problems = json.loads(capsys.readouterr().out)
    assert problems
    assert problems[0]["shard"] == tar.name


PLACES: dict[str, Callable[[Path], Path]] = {
    "a file": lambda home: home / "file",
    "below a file": lambda home: home / "file" / "deep" / "out",
    "a folder": lambda home: home / "folder",
    "too long": lambda home: home / ("n" * 300),
    "takes no files": lambda _: Path("/proc/counterpoint-out"),
    "relative": lambda _: Path("file/out"),
}
FOLDERS = ["a file", "below a file", "too long", "takes no files", "relative"]
FILES = ["a folder", "below a file", "too long", "takes no files", "relative"]
OF_COMMANDS: list[tuple[list[str], str, list[object]]] = [
    (FOLDERS, "--out", ["evaluate", "folder", ROOT / "conf/evaluation/tiny.yaml", "--out", "{}"]),
    (FOLDERS, "cache", ["evaluate", "folder", ROOT / "conf/evaluation/tiny.yaml", "cache={}", "--out", "new"]),
    (FILES, "--out", ["embed", "folder", "file", "--out", "{}"]),
    (FOLDERS, "--out", ["export", "folder", "--out", "{}"]),
    (FOLDERS, "--out", ["views", ROOT / "conf/pretrain/tiny.yaml", "data.labelled=folder", "--out", "{}"]),
    (FOLDERS, "--out", ["quickstart", "--out", "{}"]),
    (FOLDERS, "sweep.dir", ["sweep", ROOT / "conf/sweep/quickstart.yaml", "sweep.dir={}"]),
    (FOLDERS, "study.dir", ["study", ROOT / "conf/study/evidence.yaml", "study.dir={}", "--scale", "tiny"]),
]


@pytest.mark.parametrize(
    ("kind", "key", "words"),
    [
        pytest.param(kind, key, words, id=f"{words[0]} {key} {kind}")
        for kinds, key, words in OF_COMMANDS
        for kind in kinds
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_else_is_looked_at(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    key: str,
    words: list[object],
) -> None:
    """What else these commands name is there by its file names alone, and none of them comes to open it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    for name in ("encoder.json", "manifest.json", "index.arrow"):
        (tmp_path / "folder" / name).touch()
    place = PLACES[kind](tmp_path)
    error = refused(capsys, run(*(str(word).replace("{}", str(place)) for word in words)))
    assert f"error {key} {place}: " in error
    assert ".partial" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_runs_folder_that_cannot_be_is_refused_before_training(
    run: Run, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(run, music, tmp_path / "shards") == 0
    (tmp_path / "file").write_text("old")
    preset = ROOT / "conf/pretrain/open_music.yaml"
    places = [f"data.labelled={tmp_path / 'shards'}", f"data.unlabelled={tmp_path / 'shards'}"]
    for kind in FOLDERS[:4]:
        place = PLACES[kind](tmp_path)
        capsys.readouterr()
        error = refused(capsys, run("pretrain", preset, *places, f"run.dir={place}", *TINY))
        assert f"error run.dir {place}: " in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "music", "shards"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["outputs/b"], "--against outputs/b: give the other encoder a name: --against NAME=outputs/b"),
        (["b="], "--against b=: give the other encoder a name"),
        (["b=x", "b=y"], "--against b=y: b is taken; give every encoder a name of its own"),
        (["a.b=x"], "--against a.b=x: a name is of letters, digits, _ and -"),
        (["untrained=x"], "against cannot be called untrained"),
        (["b=nowhere"], "nowhere"),
    ],
)
def test_another_encoder_needs_a_name_of_its_own(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    words = [word for one in given for word in ("--against", one)]
    code = run("evaluate", "nowhere", ROOT / "conf/evaluation/tiny.yaml", *words, "--out", tmp_path / "out")
    assert message in refused(capsys, code)
    assert not (tmp_path / "out").exists()


def test_a_query_is_kept_or_its_track_left_out_but_not_both(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code = run("search", "nowhere:Encoder", ".", "song.wav", "--keep-query", "--exclude-track")
    assert "give one of them" in refused(capsys, code)
