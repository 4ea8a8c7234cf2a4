"""The chain: identity, replay, split batches, order, bad input."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trainers.augment.chain import AugmentChain
from trainers.augment.dsp.delay import echo
from trainers.augment.dsp.phase_vocoder import pitch_time
from trainers.augment.dsp.spectral import Filters, Noise, shape_spectrum
from trainers.augment.parameters import PRESETS, AugmentConfig

RATE = 22_050


@pytest.mark.parametrize("vocoded", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_severity_zero_is_the_identity_bit_for_bit(name: str, vocoded: bool, music: Callable[..., Tensor]) -> None:
    wave = music(6)
    chain = AugmentChain(replace(PRESETS[name], identity_through_vocoder=vocoded).scaled(0), RATE)
    assert torch.equal(chain.apply(wave, chain.draw(torch.arange(6), step=0, seed=0, view=0)), wave)


def test_a_row_without_effects_is_untouched_among_others(music: Callable[..., Tensor]) -> None:
    wave = music(64, 6000)
    chain = AugmentChain(PRESETS["mule_both"], RATE)
    drawn = chain.draw(torch.arange(64), step=0, seed=0, view=0)
    spared = ~(drawn.received["pitch"] | drawn.received["stretch"])
    assert 0 < spared.sum() < 64
    assert torch.equal(chain.apply(wave, drawn)[spared], wave[spared])
    assert torch.equal(chain.apply(wave, drawn, num_samples=4000)[spared], wave[spared, :4000])


def test_rows_without_pitch_and_tempo_go_through_the_vocoder_where_they_are_asked_to(
    music: Callable[..., Tensor], snr_db: Callable[[Tensor, Tensor], float]
) -> None:
    wave = music(24, 8000)
    plain, through = (
        AugmentChain(replace(PRESETS["loev"], identity_through_vocoder=value), RATE) for value in (False, True)
    )
    drawn = plain.draw(torch.arange(24), step=0, seed=0, view=0)
    assert all(
        torch.equal(a, b) for a, b in zip(drawn, through.draw(torch.arange(24), step=0, seed=0, view=0), strict=True)
    )
    spared = ~(drawn.received["pitch"] | drawn.received["stretch"])
    assert 0 < spared.sum() < 24
    before, after = plain.apply(wave, drawn, num_samples=6000), through.apply(wave, drawn, num_samples=6000)
    moved = [snr_db(a, b) for a, b in zip(before[~spared], after[~spared], strict=True)]
    assert min(moved) > 40, "a chunk of other rows moves the last digits alone"
    ones = torch.ones(int(spared.sum()), dtype=torch.float64)
    expected = pitch_time(wave[spared, :6000], ones, ones)
    assert not torch.equal(after[spared], before[spared])
    assert min(snr_db(a, b) for a, b in zip(expected, after[spared], strict=True)) > 40


@pytest.mark.parametrize("name", ["paper", "as_released", "mule_both", "mule_eq"])
def test_a_draw_applied_twice_gives_the_same(name: str, music: Callable[..., Tensor]) -> None:
    wave, before = music(24), music(24)
    chain = AugmentChain(PRESETS[name], RATE)
    drawn = chain.draw(torch.arange(24), step=5, seed=1, view=1)
    once = chain.apply(wave, drawn)
    assert torch.equal(once, chain.apply(wave, drawn))
    assert torch.equal(wave, before)
    assert once.isfinite().all()


def test_a_split_batch_is_the_whole_one(
    music: Callable[..., Tensor], snr_db: Callable[[Tensor, Tensor], float]
) -> None:
    wave = music(24)
    chain = AugmentChain(PRESETS["paper"], RATE)
    drawn = chain.draw(torch.arange(24), step=0, seed=0, view=0)
    whole = chain.apply(wave, drawn)
    for world in (2, 3):
        for rank in range(world):
            rows = slice(rank, None, world)
            part = chain.apply(wave[rows], drawn.rows(rows))
            assert min(snr_db(a, b) for a, b in zip(whole[rows], part, strict=True)) > 40


def test_each_row_is_its_effects_one_by_one(
    music: Callable[..., Tensor], snr_db: Callable[[Tensor, Tensor], float]
) -> None:
    wave = music(20)
    chain = AugmentChain(PRESETS["paper"], RATE)
    d = chain.draw(torch.arange(20), step=0, seed=2, view=0)
    whole = chain.apply(wave, d)
    for n in range(20):
        row, one = wave[n : n + 1] * d.gain[n], slice(n, n + 1)
        if d.snr_db[n] < torch.inf or d.filter_kind[n] > 0:
            noise = Noise(d.snr_db[one], d.noise_slope[one], d.noise_seed[one]) if d.snr_db[n] < torch.inf else None
            row = shape_spectrum(
                row, sample_rate=RATE, noise=noise, filters=Filters(d.filter_kind[one], d.low_hz[one], d.high_hz[one])
            )
        if d.pitch_ratio[n] != 1:
            row = pitch_time(row, d.pitch_ratio[one], torch.ones(1))
        row = echo(row, d.delay[one], d.reflections[one], d.attenuation[one], d.wet[one])
        assert snr_db(whole[n], row[0]) > 40


def test_the_order_is_the_configurations(
    music: Callable[..., Tensor], snr_db: Callable[[Tensor, Tensor], float]
) -> None:
    wave = music(40, 6000)
    config = AugmentConfig()
    drawn = AugmentChain(config, RATE).draw(torch.arange(40), step=0, seed=0, view=0)
    usual = AugmentChain(config, RATE).apply(wave, drawn)
    turned = AugmentChain(replace(config, order=("filter", "noise", "pitch", "delay")), RATE).apply(wave, drawn)
    both = drawn.received["noise"] & drawn.received["filter"]
    # Two of both differ: how many rows share a transform moves its rounding, and the vocoder what is moved.
    assert snr_db(usual[~both], turned[~both]) > 40
    assert snr_db(usual[both], turned[both]) < 20


def test_noise_after_the_filter_is_not_filtered() -> None:
    config = PRESETS["none"]
    config = replace(
        config,
        noise=replace(config.noise, p=1.0, min_f_decay=0.0, max_f_decay=0.0),
        filter=replace(config.filter, p=1.0),
    )
    wave = torch.randn(32, 8000, generator=torch.Generator().manual_seed(0))
    drawn = AugmentChain(config, RATE).draw(torch.arange(32), step=0, seed=0, view=0)
    low = drawn.filter_kind == 1
    filtered_last = AugmentChain(config, RATE).apply(wave, drawn)[low]
    noised_last = AugmentChain(replace(config, order=("filter", "noise", "pitch", "delay")), RATE).apply(wave, drawn)

    def treble(x: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfft(x)
        return spectrum.abs().square()[:, -400:].mean()

    assert treble(noised_last[low]) > 100 * treble(filtered_last)


def test_stretched_rows_read_more_and_end_in_sound(tone: Callable[..., Tensor]) -> None:
    config = replace(PRESETS["none"], stretch=replace(PRESETS["none"].stretch, p=1.0))
    chain = AugmentChain(config, RATE)
    drawn = chain.draw(torch.arange(16), step=0, seed=0, view=0)
    wave = tone(500, 12_000).repeat(16, 1)
    out = chain.apply(wave, drawn, num_samples=8000)
    assert out.shape == (16, 8000)
    assert float(out[:, -500:].square().mean(1).sqrt().min()) > 0.3
    assert drawn.tempo.max() > 1.2


@pytest.mark.parametrize("severity", [2, 4])
@pytest.mark.parametrize("samples", [1, 300, 8000])
def test_silence_dc_and_a_full_square_stay_finite(severity: float, samples: int) -> None:
    square = torch.ones(samples)
    square[::2] = -1
    wave = torch.stack([torch.zeros(samples), torch.ones(samples), square]).repeat(20, 1)
    chain = AugmentChain(PRESETS["paper"].scaled(severity), RATE)
    out = chain.apply(wave, chain.draw(torch.arange(60), step=0, seed=0, view=0))
    assert out.isfinite().all()
    assert torch.equal(out[0::3], torch.zeros(20, samples))


def test_gradients_flow_through_the_whole_chain(music: Callable[..., Tensor]) -> None:
    wave = music(8, 4000).requires_grad_()
    chain = AugmentChain(PRESETS["paper"].scaled(4), RATE)
    torch.autograd.backward(chain.apply(wave, chain.draw(torch.arange(8), step=0, seed=0, view=0)).square().sum())
    assert wave.grad is not None
    assert wave.grad.isfinite().all()
    assert (wave.grad.abs().sum(1) > 0).all()


def test_shapes_that_disagree_are_refused() -> None:
    chain = AugmentChain(PRESETS["paper"], RATE)
    drawn = chain.draw(torch.arange(3), step=0, seed=0, view=0)
    with pytest.raises(ValueError, match="parameters of 3 rows and 100 samples do not fit"):
        chain.apply(torch.zeros(2, 100), drawn)
    with pytest.raises(ValueError, match="101 samples do not fit"):
        chain.apply(torch.zeros(3, 100), drawn, num_samples=101)


@pytest.mark.parametrize("dtype", [torch.int16, torch.bfloat16, torch.float16])
def test_a_wave_of_another_type_is_refused(dtype: torch.dtype) -> None:
    chain = AugmentChain(PRESETS["paper"], RATE)
    with pytest.raises(ValueError, match=f"wave must be float32 or float64, got {dtype}"):
        chain.apply(torch.zeros(2, 100, dtype=dtype), chain.draw(torch.arange(2), step=0, seed=0, view=0))


def test_a_sample_of_nan_poisons_no_other_row(music: Callable[..., Tensor]) -> None:
    wave = music(12, 6000)
    chain = AugmentChain(PRESETS["paper"].scaled(4), RATE)
    drawn = chain.draw(torch.arange(12), step=0, seed=0, view=0)
    wave[3, 1000] = torch.nan
    out = chain.apply(wave, drawn)
    assert out[3].isnan().any()
    assert out[torch.arange(12) != 3].isfinite().all()


@pytest.mark.gpu
def test_the_device_changes_nothing_but_rounding(
    music: Callable[..., Tensor], snr_db: Callable[[Tensor, Tensor], float]
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    wave = music(24)
    chain = AugmentChain(PRESETS["paper"], RATE)
    drawn = chain.draw(torch.arange(24), step=0, seed=0, view=0)
    there = chain.apply(wave.cuda(), drawn).cpu()
    assert min(snr_db(a, b) for a, b in zip(chain.apply(wave, drawn), there, strict=True)) > 35
