from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.settings import RunError, UserError
from data_shards.read.reader import ShardSet
from evaluation.config import Chunking, EvaluationConfig
from evaluation.embeddings.cache import load_table, save_table, table_path
from evaluation.embeddings.embed import chunk_spans, embed_shards, make_chunk, run_encoder

MakeShards = Callable[..., Path]


class Sounds:
    """Embeds a chunk by its mean, its peak and its last sample."""

    width, rate, samples, hash = 3, 22_050, 1_000, "sounds"

    def __init__(self, nan_at: int | None = None) -> None:
        self.seen, self.nan_at = 0, nan_at

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        h_NE = torch.stack([wave_NT.mean(1), wave_NT.amax(1), wave_NT[:, -1]], 1)
        if self.nan_at is not None and self.seen <= self.nan_at < self.seen + len(h_NE):
            h_NE[self.nan_at - self.seen] = torch.nan
        self.seen += len(h_NE)
        return h_NE


@pytest.mark.parametrize(
    ("frames", "spans"),
    [
        (1, [(0, 1)]),
        (999, [(0, 999)]),
        (1000, [(0, 1000)]),
        (1499, [(0, 1000)]),
        (1500, [(0, 1000), (1000, 500)]),
        (3000, [(0, 1000), (1000, 1000), (2000, 1000)]),
    ],
)
def test_a_tail_counts_when_at_least_half_of_it_is_there(frames: int, spans: list[tuple[int, int]]) -> None:
    assert chunk_spans(frames, 1000, 0.5) == spans


def test_a_tail_has_zeros_behind_and_a_short_clip_is_repeated() -> None:
    wave = np.arange(1, 6, dtype=np.float32)
    assert make_chunk(wave, (3, 2), 4, alone=False).tolist() == [4, 5, 0, 0]
    assert make_chunk(wave, (0, 5), 7, alone=True).tolist() == [1, 2, 3, 4, 5, 1, 2]


@pytest.mark.parametrize(("cpu_rows", "sizes"), [(None, [4, 4, 3]), (8, [8, 3])])
def test_a_cpu_gives_an_encoder_as_many_chunks_as_it_is_fastest_with(cpu_rows: int | None, sizes: list[int]) -> None:
    seen: list[int] = []

    class Counting(Sounds):
        def __call__(self, wave_NT: Tensor, /) -> Tensor:
            seen.append(len(wave_NT))
            return super().__call__(wave_NT)

    encoder = Counting()
    if cpu_rows is not None:
        encoder.cpu_rows = cpu_rows  # type: ignore[attr-defined]
    assert run_encoder(encoder, torch.zeros(11, 1_000)).shape == (11, 3)
    assert seen == sizes


def test_an_embedding_is_the_mean_over_the_clips_chunks(make_shards: MakeShards) -> None:
    with ShardSet.open(make_shards(6, frames=2_500)) as shards:
        table = embed_shards(shards, {"x": Sounds()}, EvaluationConfig(batch=4))["x"]
    level = np.round(np.arange(6) / 1000 * 32768) / 32768
    np.testing.assert_allclose(table.h_KE[:, 0], level * 2.5 / 3, atol=1e-6)
    np.testing.assert_allclose(table.h_KE[:, 2], level * 2 / 3, atol=1e-6)  # the padded tail ends in silence
    assert table.keys == tuple(f"clip{i:04d}" for i in range(6))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_size_changes_nothing(make_shards: MakeShards, batch: int) -> None:
    with ShardSet.open(make_shards(10, frames=3_700)) as shards:
        one, other = (embed_shards(shards, {"x": Sounds()}, EvaluationConfig(batch=b))["x"].h_KE for b in (batch, 16))
    np.testing.assert_array_equal(one, other)


def test_several_encoders_read_the_audio_once(make_shards: MakeShards, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardSet.open(make_shards(8)) as shards:
        reads: list[int] = []
        original = shards.read_window

        def counted(row: int, start: int, frames: int) -> NDArray[np.int16]:
            reads.append(row)
            return original(row, start, frames)

        monkeypatch.setattr(shards, "read_window", counted)
        tables = embed_shards(shards, {"x": Sounds(), "y": Sounds()}, EvaluationConfig(batch=8))
    assert reads == list(range(8))
    np.testing.assert_array_equal(tables["x"].h_KE, tables["y"].h_KE)


def test_a_nan_embedding_names_its_clip(make_shards: MakeShards) -> None:
    with ShardSet.open(make_shards(8)) as shards, pytest.raises(RunError, match="clip0003 is not finite"):
        embed_shards(shards, {"x": Sounds(nan_at=10)}, EvaluationConfig(batch=4))


def test_another_rate_is_refused_with_the_remedy(make_shards: MakeShards) -> None:
    encoder = Sounds()
    encoder.rate = 16_000
    with (
        ShardSet.open(make_shards(4)) as shards,
        pytest.raises(
            UserError, match=r"22050 Hz, but the encoder expects 16000 Hz; build the shards with build\.rate"
        ),
    ):
        embed_shards(shards, {"x": encoder}, EvaluationConfig(batch=4))


@pytest.mark.parametrize("aggregate", ["embeddings", "logits"])
def test_a_table_comes_back_from_disk_bit_for_bit(make_shards: MakeShards, tmp_path: Path, aggregate: Any) -> None:
    chunking = Chunking(aggregate=aggregate)
    with ShardSet.open(make_shards(12)) as shards:
        table = embed_shards(shards, {"x": Sounds()}, EvaluationConfig(batch=8, chunking=chunking))["x"]
    path = table_path(tmp_path, table.encoder, table.manifest, chunking, 1000)
    save_table(table, path)
    back = load_table(path)
    assert back is not None
    np.testing.assert_array_equal(back.h_KE, table.h_KE)
    np.testing.assert_array_equal(back.chunks_PE, table.chunks_PE)
    assert (len(table.chunks_PE) > 0) == (aggregate != "embeddings")
    assert (back.keys, back.encoder, back.manifest) == (table.keys, table.encoder, table.manifest)


def test_a_table_is_named_by_everything_it_depends_on(tmp_path: Path) -> None:
    names = {
        table_path(tmp_path, encoder, manifest, chunking, samples).name
        for encoder in ("a", "b")
        for manifest in ("m", "n")
        for chunking in (Chunking(), Chunking(min_tail=0.25))
        for samples in (1000, 2000)
    }
    assert len(names) == 16


def test_a_damaged_table_is_an_error_that_names_the_file(make_shards: MakeShards, tmp_path: Path) -> None:
    with ShardSet.open(make_shards(40)) as shards:
        table = embed_shards(shards, {"x": Sounds()}, EvaluationConfig(batch=8))["x"]
    path = tmp_path / "embeddings.parquet"
    save_table(table, path)
    content = bytearray(path.read_bytes())
    for at in range(60, 200, 20):
        content[at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(RunError, match="not a whole embedding table"):
        load_table(path)
