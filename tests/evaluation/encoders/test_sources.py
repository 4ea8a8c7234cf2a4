"""Anyone's encoder by module:factory, written into a folder that is the working directory."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.settings import UserError
from evaluation.config import Chunking, ConfidenceConfig, EvaluationConfig, EvaluationData, Task
from evaluation.encoders.sources import load_any, untrained_any
from evaluation.evaluate import evaluate
from evaluation.report.tracking import log_report

MakeShards = Callable[..., Path]
QUICK = ConfidenceConfig(resamples=100)
MODULE = '''
import torch
from torch import nn


class Tiny(nn.Module):
    width, rate, samples = 5, 22_050, 1_000

    def __init__(self, scale=1.0):
        super().__init__()
        self.layer = nn.Linear(1_000, 5)
        self.norm = nn.BatchNorm1d(5)
        self.dropout = nn.Dropout(0.5)
        self.layer.weight.data *= scale

    def forward(self, wave):
        return self.dropout(self.norm(self.layer(wave)))


class Mfcc:
    """Handcrafted: log energies of bands through a cosine transform; 16 kHz, no weights."""

    width, rate, samples, hash = 6, 16_000, 2_000, "mfcc-1"

    def __call__(self, wave):
        power = torch.fft.rfft(wave * torch.hann_window(self.samples)).abs() ** 2
        bands = torch.stack([part.mean(1) for part in power.split(60, 1)], 1)
        turns = torch.arange(self.width)[:, None] * (torch.arange(bands.shape[1]) + 0.5) * torch.pi / bands.shape[1]
        return torch.log(bands + 1e-9) @ torch.cos(turns).T


class Odd(Mfcc):
    def __init__(self, call, width=6):
        self.call, self.width = call, width

    def __call__(self, wave):
        return self.call(super().__call__(wave), wave)


def random():
    return Odd(lambda h, wave: h + torch.rand(6))


def in_place():
    return Odd(lambda h, wave: h + 0 * wave.mul_(0).sum())


def leaves():
    return Odd(lambda h, wave: exit(0))


def quiet():
    def call(h, wave):
        raise AssertionError
    return Odd(call)


def unready():
    class Unready(Mfcc):
        @property
        def width(self):
            raise RuntimeError("no width yet")
    return Unready()


def tiny(untrained=False):
    return Tiny(0.0 if untrained else 1.0)


def mfcc():
    return Mfcc()


def half(width=None):
    encoder = Mfcc()
    encoder.hash = ""
    return encoder


def wordless():
    class Encoder:
        width = 5
    return Encoder()


def narrow():
    encoder = Tiny()
    encoder.width = 4
    return encoder


def counted():
    encoder = Tiny()
    encoder.rate = 22050.5
    return encoder


def broken():
    raise OSError("no weights at /models")


def nan():
    encoder = Mfcc()
    encoder.__class__ = type("Nan", (Mfcc,), {"__call__": lambda self, wave: torch.full((len(wave), 6), torch.nan)})
    return encoder


def spaced(spaces=None):
    encoder = Mfcc()
    encoder.spaces = spaces or {"low": slice(0, 2), "high": slice(2, 6)}
    return encoder


def beyond():
    return spaced({"low": slice(0, 2), "high": slice(2, 7)})


def called_all():
    return spaced({"all": slice(0, 6)})


def listed():
    return spaced(["low", "high"])


not_a_function = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "my_encoders.py").write_text(MODULE)
    (folder / "needs_more.py").write_text("import a_module_that_is_not_here\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in ("my_encoders", "needs_more"):
        sys.modules.pop(name, None)


def test_a_users_network_is_frozen_and_named_by_its_weights_and_its_code(module: Path) -> None:
    encoder = load_any("my_encoders:tiny")
    wave = torch.randn(8, 1_000, generator=torch.Generator().manual_seed(0))
    encoder.inner.train()  # whatever was done to it before
    first, state = encoder(wave), {name: value.clone() for name, value in encoder.state_dict().items()}
    torch.testing.assert_close(encoder(wave), first)  # no dropout
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, state[name])  # no moving statistics
    assert not first.requires_grad
    assert load_any("my_encoders:tiny").hash == encoder.hash
    untrained = untrained_any("my_encoders:tiny")
    assert untrained is not None
    assert untrained.hash != encoder.hash
    (module / "my_encoders.py").write_text(MODULE + "\n# another version\n")
    assert load_any("my_encoders:tiny").hash != encoder.hash


def test_a_handcrafted_encoder_needs_no_weights_but_a_hash(module: Path) -> None:
    assert load_any("my_encoders:mfcc").hash == "mfcc-1"
    assert untrained_any("my_encoders:mfcc") is None


def test_a_users_encoder_may_name_its_spaces(module: Path) -> None:
    assert load_any("my_encoders:spaced").spaces == {"low": slice(0, 2), "high": slice(2, 6)}
    assert load_any("my_encoders:mfcc").spaces == {"embedding": slice(0, 6)}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no_such_module:factory", "no module no_such_module in .*work or on PYTHONPATH"),
        ("needs_more:factory", "needs_more imports a_module_that_is_not_here, which is not installed"),
        ("my_encoders:tin", "my_encoders has no tin; did you mean my_encoders:tiny?"),
        ("my_encoders:not_a_function", "not_a_function is a int, not a function or class"),
        ("my_encoders:broken", r"the factory failed \(OSError: no weights at /models\)"),
        ("my_encoders:wordless", r"an? Encoder without rate, samples, a call; an encoder has width, rate in Hz"),
        ("my_encoders:narrow", r"its call gave \(2, 5\), its width is \(2, 4\)"),
        ("my_encoders:counted", r"rate must be a whole number > 0, got 22050\.5"),
        ("my_encoders:half", "Mfcc without weights needs a hash"),
        ("my_encoders:random", "two calls with the same waves differ, so it draws at random"),
        ("my_encoders:in_place", "its call changes its waves in place"),
        ("my_encoders:leaves", r"its call failed on \(2, 2000\) float32 \(SystemExit: 0\)"),
        ("my_encoders:quiet", r"its call failed on \(2, 2000\) float32 \(AssertionError\)"),
        ("my_encoders:unready", r"its width, rate, samples failed \(RuntimeError: no width yet\)"),
        ("my_encoders:nan", "its embedding of quiet noise is not finite"),
        ("my_encoders:beyond", r"space 'high' must be a slice\(first, end\) within its width 6, got slice\(2, 7"),
        ("my_encoders:called_all", "a space's name is of letters, digits, _ and -, and not all, got 'all'"),
        ("my_encoders:listed", "spaces must map names to slices of the embedding, got"),
    ],
)
def test_what_is_missing_is_named(module: Path, source: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_any(source)


def config_for(shards: Path, **changes: Any) -> EvaluationConfig:
    task = Task(column="tags", kind="tags", probe=True, retrieval=True, hidden=8, max_epochs=2)
    return EvaluationConfig(
        data=EvaluationData(shards=str(shards)), tasks={"tags": task}, seeds=1, ks=(1,), confidence=QUICK, **changes
    )


def test_an_evaluation_says_whether_there_is_an_untrained_row(
    module: Path, make_shards: MakeShards, tmp_path: Path
) -> None:
    shards = make_shards(60)
    report = evaluate("my_encoders:tiny", config_for(shards), tmp_path / "tiny")
    assert "untrained" in report.tree["baselines"]
    assert report.tree["provenance"]["untrained"] == "factory(untrained=True)"
    assert log_report(report) is None  # no run of ours made it
    config = config_for(shards, chunking=Chunking(resample=True))
    report = evaluate("my_encoders:mfcc", config, tmp_path / "mfcc")
    assert set(report.tree["baselines"]) == {"random", "constant"}
    assert "absent" in report.tree["provenance"]["untrained"]
    assert "difference from random" in (tmp_path / "mfcc" / "report.md").read_text()


def test_an_encoder_of_another_rate_is_refused_or_gets_resampled_audio(
    module: Path, make_shards: MakeShards, tmp_path: Path
) -> None:
    shards = make_shards(60, frames=11_025)
    with pytest.raises(UserError, match=r"22050 Hz, but the encoder expects 16000 Hz; .*chunking\.resample=true"):
        evaluate("my_encoders:mfcc", config_for(shards), tmp_path)
    assert not (tmp_path / "report.json").exists()
    config = config_for(shards, chunking=Chunking(resample=True), against={"tiny": "my_encoders:tiny"})
    tree = evaluate("my_encoders:mfcc", config, tmp_path).tree
    assert {"tiny", "random", "constant"} == set(tree["baselines"])
    from evaluation.embeddings.cache import load_table

    tables = [load_table(path) for path in (tmp_path / "embeddings").iterdir()]
    chunks = sorted(int(table.counts_K[0]) for table in tables if table)
    assert chunks == [4, 11]  # half a second: 8,000 of 16 kHz by 2,000, 11,025 by 1,000
    assert np.isfinite(tree["metrics"]["tags/ap"]["value"])
