"""The table of clips for other programs says of every clip what the index says, in texts."""

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from data_shards.build import clip_table
from data_shards.build.build import BuildConfig, build
from data_shards.build.index_writer import index_shards
from data_shards.format.index import read_index
from data_shards.format.index_file import TEXTS
from data_shards.format.paths import INDEX_NAME, MANIFEST_NAME, PARQUET_NAME
from data_shards.format.records import Clip

RATE = 22_050


class Noise:
    """A tenth of a second."""

    name = "noise"

    def read(self) -> tuple[NDArray[np.float32], int]:
        """The samples."""
        return (np.random.default_rng(0).standard_normal(RATE // 10) / 10).astype(np.float32), RATE


def clips() -> list[Clip]:
    """Every kind of label, known and unknown, texts of other scripts."""
    tags = [("calm",), (), ("dark", "calm"), ("dark",), (), ("fast", "calm"), ("fast",)]
    return [
        Clip(
            key=f"k{number}",
            audio=Noise(),
            track=f"曲 {number}",
            artist=None if number % 2 else "Ana",
            split=("train", "valid", "test")[number % 3],
            multilabel={"tags": own} if own else {},
            categorical={"key": "C major"} if number % 3 else {},
            numeric={"bpm": 60.5 + number} if number % 4 else {},
            captions=(f"slow {number}", "piano") if number == 2 else (),
        )
        for number, own in enumerate(tags)
    ]


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 100])
def test_each_row_is_what_the_index_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(clip_table, "ROWS_AT_ONCE", rows_at_once)
    build(clips(), tmp_path / "set", BuildConfig(clips_per_shard=3, workers=1, shortest_s=0.05))
    index = read_index(tmp_path / "set")
    rows = pyarrow.parquet.read_table(tmp_path / "set" / PARQUET_NAME).to_pylist()
    assert len(rows) == len(index) == 7
    for at, row in enumerate(rows):
        for name in (*TEXTS, *clip_table.NUMBERS):
            assert row[name] == getattr(index, name)[at]
        labels = index.labels_of(at)
        assert tuple(sorted(row["multilabel.tags"])) == labels.get("multilabel.tags", ())
        assert row["categorical.key"] == labels.get("categorical.key")
        bpm = labels.get("numeric.bpm", np.nan)
        np.testing.assert_array_equal(row["numeric.bpm"], bpm)
        assert tuple(row["captions"]) == index.captions[at]


def test_it_is_no_part_of_the_set_which_reads_without_it_and_can_be_indexed_again(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    build(clips(), folder, BuildConfig(clips_per_shard=3, workers=1, shortest_s=0.05))
    before, table = read_index(folder).manifest_hash, (folder / PARQUET_NAME).read_bytes()
    (folder / PARQUET_NAME).unlink()
    assert read_index(folder).manifest_hash == before
    for name in (INDEX_NAME, MANIFEST_NAME):
        (folder / name).unlink()
    index_shards(folder)
    assert (folder / PARQUET_NAME).read_bytes() == table
