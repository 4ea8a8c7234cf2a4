"""Archives read in place: a zip is its folder, parts are the whole, and what is damaged is refused with its name."""

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cluster.settings import UserError
from data_shards.audio import archives
from data_shards.audio.archives import ZipTree, unpack
from data_shards.audio.decode import AudioError
from data_shards.audio.trees import FolderTree, find_tree, open_tree

NAMES = ("0/a.mp3", "1/b.wav", "1/c.flac", "f/notes.txt")


def content(name: str) -> bytes:
    """A sound that only this name has."""
    if name.endswith(".txt"):
        return name.encode() * 100
    buffer = io.BytesIO()
    wave = np.random.default_rng(len(name) + ord(name[2])).standard_normal(4_000) / 10
    soundfile.write(buffer, wave, 16_000, format=name.rpartition(".")[2].upper())
    return buffer.getvalue()


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Path]:
    """``pack("mp3", prefix="top/")`` writes mp3.zip with `NAMES`."""

    def write(name: str, prefix: str = "", *, stored: bool = False) -> Path:
        path = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
            for member in NAMES:
                archive.writestr(prefix + member, content(member))
        return path

    return write


def cut(path: Path, parts: int) -> None:
    """A file into ``NAME.001`` …, as `split` does, without the whole."""
    data = path.read_bytes()
    step = -(-len(data) // parts)
    for number in range(parts):
        path.with_name(f"{path.name}.{number + 1:03d}").write_bytes(data[number * step : (number + 1) * step])
    path.unlink()


@pytest.mark.parametrize("prefix", ["", "mp3/"])
@pytest.mark.parametrize("parts", [0, 1, 2, 3, 7])
def test_a_zip_whole_or_in_parts_is_the_folder_it_was_made_from(
    pack: Callable[..., Path], tmp_path: Path, prefix: str, parts: int
) -> None:
    path = pack("mp3", prefix)
    if parts:
        cut(path, parts)
    for name in NAMES:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content(name))
    packed, folder = find_tree(tmp_path, "mp3"), FolderTree(tmp_path / "folder")
    assert packed is not None
    assert list(packed.paths()) == folder.paths() == sorted(NAMES)
    assert packed.read("f/notes.txt") == folder.read("f/notes.txt")
    for name in NAMES[:3]:
        ours, theirs = packed.audio(name).read(), folder.audio(name).read()
        assert ours[1] == theirs[1]
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(packed.audio(name))).read()[0], theirs[0])  # noqa: S301


def test_a_folder_is_taken_before_its_zip(pack: Callable[..., Path], tmp_path: Path) -> None:
    pack("mp3")
    (tmp_path / "mp3").mkdir()
    assert isinstance(find_tree(tmp_path, "mp3"), FolderTree)
    assert isinstance(find_tree(tmp_path, "other", "mp3"), FolderTree)
    assert find_tree(tmp_path, "other") is None


def test_threads_may_read_one_archive_at_once(pack: Callable[..., Path], tmp_path: Path) -> None:
    cut(pack("mp3"), 3)
    tree = open_tree(tmp_path, "mp3")
    alone = {name: tree.audio(name).read()[0] for name in NAMES[:3]}
    with ThreadPoolExecutor(4) as pool:
        for name, (wave, _) in zip(
            NAMES[:3] * 20, pool.map(lambda n: tree.audio(n).read(), NAMES[:3] * 20), strict=True
        ):
            np.testing.assert_array_equal(wave, alone[name])


def test_a_flipped_byte_of_a_member_is_found(pack: Callable[..., Path], tmp_path: Path) -> None:
    path = pack("mp3", stored=True)
    data = bytearray(path.read_bytes())
    at = data.index(content("1/b.wav")) + 2_000
    data[at] ^= 1
    path.write_bytes(data)
    tree = open_tree(tmp_path, "mp3")
    with pytest.raises(AudioError, match=r"cannot be unpacked: Bad CRC-32 for file '1/b\.wav'"):
        tree.audio("1/b.wav").read()
    tree.audio("0/a.mp3").read()


def test_a_member_that_is_not_there_is_no_clip(pack: Callable[..., Path], tmp_path: Path) -> None:
    pack("mp3")
    tree = open_tree(tmp_path, "mp3")
    with pytest.raises(AudioError, match="no such member"):
        tree.audio("9/z.mp3").read()
    with pytest.raises(UserError, match=r"mp3\.zip: no member 9/z\.csv"):
        tree.read("9/z.csv")
    assert tree.audio("9/z.mp3").name == str(tmp_path / "mp3.zip/9/z.mp3")


def test_a_bomb_is_refused_before_it_is_unpacked(
    pack: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack("mp3")
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1_000)
    with pytest.raises(AudioError, match="it would unpack to"):
        open_tree(tmp_path, "mp3").audio("1/b.wav").read()


def test_another_archive_is_another_clip(pack: Callable[..., Path], tmp_path: Path) -> None:
    pack("mp3")
    before = repr(open_tree(tmp_path, "mp3").audio("1/b.wav"))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("1/b.wav", b"something else")
        archive.writestr("2/b.wav", b"something else")
    after = repr(open_tree(tmp_path, "other").audio("1/b.wav"))
    assert before.replace("mp3.zip", "other.zip") != after


def test_what_is_no_whole_zip_is_named(pack: Callable[..., Path], tmp_path: Path) -> None:
    path = pack("mp3")
    cut(path, 4)
    (tmp_path / "mp3.zip.002").unlink()
    with pytest.raises(UserError, match=r"mp3\.zip\.002: this part of the archive is missing"):
        find_tree(tmp_path, "mp3")
    (tmp_path / "mp3.zip.003").unlink()
    (tmp_path / "mp3.zip.004").unlink()
    with pytest.raises(UserError, match=r"mp3\.zip\.001: no whole zip"):
        open_tree(tmp_path, "mp3").paths()
    (tmp_path / "html.zip").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"html\.zip: no whole zip"):
        open_tree(tmp_path, "html").paths()


def test_what_is_missing_is_named_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of genres/, genres\.zip is there"):
        open_tree(tmp_path, "genres")
    (tmp_path / "genres.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"genres\.tar\.gz: a compressed tar cannot be read in place; unpack it"):
        open_tree(tmp_path, "genres")


def test_a_tar_is_unpacked_and_nothing_leaves_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    archive = tmp_path / "good.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("genres/blues/blues.00000.wav")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"RIFF"))
    unpack(archive, root)
    assert (root / "genres/blues/blues.00000.wav").read_bytes() == b"RIFF"
    assert [path.name for path in root.iterdir()] == ["genres"]
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        info = tarfile.TarInfo("../evil.txt")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    with pytest.raises(UserError, match=r"evil\.tar: cannot be unpacked"):
        unpack(tmp_path / "evil.tar", root)
    (tmp_path / "cut.tar.gz").write_bytes(archive.read_bytes()[:60])
    with pytest.raises(UserError, match=r"cut\.tar\.gz: cannot be unpacked"):
        unpack(tmp_path / "cut.tar.gz", root)
    assert not (tmp_path / "evil.txt").exists()
    assert [path.name for path in root.iterdir()] == ["genres"]


def test_hidden_files_and_those_of_a_mac_are_no_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "voices.zip", "w") as archive:
        for name in ("FULL/a.wav", "FULL/.DS_Store", "__MACOSX/FULL/._a.wav"):
            archive.writestr(name, b"x")
    assert ZipTree((str(tmp_path / "voices.zip"),)).paths() == ["a.wav"]
