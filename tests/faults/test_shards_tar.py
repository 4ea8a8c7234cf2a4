"""Tars as real programs write them are indexed; what no shard may hold is refused in every form (FAULTS 14, 15)."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_shards.build.index_writer import index_shards
from data_shards.format.entries import scan_shard
from data_shards.format.problems import ShardError
from data_shards.inspect.verify import verify
from data_shards.read.reader import ShardSet

TAR = shutil.which("tar")
FORMS = {"gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT}
KEYS = ["a", "b", "sub/" + "long" * 20, "sub/" + "longer" * 25, "sub/\u00e9"]
RATE = 22_050


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of clips with names of up to 154 characters."""
    folder = tmp_path / "train"
    (folder / "sub").mkdir(parents=True)
    for number, key in enumerate(KEYS):
        soundfile.write(folder / f"{key}.wav", np.full(3_000, 0.1 * number, np.float32), RATE)
        (folder / f"{key}.json").write_text(f'{{"track": "{number}"}}')
    return folder


def keys_of(folder: Path, form: str) -> list[str]:
    """What a form has room for: in ustar a name's last part has 100 bytes."""
    return [key for key in KEYS if form != "ustar" or len(key) < 100]


def check(shards: Path, prefix: str, keys: list[str]) -> None:
    index_shards(shards)
    assert verify(shards) == []
    with ShardSet.open(shards) as found:
        assert sorted(map(str, found.index.key)) == sorted(prefix + key for key in keys)
        for row, key in enumerate(found.index.key):
            level = KEYS.index(str(key).removeprefix(prefix)) * 0.1
            np.testing.assert_allclose(found.read_window(row, 0, 3_000) / 32_768, level, atol=1e-4)


@pytest.mark.skipif(TAR is None, reason="tar is not installed")
@pytest.mark.parametrize("form", ["gnu", "oldgnu", "ustar", "pax"])
@pytest.mark.parametrize(
    ("words", "prefix"), [(["train"], "train/"), (["./train"], "train/"), (["-C", "train", "."], "")]
)
def test_what_tar_writes_of_a_folder_is_indexed(
    clips: Path, tmp_path: Path, form: str, words: list[str], prefix: str
) -> None:
    assert TAR
    if form == "ustar":
        for file in clips.glob("sub/longer*"):
            file.unlink()
    (tmp_path / "shards").mkdir()
    command = [TAR, f"--format={form}", "--sort=name", "-cf", str(tmp_path / "shards/a.tar"), *words]
    subprocess.run(command, check=True, cwd=tmp_path)
    check(tmp_path / "shards", prefix, keys_of(clips, form))


@pytest.mark.parametrize("form", FORMS)
def test_what_python_writes_of_a_folder_is_indexed(clips: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/a.tar", "w", format=FORMS[form]) as tar:
        tar.add(clips, "train", recursive=False)
        for key in keys_of(clips, form):
            for suffix in ("json", "wav"):
                tar.add(clips / f"{key}.{suffix}", f"train/{key}.{suffix}")
    check(tmp_path / "shards", "train/", keys_of(clips, form))


def tar_of(
    place: Path, info: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT, headers: dict[str, str] | None = None
) -> Path:
    with tarfile.open(place, "w", format=form, pax_headers=headers or {}) as tar:
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return place


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


@pytest.mark.parametrize("name", ["..", "../x", "a/../b", "/etc", "a//b", "./../x", "a\\b", "new\nline", "x" * 300])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_a_folder_that_lies_outside_is_refused(tmp_path: Path, name: str, form: int) -> None:
    with pytest.raises(ShardError, match="is not of the form FOLDER/"):
        scan_shard(tar_of(tmp_path / "a.tar", entry(name, tarfile.DIRTYPE), form=form))


@pytest.mark.parametrize("name", ["../" + "x" * 150 + ".wav", "/" + "x" * 150 + ".wav", "x" * 300 + ".wav"])
def test_a_long_name_that_is_no_key_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShardError, match=r"not of the form KEY\.EXTENSION"):
        scan_shard(tar_of(tmp_path / "a.tar", entry(name), form=tarfile.GNU_FORMAT))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
@pytest.mark.parametrize("target", ["b.wav", "t" * 150], ids=["short", "long"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_a_link_is_refused_whatever_its_length(tmp_path: Path, kind: bytes, target: str, form: int) -> None:
    with pytest.raises(ShardError, match=r"shards hold plain files|sets b'linkpath'"):
        scan_shard(tar_of(tmp_path / "a.tar", entry("a.wav", kind, target=target), form=form))


def test_a_folder_with_content_is_refused(tmp_path: Path) -> None:
    content = bytearray(tar_of(tmp_path / "a.tar", entry("a", size=10)).read_bytes())
    content[156:157] = tarfile.DIRTYPE
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + sum(content[156:512]) + 8 * 32)
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ShardError, match="a folder of 10 bytes"):
        scan_shard(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("headers", "message"),
    [({"path": "../x"}, "global header that sets b'path'"), ({"size": "1"}, "sets b'size'"),
     ({"linkpath": "x"}, "sets b'linkpath'"), ({"GNU.sparse.map": "0,1"}, "sets b'GNU.sparse.map'")],
)  # fmt: skip
def test_a_header_that_changes_what_follows_is_refused(tmp_path: Path, headers: dict[str, str], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        scan_shard(tar_of(tmp_path / "a.tar", entry("a.wav"), headers=headers))


def test_headers_of_owners_and_attributes_pass(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    extra = {"comment": "0123abc", "SCHILY.xattr.user.mime_type": "audio/x-wav", "LIBARCHIVE.creationtime": "1.5"}
    with tarfile.open(tmp_path / "shards/a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers=extra) as tar:
        for key in KEYS:
            for suffix in ("json", "wav"):
                info = tar.gettarinfo(clips / f"{key}.{suffix}", f"{key}.{suffix}")
                info.uid, info.uname, info.pax_headers = 1 << 30, "J\u00f6rg", extra
                with (clips / f"{key}.{suffix}").open("rb") as file:
                    tar.addfile(info, file)
    check(tmp_path / "shards", "", KEYS)
