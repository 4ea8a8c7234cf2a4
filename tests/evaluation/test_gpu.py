"""What a GPU computes is what a CPU computes, and the host waits for it only where it must."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_shards.read.reader import ShardSet
from evaluation.config import EvaluationConfig, EvaluationData, Task
from evaluation.embeddings.embed import embed_shards
from evaluation.encoders.devices import device_of
from evaluation.neighbours import search, unit_rows
from evaluation.probes import training as probes
from evaluation.probes.training import Head, ProbeData, train_heads

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
MakeShards = Callable[..., Path]
HEADS = [Head(model, seed) for model in range(2) for seed in range(3)]


@contextmanager
def no_waiting() -> Iterator[None]:
    """An operation that makes the host wait for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Bands(nn.Module):
    """A small encoder whose answer depends on all of its input."""

    hash, rate, samples, width = "bands", 22_050, 1_000, 8

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1_000, 8)

    def forward(self, wave_NT: Tensor) -> Tensor:
        return self.line(wave_NT).tanh()  # type: ignore[no-any-return]  # a Module's call is untyped


def made(kind: str, clips: int = 256, width: int = 32) -> tuple[ProbeData, ProbeData]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, clips, width, generator=g)
    y = x[0, :, :5] > 0.5 if kind == "tags" else x[0, :, :5].argmax(1) if kind == "class" else x[0, :, 0]
    cut = 3 * clips // 4
    return ProbeData(x[:, :cut], y[:cut]), ProbeData(x[:, cut:], y[cut:])


def on_gpu(data: tuple[ProbeData, ProbeData]) -> tuple[ProbeData, ProbeData]:
    train, valid = (ProbeData(part.x_AKE.cuda(), part.y_K.cuda()) for part in data)
    return train, valid


@pytest.mark.parametrize("head", ["mlp", "linear"])
@pytest.mark.parametrize("kind", ["tags", "class", "number"])
def test_heads_on_a_gpu_are_those_of_a_cpu(kind: Any, head: Any) -> None:
    task = Task(column="x", kind=kind, probe=True, head=head, dropout=0.0, max_epochs=10, batch=32, hidden=64)
    data, outputs = made(kind), 1 if kind == "number" else 5
    cpu, gpu = train_heads(task, *data, outputs, HEADS), train_heads(task, *on_gpu(data), outputs, HEADS)
    assert gpu.losses == pytest.approx(cpu.losses, rel=1e-3)
    for model, x_KE in enumerate(data[1].x_AKE):
        torch.testing.assert_close(
            gpu.predict(model, x_KE.cuda()).cpu(), cpu.predict(model, x_KE), atol=1e-3, rtol=1e-2
        )


def test_a_head_among_others_is_the_one_alone_with_dropout_too() -> None:
    task = Task(column="x", kind="class", probe=True, dropout=0.3, max_epochs=10, patience=3, batch=32, hidden=64)
    data = on_gpu(made("class"))
    together = train_heads(task, *data, 5, HEADS)
    alone = [train_heads(task, *data, 5, [head]).losses[0] for head in HEADS]
    assert together.losses == pytest.approx(alone, rel=1e-3)


def test_an_epoch_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    epoch, calls = probes._train_epoch, []

    def watched(*arguments: Any) -> None:
        with no_waiting():
            epoch(*arguments)
        calls.append(arguments)

    monkeypatch.setattr(probes, "_train_epoch", watched)
    task = Task(column="x", kind="tags", probe=True, max_epochs=3, batch=32, hidden=64)
    train_heads(task, *on_gpu(made("tags")), 5, HEADS)
    assert calls


def test_a_search_on_a_gpu_finds_what_faiss_finds() -> None:
    rng = np.random.default_rng(9)
    base, query = (unit_rows(rng.normal(size=(count, 64)).astype(np.float32)) for count in (20_000, 3_000))
    cosines, rows = search(query, np.array_split(base, 3), 10, device="cuda")
    expected, places = search(query, [base], 10)
    assert (rows == places).mean() > 0.999  # TF32 is off by default; equal cosines may change places
    np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_embeddings_from_a_gpu_are_those_of_a_cpu(make_shards: MakeShards) -> None:
    torch.manual_seed(0)
    shards = make_shards(48)
    config = EvaluationConfig(data=EvaluationData(shards=str(shards)), batch=16)
    encoder = Bands().eval()
    with ShardSet.open(shards) as opened:
        expected = embed_shards(opened, {"trained": encoder}, config)["trained"]
        found = embed_shards(opened, {"trained": encoder.cuda()}, config)["trained"]
    assert device_of(encoder).type == "cuda"
    np.testing.assert_allclose(found.h_KE, expected.h_KE, atol=1e-5)
