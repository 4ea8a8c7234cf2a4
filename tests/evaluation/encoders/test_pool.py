"""One process, many workers: the same embeddings in the same order, and only a few of them in memory."""

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from torch import Tensor, nn

from cluster.settings import ROOT, RunError, UserError, load_config
from data_shards.read.reader import ShardSet
from evaluation.config import EvaluationConfig, EvaluationData, WorkersConfig
from evaluation.embeddings.embed import embed_shards, run_encoder, run_encoders
from evaluation.embeddings.files import FILES_A_JOB, ROWS_A_GROUP, embed_files, embed_stream
from evaluation.encoders.encoder import ENCODER
from evaluation.encoders.pool import AHEAD, Pool, RayPool, open_pool
from evaluation.evaluate import evaluate_encoders
from trainers.config import ExperimentConfig
from trainers.inference.frozen import FrozenEncoder

MakeShards = Callable[..., Path]
RATE = 22_050


class Tiny(nn.Module):
    """A random projection with a nonlinearity: sensitive to every sample."""

    width, rate, samples, hash = 7, RATE, 1_000, "tiny"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1_000, 7, generator=torch.Generator().manual_seed(0)))

    def forward(self, wave_NT: Tensor) -> Tensor:
        return torch.tanh(wave_NT @ self.weight).detach()


def noise(folder: Path, count: int) -> list[Path]:
    rng, files = np.random.default_rng(0), []
    folder.mkdir()
    for number in range(count):
        files.append(folder / f"{number:03d}.wav")
        soundfile.write(files[-1], rng.normal(0, 0.1, int(rng.integers(300, 4_000))), RATE)
    return files


def test_jobs_are_drawn_as_they_are_needed() -> None:
    drawn: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(1_000):
            drawn.append(number)
            yield number

    results = Pool({}).map(lambda _, job: job, jobs())
    assert [next(results) for _ in range(3)] == drawn == [0, 1, 2]


def test_a_catalogue_larger_than_memory_waits_a_job_at_a_time(tmp_path: Path) -> None:
    """An endless list of files: what is drawn stays one job ahead of what is handed out."""
    file, drawn = noise(tmp_path / "a", 1)[0], 0

    def endless() -> Iterator[Path]:
        nonlocal drawn
        while True:
            drawn += 1
            yield file

    stream = embed_stream(Pool({ENCODER: Tiny()}), endless())
    for handed_out in range(1, 50):
        next(stream)
        assert drawn <= handed_out + FILES_A_JOB


def test_row_groups_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluation.embeddings import files as embedding

    monkeypatch.setattr(embedding, "ROWS_A_GROUP", 10)
    files, waiting = noise(tmp_path / "a", 35), []
    original = embedding._flush

    def counted(writer: Any, rows: Any, schema: Any) -> int:
        waiting.append(len(rows.h))
        return original(writer, rows, schema)

    monkeypatch.setattr(embedding, "_flush", counted)
    made = embed_files(Tiny(), files, tmp_path / "out.parquet")
    assert waiting == [10, 10, 10, 5]
    assert pq.ParquetFile(made.path).num_row_groups == 4
    assert ROWS_A_GROUP >= 1_000


def test_remote_shards_give_the_same_report(make_shards: MakeShards, lookup: Any, tmp_path: Path) -> None:
    local = make_shards(60)
    files = fsspec.filesystem("memory")
    files.put(str(local), "/sets/remote", recursive=True)
    models = {"trained": lookup(np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))}
    preset = ROOT / "conf" / "evaluation" / "quickstart.yaml"
    quick: dict[str, Any] = {"confidence.resamples": 100, "seeds": 1, "tasks.tags.max_epochs": 2, "ks": [1]}
    found: list[Any] = []
    for where, cache in ((str(local), None), ("memory://sets/remote", str(tmp_path / "copies"))):
        config = load_config(EvaluationConfig, preset, quick | {"data.shards": where, "data.cache": cache})
        found.append(evaluate_encoders(models, config, tmp_path / "out" / str(len(found)), about={}).tree["metrics"])
    assert found[0] == found[1]
    assert list((tmp_path / "copies").glob("*.tar"))
    config = load_config(EvaluationConfig, preset, quick | {"data.shards": "memory://sets/remote"})
    with pytest.raises(UserError, match=r"give data\.cache=DIR"):
        evaluate_encoders(models, config, tmp_path / "none", about={})
    files.rm("/sets", recursive=True)


def test_encoders_of_two_lengths_share_a_pool(make_shards: MakeShards, tmp_path: Path) -> None:
    class Long(Tiny):
        samples, hash = 2_000, "long"

        def forward(self, wave_NT: Tensor) -> Tensor:
            return super().forward(wave_NT[:, ::2])

    pool = Pool({"short": Tiny(), "long": Long()})
    with ShardSet.open(make_shards(6)) as shards:
        with pytest.raises(ValueError, match="one rate and one chunk length"):
            embed_shards(shards, pool, EvaluationConfig())
        assert embed_shards(shards, pool.only(["long"]), EvaluationConfig())["long"].counts_K[0] == 1


@pytest.mark.ray
@pytest.mark.slow  # a Ray start-up of its own
@pytest.mark.timeout(600)
def test_ray_workers_give_the_numbers_of_one_process_in_order(make_shards: MakeShards, tmp_path: Path) -> None:
    files = noise(tmp_path / "a", 60)
    here = pq.read_table(embed_files(Tiny(), files, tmp_path / "here.parquet").path)
    config = EvaluationConfig(data=EvaluationData(), batch=16)
    with ShardSet.open(make_shards(200)) as shards, open_pool({ENCODER: Tiny()}, WorkersConfig(num_workers=2)) as pool:
        one = embed_shards(shards, {ENCODER: Tiny()}, config)[ENCODER]
        two = embed_shards(shards, pool, config)[ENCODER]
        np.testing.assert_array_equal(two.h_KE, one.h_KE)
        there = pq.read_table(embed_files(pool, files, tmp_path / "there.parquet").path)
        assert there.equals(here)

        assert isinstance(pool, RayPool)
        drawn = 0

        def jobs() -> Iterator[int]:
            nonlocal drawn
            for number in range(40):
                drawn += 1
                yield number

        for number, result in enumerate(pool.map(double, jobs())):
            assert result == 2 * number
            assert drawn <= number + 2 * AHEAD + 1
        with pytest.raises(UserError, match=r"^job 3 cannot be done$"):
            list(pool.map(refuses, range(5)))
        with pytest.raises(RunError, match="an embedding worker died 4 times"):
            list(pool.map(dies, range(1)))


def double(encoders: Mapping[str, Any], job: int) -> int:
    assert set(encoders) == {ENCODER}
    return 2 * job


def refuses(encoders: Mapping[str, Any], job: int) -> int:
    if job == 3:
        raise UserError("job 3 cannot be done")
    return job


def dies(encoders: Mapping[str, Any], job: int) -> int:
    import os

    os._exit(1)


def test_threads_share_a_built_in_encoder_and_change_nothing(make_shards: MakeShards) -> None:
    config = load_config(ExperimentConfig, None, ["encoder.name=mel_cnn", "encoder.channels=4", "frontend.kind=mel"])
    both = {name: FrozenEncoder(config, None, hash=name, provenance={}) for name in ("one", "other")}
    before = torch.get_num_threads()
    tables = {}
    try:
        with ShardSet.open(make_shards(12, frames=70_000)) as shards:
            for threads in (1, 3):
                torch.set_num_threads(threads)
                tables[threads] = embed_shards(shards, both, EvaluationConfig(batch=2))
                assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name in both:
        np.testing.assert_array_equal(tables[1][name].h_KE, tables[3][name].h_KE)
    np.testing.assert_array_equal(tables[1]["one"].h_KE, tables[1]["other"].h_KE)


def test_views_that_are_shared_are_those_that_an_encoder_makes_itself() -> None:
    config = load_config(ExperimentConfig, None, ["encoder.name=mel_cnn", "encoder.channels=4", "frontend.kind=mel"])
    wide = load_config(ExperimentConfig, None, ["encoder.name=mel_cnn", "frontend.kind=mel", "frontend.num_mels=80"])
    made = {"a": config, "b": wide, "c": config}
    encoders = {name: FrozenEncoder(c, None, hash=name, provenance={}) for name, c in made.items()}
    wave_NT = 0.1 * torch.randn(5, 59_049, generator=torch.Generator().manual_seed(0))
    found = run_encoders(encoders, wave_NT)
    assert list(found) == ["a", "b", "c"]
    for name, encoder in encoders.items():
        assert torch.equal(found[name], run_encoder(encoder, wave_NT))


def test_a_failing_job_ends_all_threads(make_shards: MakeShards) -> None:
    config = load_config(ExperimentConfig, None, ["encoder.name=mel_cnn", "encoder.channels=4", "frontend.kind=mel"])
    pool, before = Pool({ENCODER: FrozenEncoder(config, None, hash="", provenance={})}), torch.get_num_threads()

    def work(_: object, job: int) -> int:
        if job == 3:
            raise RunError("job 3")
        return job

    torch.set_num_threads(2)
    try:
        results = pool.map(work, range(1_000))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(RunError, match="job 3"):
            next(results)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("encoder")]
    finally:
        torch.set_num_threads(before)
