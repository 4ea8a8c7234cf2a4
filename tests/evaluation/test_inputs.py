"""Files and folders that a command is given, mixed."""

from pathlib import Path

import pytest

from cluster.settings import UserError
from evaluation.inputs import expand


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    for name in ("b/2.wav", "b/1.FLAC", "a.mp3", "b/._1.mp3", ".cache/3.wav", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def names(root: Path, files: list[Path]) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def test_a_folder_stands_for_the_audio_below_it_in_order(music: Path) -> None:
    assert names(music, expand([music]).files) == ["a.mp3", "b/1.FLAC", "b/2.wav"]


def test_files_and_folders_mix_keep_their_order_and_come_once(music: Path) -> None:
    given = [music / "b" / "2.wav", music, music / "a.mp3", music / "notes.txt"]
    assert names(music, expand(given).files) == ["b/2.wav", "a.mp3", "b/1.FLAC", "notes.txt"]


def test_what_is_not_there_is_named_before_anything_is_done(music: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        expand([music, music / "nowhere"])
    assert names(music, expand([music / "nowhere", music / "a.mp3"], missing_ok=True).files) == ["nowhere", "a.mp3"]
    (music / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no audio files below it; known are \.wav"):
        expand([music, music / "empty"], missing_ok=True)


def test_what_a_scan_passes_over_is_reported_by_folder(music: Path) -> None:
    (music / "song.m4a").write_bytes(b"")
    found = expand([music])
    kinds = found.passed_over()[str(music)]
    assert kinds["hidden"] == 2
    assert kinds["others"] == {".txt": 1}
    assert any("hidden" in line and str(music) in line for line in found.report())
