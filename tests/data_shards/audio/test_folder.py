"""What a scan of a folder finds, and that it counts whatever it passes over."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.settings import UserError
from data_shards.audio import pyav
from data_shards.audio.scan import scan_folder
from data_shards.sources.folder import read_folder


@pytest.fixture
def without_av(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "has_av", lambda: False)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in scan_folder(root).files]


def test_every_suffix_is_counted_and_those_of_audio_come_with_the_way_to_convert(
    tmp_path: Path, without_av: None
) -> None:
    touch(tmp_path, "a.wav", "b.MP3", "c.m4a", "d/e.M4A", "d/f.wma", "cover.jpg", "notes.txt", "README", "d/cover.jpg")
    found = scan_folder(tmp_path)
    assert [file.name for file in found.files] == ["a.wav", "b.MP3"]
    assert found.undecodable == {".m4a": 2, ".wma": 1}
    assert found.others == {".jpg": 2, "": 1, ".txt": 1}
    first, second = found.report()
    assert first.startswith("2 .m4a, 1 .wma left out: libsndfile does not decode them; convert them: for f in *.m4a")
    assert 'ffmpeg -i "$f" "${f%.*}.flac"' in first
    assert pyav.EXTRA in first
    assert second == "2 .jpg, 1 without a suffix, 1 .txt left out: no suffix of audio"
    passed_over = {"undecodable": {".m4a": 2, ".wma": 1}, "others": {".jpg": 2, "": 1, ".txt": 1}}
    assert found.passed_over() == passed_over


def test_pyav_takes_in_what_it_decodes_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "has_av", lambda: True)
    found = scan_folder(touch(tmp_path, "a.wav", "c.m4a"))
    assert [file.name for file in found.files] == ["a.wav", "c.m4a"]
    assert found.report() == ["1 .m4a read by PyAV"]
    assert found.passed_over() == {}


def test_a_folder_that_is_whole_has_nothing_to_report(tmp_path: Path) -> None:
    found = scan_folder(touch(tmp_path, "a.wav", "b.wav/c.flac"))
    assert names(tmp_path) == ["a.wav", "b.wav/c.flac"]
    assert (found.report(), found.passed_over()) == ([], {})


def test_hidden_files_and_folders_are_counted(tmp_path: Path) -> None:
    found = scan_folder(touch(tmp_path, "a.wav", "._a.wav", ".Trash/b.wav", "d/.DS_Store"))
    assert [file.name for file in found.files] == ["a.wav"]
    assert found.report() == ["3 hidden files and folders left out: their names begin with a dot"]


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root = touch(tmp_path / "music", "a.wav", "real/b.wav")
    touch(tmp_path / "disk", "c.wav", "deep/d.wav")
    (root / "aaa").symlink_to("real")  # comes before what it leads to
    (root / "disk").symlink_to(tmp_path / "disk")
    (root / "disk again").symlink_to(tmp_path / "disk")
    (root / "real/loop").symlink_to(root)
    (tmp_path / "disk/deep/back").symlink_to(tmp_path / "disk")
    (root / "e.wav").symlink_to(tmp_path / "disk/c.wav")
    assert names(root) == ["a.wav", "disk/c.wav", "disk/deep/d.wav", "e.wav", "real/b.wav"]
    assert scan_folder(root).seen_links == 4
    assert "4 links left out: they lead to folders that are scanned anyway" in scan_folder(root).report()


def test_a_folder_that_is_a_link_itself_is_scanned(tmp_path: Path) -> None:
    touch(tmp_path / "music", "a.wav")
    (tmp_path / "link").symlink_to("music")
    assert names(tmp_path / "link") == ["a.wav"]


def test_pipes_and_broken_links_are_counted(tmp_path: Path) -> None:
    os.mkfifo(touch(tmp_path, "a.wav") / "pipe.wav")
    (tmp_path / "broken.wav").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    found = scan_folder(tmp_path)
    assert found.no_files == 3
    assert [file.name for file in found.files] == ["a.wav"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.wav", "closed/b.wav")
    listed = os.scandir

    def scandir(folder: Path) -> object:
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    found = scan_folder(tmp_path)
    assert found.report() == [f"{tmp_path}/closed left out: cannot be read: Permission denied"]
    assert [file.name for file in found.files] == ["a.wav"]


def test_a_folder_whose_listing_ends_early_keeps_what_was_listed_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.wav", "torn/below/c.wav", "torn/b.wav")
    listed = os.scandir

    @contextmanager
    def torn(folder: Path) -> Iterator[Iterator["os.DirEntry[str]"]]:
        with listed(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)

        def until_the_error() -> Iterator["os.DirEntry[str]"]:
            yield from found
            raise OSError(5, "Input/output error")

        yield until_the_error() if Path(folder).name == "torn" else iter(found)

    monkeypatch.setattr(os, "scandir", torn)
    found = scan_folder(tmp_path)
    where = f"{tmp_path}/torn cannot be read to its end, some of it is left out"
    assert found.report() == [f"{where}: Input/output error"]
    assert [file.name for file in found.files] == ["a.wav", "b.wav", "c.wav"]


def test_a_folder_without_audio_names_what_is_there_instead(tmp_path: Path, without_av: None) -> None:
    touch(tmp_path, "a.m4a", "b.m4a")
    with pytest.raises(UserError, match=r"(?s)no audio files below it; known are \.wav.*2 \.m4a left out.*ffmpeg -i"):
        read_folder(tmp_path)


def test_the_report_of_a_build_holds_what_was_passed_over(tmp_path: Path, without_av: None) -> None:
    touch(tmp_path, "a.wav", "b.m4a", ".c.wav")
    (tmp_path / "labels.csv").write_text("path,split,track_id\na.wav,train,t\n")
    for labels in (None, tmp_path / "labels.csv"):
        report = read_folder(tmp_path, labels).report()
        assert "1 .m4a left out" in report
        assert "1 hidden files and folders left out" in report
