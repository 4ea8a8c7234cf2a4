"""Corruptions of the evaluation against pedalboard and torch-audiomentations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainers.augment.corruptions import (
    CORRUPTIONS,
    chorus,
    compress,
    corrupt,
    crush_bits,
    distort,
    reverberate,
    splice_out,
)

RATE = 22_050
ROWS = 3


@pytest.fixture(scope="module")
def board() -> Any:
    return pytest.importorskip("pedalboard", reason="optional extra bench")


def through(effect: Any, wave_nT: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(effect(row.numpy(), RATE, reset=True)) for row in wave_nT])


def every(value: float) -> Tensor:
    return torch.full((ROWS,), value)


def test_distortion_is_pedalboards(board: Any, music: Callable[..., Tensor], snr_db: Callable[..., float]) -> None:
    wave = music(ROWS)
    assert snr_db(through(board.Distortion(9), wave), distort(wave, every(9))) > 90


def test_bitcrush_is_pedalboards(board: Any, music: Callable[..., Tensor]) -> None:
    wave = music(ROWS)
    for bits in (4, 8):
        torch.testing.assert_close(crush_bits(wave, every(bits)), through(board.Bitcrush(bits), wave))


def test_compression_is_pedalboards(board: Any, music: Callable[..., Tensor], snr_db: Callable[..., float]) -> None:
    wave = music(ROWS)
    ours = compress(wave, every(-30), every(5), sample_rate=RATE)
    assert snr_db(through(board.Compressor(-30, 5), wave), ours) > 60


@pytest.mark.parametrize("size", [0.5, 1.0])
def test_reverb_is_pedalboards(
    board: Any, size: float, music: Callable[..., Tensor], snr_db: Callable[..., float]
) -> None:
    wave = music(ROWS)
    theirs = through(board.Reverb(room_size=size, wet_level=1, dry_level=1, damping=0.5, width=1), wave)
    ours = reverberate(wave, every(size), every(1), every(1), sample_rate=RATE)
    assert snr_db(theirs, ours) > 40


def test_chorus_is_pedalboards(board: Any, music: Callable[..., Tensor], snr_db: Callable[..., float]) -> None:
    wave = music(ROWS)
    ours = chorus(wave, every(5), every(1), every(1), sample_rate=RATE)
    theirs = through(board.Chorus(rate_hz=5, depth=1, mix=1), wave)
    assert snr_db(theirs[:, 3000:], ours[:, 3000:]) > 20  # JUCE fades its parameters in


def test_splice_out_is_that_of_torch_audiomentations(music: Callable[..., Tensor], monkeypatch: Any) -> None:
    library = pytest.importorskip("torch_audiomentations", reason="optional extra bench")
    wave = music(ROWS)
    starts: list[int] = []
    draw = torch.randint

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        drawn = draw(*args, **kwargs)
        if tuple(kwargs.get("size", ())) == (1,):
            starts.append(int(drawn))
        return drawn

    splice = library.SpliceOut(8, 100, p=1.0, sample_rate=RATE, output_type="dict")
    torch.manual_seed(3)
    monkeypatch.setattr(torch, "randint", spy)
    theirs = splice(wave[:, None]).samples[:, 0]
    lengths = splice.transform_parameters["splice_lengths"]
    ours = splice_out(wave, torch.tensor(starts).view(ROWS, 8), lengths)
    assert float((ours - theirs).abs().max()) < 2e-3  # their window is a periodic Hann cut in two


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_released_corruption_is_keyed_by_slot_and_keeps_the_shape(name: str, music: Callable[..., Tensor]) -> None:
    wave = music(4)
    whole = corrupt(name, wave, torch.arange(4), sample_rate=RATE, seed=1)
    assert whole.shape == wave.shape
    assert whole.isfinite().all()
    assert not torch.equal(whole, wave)
    part = corrupt(name, wave[2:3], torch.tensor([2]), sample_rate=RATE, seed=1)
    assert float((part - whole[2:3]).abs().max()) < 1e-4


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_silence_and_a_full_square_stay_finite(name: str) -> None:
    square = torch.ones(RATE // 2)
    square[::50] = -1
    wave = torch.stack([torch.zeros(RATE // 2), torch.ones(RATE // 2), square])
    out = corrupt(name, wave, torch.arange(3), sample_rate=RATE, seed=0)
    assert out.isfinite().all()
    assert np.isclose(float(out[0].abs().max()), 0)


def test_an_unknown_corruption_is_named() -> None:
    with pytest.raises(ValueError, match="no corruption 'fuzz'; known are chorus"):
        corrupt("fuzz", torch.zeros(1, 8), torch.zeros(1, dtype=torch.int64), sample_rate=RATE, seed=0)
