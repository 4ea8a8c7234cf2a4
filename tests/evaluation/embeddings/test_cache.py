"""An evaluation embeds the clips that its tasks read, once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from data_shards.read.reader import ShardSet
from evaluation.config import Chunking, EvaluationConfig, Task
from evaluation.embeddings.cache import embed_or_load, rows_read
from evaluation.encoders.encoder import SUBJECT
from evaluation.encoders.pool import Pool
from evaluation.inputs import EvaluationInputs
from evaluation.runnable import read_targets

MakeShards = Callable[..., Path]
RETRIEVAL: dict[str, Any] = {"key": Task(column="key", kind="key", retrieval=True)}
PROBE: dict[str, Any] = {"tags": Task(column="tags", kind="tags", probe=True)}


class Levels:
    """Embeds a chunk by its mean; counts the chunks that it embedded."""

    width, rate, samples = 2, 22_050, 1_000

    def __init__(self, hash: str = "levels") -> None:
        self.hash, self.seen = hash, 0

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        self.seen += len(wave_NT)
        return wave_NT.mean(1)[:, None].repeat(1, 2)


def inputs(shards: ShardSet, tasks: dict[str, Any], *encoders: Levels, **settings: Any) -> EvaluationInputs:
    config = EvaluationConfig(tasks=tasks, chunking=Chunking(**settings))
    named = {SUBJECT if not place else f"other{place}": encoder for place, encoder in enumerate(encoders)}
    return EvaluationInputs(shards, Pool(named), read_targets(shards.index, config)[0], config)


@pytest.mark.parametrize("aggregate", ["embeddings", "probabilities"])
def test_only_clips_that_a_task_reads_are_embedded_and_each_once(
    make_shards: MakeShards, tmp_path: Path, aggregate: str
) -> None:
    encoder = Levels()
    with ShardSet.open(make_shards(36)) as shards:
        asked = inputs(shards, RETRIEVAL, encoder, aggregate=aggregate)
        test_rows = np.array([row for row, split in enumerate(shards.index.split) if split == "test"])
        np.testing.assert_array_equal(rows_read(asked), test_rows)
        few = embed_or_load(asked, tmp_path)[SUBJECT]
        assert encoder.seen == 3 * len(test_rows)
        assert set(np.flatnonzero(few.counts_K)) == set(test_rows)
        assert np.isnan(np.delete(few.h_KE, test_rows, 0)).all()

        asked = inputs(shards, RETRIEVAL | PROBE, encoder, aggregate=aggregate)
        every = embed_or_load(asked, tmp_path)[SUBJECT]
        assert encoder.seen == 3 * 36
        whole = embed_or_load(inputs(shards, PROBE, other := Levels(), aggregate=aggregate), tmp_path / "other")
        np.testing.assert_array_equal(every.h_KE, whole[SUBJECT].h_KE)
        np.testing.assert_array_equal(every.chunks_PE, whole[SUBJECT].chunks_PE)
        np.testing.assert_array_equal(every.counts_K, whole[SUBJECT].counts_K)
        assert every.keys == tuple(shards.index.key)
        assert other.seen == 3 * 36

        again = embed_or_load(asked, tmp_path)[SUBJECT]
        np.testing.assert_array_equal(again.h_KE, every.h_KE)
        np.testing.assert_array_equal(
            embed_or_load(inputs(shards, RETRIEVAL, encoder, aggregate=aggregate), tmp_path)[SUBJECT].h_KE, every.h_KE
        )
        assert encoder.seen == 3 * 36


def test_an_encoder_that_comes_later_embeds_for_itself_alone(make_shards: MakeShards, tmp_path: Path) -> None:
    first, second = Levels("first"), Levels("second")
    with ShardSet.open(make_shards(24)) as shards:
        embed_or_load(inputs(shards, RETRIEVAL, first), tmp_path)
        tables = embed_or_load(inputs(shards, RETRIEVAL, first, second), tmp_path)
    assert first.seen == second.seen > 0
    np.testing.assert_array_equal(tables[SUBJECT].h_KE, tables["other1"].h_KE)
