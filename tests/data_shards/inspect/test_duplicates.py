"""Copies of one audio under two names, and places where a set cannot be made, as the command line reports them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import counterpoint
from data_shards.build.build import BuildConfig, build
from data_shards.build.checks import require_place
from data_shards.format.index import read_index
from data_shards.inspect.show import summarise
from data_shards.sources.folder import read_folder

INLINE = BuildConfig(clips_per_shard=5, workers=1)


@pytest.fixture
def copies(tmp_path: Path) -> tuple[Path, Path]:
    """Six files: 0 and 4 are the same in train and test, 1 and 2 in train, 3 and 5 are silent."""
    (tmp_path / "music").mkdir()
    waves = [np.random.default_rng(number).integers(-9_000, 9_000, 90_000).astype(np.int16) for number in range(2)]
    silence = np.zeros(90_000, np.int16)
    for number, wave in enumerate([waves[0], waves[1], waves[1], silence, waves[0], silence]):
        soundfile.write(tmp_path / f"music/c{number}.wav", wave, 22_050)
    splits = ["train", "train", "train", "train", "test", "test"]
    rows = [f"c{number}.wav,{split},t{number}" for number, split in enumerate(splits)]
    (tmp_path / "l.csv").write_text("\n".join(["path,split,track_id", *rows]))
    return tmp_path / "music", tmp_path / "l.csv"


@pytest.mark.parametrize("codec", ["pcm16", "flac"])
def test_the_same_audio_in_two_splits_is_named_and_in_one_counted(
    copies: tuple[Path, Path], tmp_path: Path, codec: str
) -> None:
    config = BuildConfig(clips_per_shard=5, workers=1, codec="flac" if codec == "flac" else "pcm16")
    clips = read_folder(*copies).clips
    for summary in (build(clips, tmp_path / "set", config), build(clips, tmp_path / "set", config)):
        (group,) = summary.same_audio
        assert [(Path(clip.name).name, clip.track, clip.split) for clip in group] == [
            ("c0.wav", "t0", "train"),
            ("c4.wav", "t4", "test"),
        ]
        assert summary.same_audio_in_one_split == 1
    facts = summarise(read_index(tmp_path / "set"))
    assert [clip["split"] for clip in facts["same_audio"][0]] == ["train", "test"]


def test_one_sample_more_is_another_audio(copies: tuple[Path, Path], tmp_path: Path) -> None:
    music, labels = copies
    wave, rate = soundfile.read(music / "c4.wav", dtype="int16")
    wave[-1] += 1
    soundfile.write(music / "c4.wav", wave, rate)
    assert build(read_folder(music, labels).clips, tmp_path / "set", INLINE).same_audio == ()


def front_door(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["counterpoint", "shards", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        counterpoint.main()
    return int(stopped.value.code or 0)


def test_a_build_reports_copies_with_names_and_splits(
    copies: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    music, labels = copies
    words = ("build", "folder", "--audio", music, "--labels", labels, "--out", tmp_path / "set")
    assert front_door(monkeypatch, *words, "build.workers=1") == 0
    output = capsys.readouterr().out
    assert f"warning   the same audio in more than one split: {music}/c0.wav (train), {music}/c4.wav (test)" in output
    assert front_door(monkeypatch, *words, "build.workers=1", "--json") == 0
    assert [clip["split"] for clip in json.loads(capsys.readouterr().out)["same_audio"][0]] == ["train", "test"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("build", "folder", "--audio", "music", "--out", "file"), "--out file: is a file, not a folder"),
        (("build", "folder", "--audio", "music", "--out", "file/set"), "file is a file, not a folder"),
        (("build", "folder", "--audio", "music", "--out", "music"), "--out music: is the --audio music"),
        (("build", "folder", "--audio", "music", "--out", "."), "--out .: holds the --audio music"),
        (("build", "synthetic", "--out", "."), "--out .: is the working folder, which cannot be replaced"),
        (("build", "synthetic", "--out", "file"), "--out file: is a file, not a folder"),
        (("build", "gtzan", "--root", "music", "--out", "file", "--download"), "--out file: is a file, not a folder"),
        (("build", "folder", "--audio", "music", "--out", "x" * 300), "the name is too long"),
        (
            ("build", "folder", "--audio", "music", "--out", "taken"),
            "which is a file; move it away, or give another folder",
        ),
        (("index", "nowhere"), "nowhere: no such folder"),
        (("index", "file"), "file: is a file; give the folder of the tars"),
        (("show", "nowhere", "--page", "music"), "--page music: is a folder; give a file"),
        (("show", "nowhere", "--page", "file/a.html"), "file is a file, not a folder"),
        (("show", "nowhere", "--page", "a.tar"), "--page a.tar: is there already and is no HTML page"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_work_begins(
    copies: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    for name in ("file", "a.tar", "taken.partial"):
        (tmp_path / name).write_text("mine")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert front_door(monkeypatch, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_set_is_built_where_a_link_leads(copies: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "set").symlink_to("disk")
    require_place(tmp_path / "set", "--out")
    build(read_folder(*copies).clips, tmp_path / "set", INLINE)
    assert (tmp_path / "set").is_symlink()
    assert len(read_index(tmp_path / "disk")) == 6
