"""A set that release 0.1 (commit 7657548) built opens, verifies and reads, and its input still gives the same bytes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
from numpy.typing import NDArray

from cluster.settings import ROOT, UserError
from commands.shards import index
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.format.index_file import MappedColumns
from data_shards.inspect.verify import verify
from data_shards.read.reader import ShardSet
from data_shards.sources.folder import read_folder

OLD = ROOT / "tests/golden/shards_0_1"
SPLITS = ("train", "train", "valid", "test")


def tone(number: int) -> NDArray[np.int16]:
    """The samples of the clip that 0.1 was given."""
    time = np.arange(4_000) / 22_050
    return np.round(3_000 * np.sin(2 * np.pi * (220 + 55 * number) * time)).astype(np.int16)


def test_it_opens_verifies_and_gives_its_samples_and_labels() -> None:
    assert verify(OLD) == []
    with ShardSet.open(OLD) as shards:
        clips = shards.index
        assert clips.manifest["schema_version"] == 1
        assert list(clips.split) == list(SPLITS)
        assert clips.vocabularies == {"tags": ("calm", "dark")}
        assert clips.labels("tags").tolist() == [[False, False], [True, True]] * 2
        assert clips.target("bpm").tolist() == pytest.approx([np.nan, 61.5, 62.5, 63.5], nan_ok=True)
        for row in range(4):
            wave_T = np.zeros(4_000, np.int16)
            shards.read_into(row, 0, wave_T)
            np.testing.assert_array_equal(wave_T, tone(row))


def test_its_index_is_converted_with_every_column_and_the_same_hash(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "set")
    index(tmp_path / "set", as_json=True)
    clips = pyarrow.parquet.read_table(tmp_path / "set/index.parquet")  # for other programs, with names of tags
    assert clips["multilabel.tags"].to_pylist() == [[], ["calm", "dark"]] * 2
    old, new = read_index(OLD), read_index(tmp_path / "set", every_block=True)
    assert isinstance(new.columns, MappedColumns)
    assert new.manifest_hash == old.manifest_hash
    for name in old.columns:
        one, other = (
            [*map(np.asarray, c)] if isinstance(c, tuple) else [c] for c in (old.columns[name], new.columns[name])
        )
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)
    assert verify(tmp_path / "set") == []
    with pytest.raises(UserError, match="has an index"):
        index(tmp_path / "set")


def test_a_conversion_that_is_killed_before_its_manifest_leaves_the_old_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(OLD, tmp_path / "set")
    monkeypatch.setattr("data_shards.build.index_writer.write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path / "set")
    assert read_index(tmp_path / "set").manifest_hash == read_index(OLD).manifest_hash
    monkeypatch.undo()
    index(tmp_path / "set")
    assert (tmp_path / "set/index.arrow").exists()
    assert read_index(tmp_path / "set").manifest_hash == read_index(OLD).manifest_hash


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_same_input_still_gives_the_same_shards(tmp_path: Path) -> None:
    rows = ["path,split,track_id,artist,licence,tags,key,bpm"]
    for number, split in enumerate(SPLITS):
        soundfile.write(tmp_path / f"{number}.wav", tone(number), 22_050)
        tags, key, bpm = ("calm|dark" if number % 2 else ""), ("C minor" if number < 3 else ""), 60.5 + number
        rows.append(f"{number}.wav,{split},t{number},A{number},CC0,{tags},{key},{bpm if number else ''}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    clips = read_folder(tmp_path, tmp_path / "labels.csv").clips
    build(clips, tmp_path / "set", BuildConfig(workers=1, clips_per_shard=2))
    new, old = (json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "set", OLD))
    assert new.keys() == old.keys()
    assert [shard["sha256"] for shard in new["shards"]] == [shard["sha256"] for shard in old["shards"]]
