"""Faults 1–8, 10–17: what can be wrong with the files of a set is refused when it is indexed, or found by verify."""

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_shards.build.index_writer import index_shards
from data_shards.format.entries import scan_shard
from data_shards.format.index import id_hash, read_index
from data_shards.format.index_file import manifest_hash
from data_shards.format.problems import ShardError
from data_shards.inspect.verify import verify
from data_shards.read import stores
from data_shards.read.reader import ShardSet

MakeSet = Callable[..., Path]


def flip(path: Path, byte: int, mask: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        (value,) = file.read(1)
        file.seek(byte)
        file.write(bytes([value ^ mask]))


def member_starts(path: Path) -> list[int]:
    with tarfile.open(path) as tar:
        return [member.offset for member in tar]


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for info, payload in members:
            tar.addfile(info, io.BytesIO(payload))
    return path


def plain(name: str, payload: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(payload)
    return info, payload


# --- 1, 2, 3: a shard that is cut ---


def test_a_cut_anywhere_is_refused_and_named(make_set: MakeSet, tmp_path: Path) -> None:
    folder = make_set(count=4)
    shard = folder / "shard-00000.tar"
    whole = shard.read_bytes()
    starts = member_starts(shard)
    data_end = starts[-1] + 512 + -(-(6_000 * 2 + 44) // 512) * 512
    inside_payload = [start + 512 + 100 for start in starts]
    inside_header = [start + 200 for start in starts]
    for cut in [*starts, *inside_header, *inside_payload, data_end, data_end + 512]:
        shard.write_bytes(whole[:cut])
        with pytest.raises(ShardError, match=r"shard-00000\.tar.*byte"):
            scan_shard(shard)
        with pytest.raises(ShardError, match="shard-00000"):
            ShardSet.open(folder)
        problems = verify(folder)
        lost = {problem.key for problem in problems if problem.key}
        index = read_index(folder)
        reaches = index.offset + index.size
        assert {str(key) for key, end in zip(index.key, reaches, strict=True) if end > cut} <= lost
        assert not {str(key) for key, end in zip(index.key, reaches, strict=True) if end + 1024 < cut} & lost


def test_indexing_a_cut_shard_writes_nothing(make_set: MakeSet, tmp_path: Path) -> None:
    folder = make_set(count=4)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    whole = (folder / "shard-00000.tar").read_bytes()
    (foreign / "a.tar").write_bytes(whole[: member_starts(folder / "shard-00000.tar")[4]])
    with pytest.raises(ShardError, match=r"a\.tar.*cut between two members"):
        index_shards(foreign)
    assert [path.name for path in foreign.iterdir()] == ["a.tar"]


# --- 4, 5: headers ---


def test_every_flipped_byte_of_every_header_is_found(make_set: MakeSet) -> None:
    folder = make_set(count=2, frames=2_205)
    shard = folder / "shard-00000.tar"
    for start in member_starts(shard):
        for byte in range(start, start + 512):
            flip(shard, byte, 0x10)
            with pytest.raises(ShardError) as caught:
                scan_shard(shard)
            assert caught.value.problem.byte == start
            flip(shard, byte, 0x10)
    scan_shard(shard)


def test_after_a_damaged_header_only_what_is_damaged_is_named(make_set: MakeSet) -> None:
    folder = make_set(count=4)
    flip(folder / "shard-00000.tar", member_starts(folder / "shard-00000.tar")[2] + 3)
    (problem,) = verify(folder)
    assert problem.shard == "shard-00000.tar"
    assert problem.byte == member_starts_of_index(folder)[2]


def member_starts_of_index(folder: Path) -> list[int]:
    index = read_index(folder)
    return sorted([*(index.label_offset - 512).tolist(), *(index.offset - 512).tolist()])


def test_a_hole_of_zeros_is_found_whatever_follows_it(make_set: MakeSet) -> None:
    folder = make_set(count=4)
    shard = folder / "shard-00000.tar"
    whole, start = shard.read_bytes(), member_starts(shard)[2]
    shard.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
    with pytest.raises(ShardError, match="hole of zeros"):
        scan_shard(shard)
    shard.write_bytes(whole[:start] + bytes(len(whole) - start))
    with pytest.raises(ShardError, match="a hole: the last"):
        scan_shard(shard)
    assert {problem.key for problem in verify(folder)} >= {"clip-0001", "clip-0002", "clip-0003"}


# --- 6, 18–21: payloads ---


@pytest.mark.parametrize("codec", ["pcm16", "flac"])
def test_every_flipped_bit_of_a_set_is_found_and_named(make_set: MakeSet, codec: str) -> None:
    folder = make_set(count=4, frames=40_000, codec=codec)
    shard, index = folder / "shard-00000.tar", read_index(folder)
    rng = np.random.default_rng(0)
    for byte in rng.integers(0, shard.stat().st_size, 150):
        mask = 1 << int(rng.integers(8))
        flip(shard, int(byte), mask)
        problems = verify(folder)
        assert len(problems) >= 1
        inside = np.flatnonzero((index.offset <= byte) & (byte < index.offset + index.size))
        if len(inside):
            assert {problem.key for problem in problems} == {str(index.key[inside[0]])}
            assert all(problem.byte is not None and 0 <= byte - problem.byte < 65_536 for problem in problems)
        flip(shard, int(byte), mask)
    assert verify(folder) == []


def test_a_flipped_byte_between_the_clips_is_found_and_placed(make_set: MakeSet) -> None:
    folder = make_set(count=2, frames=2_205)
    shard = folder / "shard-00000.tar"
    with tarfile.open(shard) as tar:
        ends = [member.offset_data + member.size for member in tar]
    size = shard.stat().st_size
    for byte in [*ends, ends[-1] + 600, ends[-1] + 1_200, size - 1]:
        flip(shard, byte)
        (problem,) = verify(folder)
        assert problem.shard == "shard-00000.tar"
        assert problem.byte is not None
        assert problem.byte <= byte < problem.byte + 512
        flip(shard, byte)


# --- 7: audio never joins another clip's label ---


def test_a_clip_without_its_audio_never_takes_the_next_shards(make_set: MakeSet, tmp_path: Path) -> None:
    folder = make_set(count=4, per_shard=2)
    first, second = (folder / f"shard-0000{number}.tar" for number in range(2))
    starts = member_starts(first)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    # The first shard ends, cleanly, after the JSON of its last clip; the second begins with a WAV of the same key.
    (foreign / "a.tar").write_bytes(first.read_bytes()[: starts[3]] + bytes(1024))
    with tarfile.open(second) as tar:
        sound = tar.extractfile(tar.getmembers()[1])
        assert sound is not None
        write_tar(foreign / "b.tar", [plain("clip-0001.wav", sound.read())])
    with pytest.raises(
        ShardError, match=r"a\.tar, clip clip-0001.*one \.wav or \.flac and one \.json; here are \.json"
    ):
        index_shards(foreign)
    (foreign / "a.tar").unlink()
    with pytest.raises(ShardError, match=r"b\.tar, clip clip-0001.*here are \.wav"):
        index_shards(foreign)


# --- 8, 16: not a tar ---


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (np.random.default_rng(0).bytes(20_480), "not a tar header"),
        (b"<!DOCTYPE html><html>404</html>" + b" " * 2000, "HTML"),
        (b"\n  <html>" + b" " * 2000, "HTML"),
        (gzip.compress(bytes(1 << 24)), "gzip"),
        (bytes(10_240), "without members"),
        (b"abc", "no tar"),
    ],
    ids=["empty", "random", "html", "html after blanks", "gzip bomb", "only zeros", "tiny"],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ShardError, match=what):
        index_shards(tmp_path)


# --- 10, 11: duplicate keys ---


def test_a_duplicate_key_is_refused_with_both_places(make_set: MakeSet, tmp_path: Path) -> None:
    folder = make_set(count=4, per_shard=2)
    whole = (folder / "shard-00000.tar").read_bytes()
    starts = member_starts(folder / "shard-00000.tar")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    first_clip = whole[: starts[2]]
    (foreign / "a.tar").write_bytes(first_clip + whole[starts[2] : starts[3]] + first_clip + bytes(1024))
    with pytest.raises(ShardError, match=r"here are \.json"):  # a clip torn apart by another
        index_shards(foreign)
    (foreign / "a.tar").write_bytes(whole[: starts[3] + starts[2] - starts[1]] + first_clip + bytes(1024))
    with pytest.raises(
        ShardError,
        match=r"a\.tar, clip clip-0000, byte [\d,]+: duplicate key in this shard, first at byte 1,536",
    ):
        index_shards(foreign)
    shutil.copy(folder / "shard-00000.tar", foreign / "a.tar")
    shutil.copy(folder / "shard-00000.tar", foreign / "b.tar")
    with pytest.raises(ShardError, match=r"b\.tar, clip clip-0000.*duplicate key, also in a\.tar at byte"):
        index_shards(foreign)


# --- 12, 13: index and shards do not belong together ---


def test_an_index_that_was_changed_is_refused(make_set: MakeSet) -> None:
    folder = make_set()
    index_file, manifest_file = folder / "index.arrow", folder / "manifest.json"
    flip(index_file, index_file.stat().st_size // 2)
    with pytest.raises(ShardError, match=r"index\.arrow.*checksum"):
        ShardSet.open(folder)
    assert verify(folder)[0].shard == "index.arrow"
    flip(index_file, index_file.stat().st_size // 2)
    text = manifest_file.read_text()
    manifest_file.write_text(text.replace('"clips": 8', '"clips": 9', 1))
    with pytest.raises(ShardError, match=r"manifest\.json.*hash"):
        ShardSet.open(folder)


@pytest.mark.parametrize("what", ["clips", "shard clips", "shard size"])
def test_a_wrong_count_is_refused_even_with_a_fitting_hash(make_set: MakeSet, what: str) -> None:
    folder = make_set()
    manifest = json.loads((folder / "manifest.json").read_text())
    if what == "clips":
        manifest["clips"] += 1
    else:
        manifest["shards"][0][what.split()[1]] -= 1
    manifest["hash"] = manifest_hash(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"counts of clips|bytes"):
        ShardSet.open(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{", "[" * 100_000, '{"schema_version": 99}'])
def test_a_manifest_that_is_none_is_refused(make_set: MakeSet, text: str) -> None:
    folder = make_set()
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ShardError, match=r"manifest\.json"):
        ShardSet.open(folder)


def test_a_shard_that_was_replaced_after_indexing_is_refused(make_set: MakeSet) -> None:
    folder = make_set()
    other = make_set("other", count=4, frames=6_000)
    index = read_index(folder)
    shutil.copy(other / "shard-00000.tar", folder / "shard-00001.tar")
    assert (folder / "shard-00001.tar").stat().st_size == index.shards[1].size
    with pytest.raises(
        ShardError, match=r"shard-00001\.tar: not the shard that was indexed: \d+ of \d+ probed blocks differ"
    ):
        ShardSet.open(folder)
    assert {problem.shard for problem in verify(folder)} == {"shard-00001.tar"}


def test_of_very_many_shards_some_are_probed_at_once_and_the_others_when_they_are_read(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "MOST_PROBED", 1)
    folder, other = make_set(), make_set("other", count=4, frames=6_000)
    second = folder / "shard-00001.tar"
    whole = second.read_bytes()
    row = int(np.flatnonzero(read_index(folder).shard == 1)[0])
    shutil.copy(other / "shard-00000.tar", second)
    assert second.stat().st_size == len(whole)
    with ShardSet.open(folder) as shards, pytest.raises(ShardError, match=r"shard-00001\.tar: not the shard.*probed"):
        shards.read_window(row, 0, 100)
    second.write_bytes(whole[:-512])
    with pytest.raises(
        ShardError, match=r"shard-00001\.tar: not the shard that was indexed: [\d,]+ bytes, [\d,]+ were"
    ):
        ShardSet.open(folder)
    second.unlink()
    with pytest.raises(ShardError, match=r"shard-00001\.tar: No such file"):
        ShardSet.open(folder)


def test_a_missing_and_a_foreign_shard_are_named(make_set: MakeSet) -> None:
    folder = make_set()
    (folder / "shard-00001.tar").rename(folder / "stranger.tar")
    with pytest.raises(ShardError, match=r"shard-00001\.tar: No such file"):
        ShardSet.open(folder)
    assert [problem.shard for problem in verify(folder)] == ["stranger.tar", "shard-00001.tar"]


# --- 14, 15, 17: hostile headers ---


@pytest.mark.parametrize(
    "name",
    ["../evil.wav", "a/../../evil.wav", "/etc/evil.wav", "new\nline.wav", "a\\b.wav", "././a.wav", "./../a.wav",
     "a//b.wav",
     "noextension", ".wav", "a\x1b[2J.wav", "bell\a.json"],
)  # fmt: skip
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_member_name_that_is_no_key_is_refused(tmp_path: Path, name: str, form: int) -> None:
    write_tar(tmp_path / "a.tar", [plain(name, b"x")], form)
    with pytest.raises(ShardError, match=r"not of the form KEY\.EXTENSION"):
        scan_shard(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE],
    ids=["symbolic link", "hard link", "device", "pipe", "folder with a target", "sparse"],
)
def test_anything_but_a_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("a.wav")
    info.type, info.linkname = kind, "/etc/passwd"
    write_tar(tmp_path / "a.tar", [(info, b"")])
    with pytest.raises(ShardError, match="shards hold plain files"):
        scan_shard(tmp_path / "a.tar")


def test_a_pax_sparse_file_is_refused(tmp_path: Path) -> None:
    info, payload = plain("a.wav", b"x" * 512)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 31)}
    write_tar(tmp_path / "a.tar", [(info, payload)], tarfile.PAX_FORMAT)
    with pytest.raises(ShardError, match="extended header"):
        scan_shard(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "size",
    [b"-0000000001\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0", b"            ", b"0x00000010\0\0"],
)
@pytest.mark.timeout(5)
def test_a_negative_or_absurd_size_is_refused_at_once(tmp_path: Path, size: bytes) -> None:
    write_tar(tmp_path / "a.tar", [plain("a.wav", b"x")])
    whole = bytearray((tmp_path / "a.tar").read_bytes())
    whole[124:136] = size
    whole[148:156] = b"%06o\0 " % (sum(whole[:148]) + sum(whole[156:512]) + 8 * 32)
    (tmp_path / "a.tar").write_bytes(whole)
    with pytest.raises(ShardError, match=r"size|promises"):
        scan_shard(tmp_path / "a.tar")


def test_ids_are_positive_and_stable() -> None:
    assert id_hash("clip-0000") == 7_393_391_660_781_700_789
    assert all(0 <= id_hash(str(number)) < 1 << 63 for number in range(1_000))
