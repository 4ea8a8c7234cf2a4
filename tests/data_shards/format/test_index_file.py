"""Laws of the mapped index: the columns are the entries', nothing damaged is used, and memory stays shared."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.files.mapped import BLOCK_BYTES, MappedFile, checksums
from data_shards.build.index_writer import write_index
from data_shards.format.columns import TextColumn, TextLists
from data_shards.format.entries import Entry
from data_shards.format.index import ShardIndex, id_hash, read_index
from data_shards.format.index_file import INTEGERS, MappedColumns
from data_shards.format.problems import ShardError
from data_shards.format.shard_file import ShardFile

TAGS = ("a", "b", "c", "ü")


def entries_of(count: int, *, shard: int = 0, captions: bool = True, seed: int = 0) -> list[Entry]:
    """Clips that no audio belongs to; columns of labels begin with later clips."""
    rng = np.random.default_rng([seed, shard])
    return [
        Entry(
            key=f"clip-{shard}-{row}",
            shard=f"shard-{shard:05d}.tar",
            offset=1_000 * row,
            size=900 + row,
            frames=400,
            rate=22_050,
            codec="pcm16" if row % 3 else "flac",
            pcm_offset=44,
            crc=(int(rng.integers(2**32)),),
            label_offset=1_000 * row,
            label_size=row,
            label_crc=int(rng.integers(2**32)),
            track=f"tråck {row // 2}",
            artist=None if row % 5 == 0 else f"artist {row % 7}",
            split=("train", "valid", "test")[row % 3],
            licence=None if row % 2 else "CC0",
            multilabel={"tags": tuple(sorted(set(rng.choice(TAGS, rng.integers(3)).tolist())))} if row > 3 else {},
            categorical={"key": ("C", "D", None)[row % 3]} if row > 1 else {},
            numeric={"bpm": 60.0 + row} if row > 2 else {},
            captions=tuple(f"text {row} {number} “é”" for number in range(row % 3)) if captions else (),
        )
        for row in range(count)
    ]


def made(folder: Path, sizes: Sequence[int] = (20, 11), **kwargs: Any) -> tuple[ShardIndex, list[Entry]]:
    """A set without shards, and its entries."""
    parts = [entries_of(count, shard=number, **kwargs) for number, count in enumerate(sizes)]
    write_index(folder, ((described(part), part) for part in parts))
    return read_index(folder), [entry for part in parts for entry in part]


def described(entries: Sequence[Entry]) -> ShardFile:
    return ShardFile(name=entries[0].shard, size=10**9, clips=len(entries), sha256="0" * 64, probes=tuple(range(16)))


def test_every_column_is_what_the_entries_say(tmp_path: Path) -> None:
    index, entries = made(tmp_path)
    for row, entry in enumerate(entries):
        for name in ("key", "codec", "track", "artist", "split", "licence", "captions"):
            assert getattr(index, name)[row] == getattr(entry, name)
        for name in INTEGERS.keys() - {"shard", "id_hash"}:
            assert getattr(index, name)[row] == getattr(entry, name)
        assert index.id_hash[row] == id_hash(entry.key)
        assert index.shards[index.shard[row]].name == entry.shard
        assert tuple(index.crc[index.crc_end[row] : index.crc_end[row + 1]].tolist()) == entry.crc
        known: dict[str, Any] = {f"multilabel.{column}": tags for column, tags in entry.multilabel.items() if tags}
        known |= {f"categorical.{column}": value for column, value in entry.categorical.items() if value}
        assert index.labels_of(row) == {**known, **{f"numeric.{name}": value for name, value in entry.numeric.items()}}
    assert index.vocabularies == {"tags": TAGS}
    assert index.captions == tuple(entry.captions for entry in entries)


def test_columns_of_numbers_are_the_mapped_file_and_no_copy(tmp_path: Path) -> None:
    index, _ = made(tmp_path)
    assert isinstance(index.columns, MappedColumns)
    whole = index.columns._file.buffer
    for name in (*INTEGERS, "id_order", "crc", "crc_end", "categorical.key", "numeric.bpm"):
        array = index.columns[name]
        assert whole.address <= array.__array_interface__["data"][0] < whole.address + whole.size
        assert not array.flags.writeable


def test_labels_of_some_rows_are_rows_of_all_labels(tmp_path: Path) -> None:
    index, _ = made(tmp_path)
    rows = np.random.default_rng(0).integers(0, len(index), 50)
    for column in ("tags", "key"):
        np.testing.assert_array_equal(index.labels(column, rows), index.labels(column)[rows])
        np.testing.assert_array_equal(index.is_labelled(column), index.labels(column).any(axis=1))
    assert index.labels("tags", np.zeros(0, np.int64)).shape == (0, 4)


def test_a_clip_is_found_by_its_id_and_a_foreign_id_is_not(tmp_path: Path) -> None:
    index, _ = made(tmp_path)
    rows = np.random.default_rng(0).permutation(len(index))
    np.testing.assert_array_equal(index.rows_of(index.id_hash[rows]), rows)
    assert index.rows_of(np.array([id_hash("stranger"), index.id_hash[3], 2**63 - 1])).tolist() == [-1, 3, -1]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.large_string())])
def test_a_text_column_is_a_sequence_of_its_texts(kind: Any) -> None:
    texts = ["b", None, "", "ü", "b", "train"]
    column = TextColumn(pa.array(texts).cast(kind))
    assert list(column) == texts
    assert column == texts
    assert [column[row] for row in range(-6, 6)] == texts + texts
    assert column[np.array([3, 0])].tolist() == ["ü", "b"]
    assert column[np.array([True, False, False, True, False, False])].tolist() == ["b", "ü"]
    assert column[1:4].tolist() == texts[1:4]
    assert column[::-2].tolist() == texts[::-2]
    assert (column == "b").tolist() == [True, False, False, False, True, False]
    assert not (column == "nothing").any()
    assert (column != "b").tolist() == [False, True, True, True, False, True]
    assert column.counts() == {"": 1, "b": 2, "train": 1, "ü": 1, None: 1}
    codes = column.codes()
    assert codes[0] == codes[4] != codes[2]
    assert codes[1] == -1
    assert np.asarray(column[[0, 3]], np.str_).tolist() == ["b", "ü"]
    with pytest.raises(IndexError):
        column[6]


def test_lists_of_texts_are_a_sequence_of_tuples() -> None:
    lists = (("a", "b"), (), ("ü",))
    column = TextLists.of(lists)
    assert column == lists
    assert column[0:2] == lists[0:2]
    assert column[-1] == ("ü",)
    assert column.num_texts == 3
    assert TextLists(None, 3) == ((), (), ())
    assert column != (("a", "b"), (), ("u",))
    with pytest.raises(IndexError):
        column[3]


# --- damage ---


def test_no_flipped_byte_of_a_large_table_is_ever_used(tmp_path: Path) -> None:
    """Columns fill several blocks: whatever a reader gets is right, or it gets an error that says what to do."""
    count = 12_000
    long = [replace(entry, track=entry.track + "x" * 200) for entry in entries_of(count)]
    write_index(tmp_path, [(described(long), long)])
    path = tmp_path / "index.arrow"
    size = path.stat().st_size
    assert size > 3 * BLOCK_BYTES
    index = read_index(tmp_path)
    assert isinstance(index.columns, MappedColumns)
    assert index.columns._file._checked.sum() < -(-size // BLOCK_BYTES)  # texts wait until they are read
    rng, refused = np.random.default_rng(0), 0
    whole = path.read_bytes()
    for byte in rng.integers(0, size, 25).tolist():
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            index = read_index(tmp_path)
            for row in rng.integers(0, count, 40).tolist():
                assert index.track[row] == long[row].track
                assert index.key[row] == long[row].key
            assert (index.split == "train").sum() == 4_000
            list(index.track), list(index.key), list(index.licence), list(index.artist), list(index.captions)
            assert all(len(column) for column in (index.crc, index.label_crc, index.labels("tags")))
            assert index.columns["numeric.bpm"] is not None
        except ShardError as error:
            refused += "index.arrow" in str(error) and "build or index the set again" in str(error)
        with pytest.raises(ShardError, match=r"index\.arrow.*checksum"):
            read_index(tmp_path, every_block=True)
    assert refused >= 20


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -1_000])
def test_a_torn_table_is_refused(tmp_path: Path, cut: int) -> None:
    made(tmp_path)
    path = tmp_path / "index.arrow"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ShardError, match=r"index\.arrow: cannot be read: [\d,]+ bytes, [\d,]+ were written.*index the"):
        read_index(tmp_path)


def test_an_index_of_another_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    made(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["index"]["version"] = 3
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"version 3 of the index, this program reads 1 and 2; .*shards index FOLDER"):
        read_index(tmp_path)


def test_a_table_that_is_gone_is_named(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "index.arrow").unlink()
    with pytest.raises(ShardError, match=r"no index\.arrow there"):
        read_index(tmp_path)


def test_ids_that_are_not_unique_are_refused_even_with_fitting_checksums(tmp_path: Path) -> None:
    made(tmp_path)
    with pa.memory_map(str(tmp_path / "index.arrow")) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
        ids = batch["id_hash"].to_numpy().copy()
        ids[4] = ids[9]
        place = batch.schema.get_field_index("id_hash")
        changed = batch.set_column(place, "id_hash", pa.array(ids))
        with pa.OSFile(str(tmp_path / "new"), "wb") as sink, pa.ipc.new_file(sink, changed.schema) as writer:
            writer.write_batch(changed)
    (tmp_path / "new").replace(tmp_path / "index.arrow")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    size, sha256, crc = checksums(tmp_path / "index.arrow")
    manifest["index"] |= {"bytes": size, "sha256": sha256, "crc": crc}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="a duplicate clip"):
        read_index(tmp_path)


def test_a_duplicate_key_is_named_with_both_places_wherever_they_stand(tmp_path: Path) -> None:
    first, second = entries_of(20), entries_of(11, shard=1)
    second[7] = replace(second[7], key=first[12].key)
    with pytest.raises(
        ShardError,
        match=r"shard-00001\.tar, clip clip-0-12, byte 7,000: duplicate key, also in shard-00000\.tar at byte 12,000",
    ):
        write_index(tmp_path, [(described(first), first), (described(second), second)])
    assert list(tmp_path.iterdir()) == []


def test_the_same_entries_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made(tmp_path / name)
    assert (tmp_path / "one/index.arrow").read_bytes() == (tmp_path / "two/index.arrow").read_bytes()


def test_a_mapped_file_outlives_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (BLOCK_BYTES + 7))
    size, _, crc = checksums(path)
    mapped = MappedFile(path, crc, size)
    path.unlink()
    mapped.check(0, size)
    assert mapped._checked.sum() == 2
    assert bytes(mapped.buffer) == b"x" * size
