"""Each effect does to a known signal exactly what its parameters describe."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import log2, log10, pi

import pytest
import torch
from torch import Tensor

from trainers.augment.chain import AugmentChain
from trainers.augment.dsp.delay import _add_by_gather, _add_by_slices, echo
from trainers.augment.dsp.phase_vocoder import (
    _BESIDE,
    _of_nearest_peak,
    _overlap_add,
    _phases_and_peaks,
    _running_sum_,
    _settled,
    pitch_time,
)
from trainers.augment.dsp.spectral import KINDS, Filters, Noise, random_phases, shape_spectrum
from trainers.augment.parameters import PRESETS

RATE = 22_050


def filters(kind: str, low_hz: float, high_hz: float = 1.0, rows: int = 1) -> Filters:
    full = torch.full
    return Filters(full((rows,), KINDS.index(kind)), full((rows,), low_hz), full((rows,), high_hz))


class TestPitchAndTime:
    @pytest.mark.parametrize("n_fft", [1024, 2048])
    def test_a_tone_is_moved_by_exactly_the_cents_asked(
        self, n_fft: int, tone: Callable[..., Tensor], frequency: Callable[[Tensor, float], float]
    ) -> None:
        semitones = torch.tensor([-4.0, -1.37, 0.5, 2.0, 4.0], dtype=torch.float64)
        ratio = 2 ** (semitones / 12)
        moved = pitch_time(tone(440, 44_100).repeat(5, 1), ratio, torch.ones(5), n_fft=n_fft)
        for row, r in zip(moved, ratio.tolist(), strict=True):
            assert abs(1200 * log2(frequency(row, 440 * r) / (440 * r))) < 0.01

    def test_stretching_keeps_the_pitch_and_moves_the_onsets(
        self, tone: Callable[..., Tensor], frequency: Callable[[Tensor, float], float]
    ) -> None:
        T, tempo = 22_050, torch.tensor([0.8, 1.25])
        burst = tone(1000, 2 * T) * (torch.arange(2 * T) >= 10_000)
        moved = pitch_time(burst.repeat(2, 1), torch.ones(2), tempo, num_samples=T)
        assert moved.shape == (2, T)
        for row, v in zip(moved, tempo.tolist(), strict=True):
            onset = int((row.abs() > 0.1).nonzero()[0])
            assert abs(onset - 10_000 / v) < 300
        steady = pitch_time(tone(1000, 2 * T).repeat(2, 1), torch.ones(2), tempo, num_samples=T)
        assert all(abs(1200 * log2(frequency(row, 1000) / 1000)) < 0.01 for row in steady)

    def test_the_level_of_a_tone_is_kept(self, tone: Callable[..., Tensor]) -> None:
        ratio = torch.tensor([0.8, 1.0, 1.25])
        moved = pitch_time(tone(700).repeat(3, 1), ratio, torch.ones(3))[:, 3000:-3000]
        torch.testing.assert_close(moved.square().mean(1).sqrt(), torch.full((3,), 0.5 / 2**0.5), rtol=2e-3, atol=0)

    def test_what_would_alias_is_gone(self, tone: Callable[..., Tensor]) -> None:
        moved = pitch_time(tone(10_000)[None], torch.tensor([1.25]), torch.ones(1))[0, 3000:-3000]
        assert float(moved.abs().max()) < 1e-3

    def test_ratios_of_one_give_the_wave_back(
        self, music: Callable[..., Tensor], snr_db: Callable[[Tensor, Tensor], float]
    ) -> None:
        wave = music(2)
        assert snr_db(wave, pitch_time(wave, torch.ones(2), torch.ones(2))) > 45

    def test_pitch_and_tempo_in_one_pass_are_both_asked(
        self, tone: Callable[..., Tensor], frequency: Callable[[Tensor, float], float]
    ) -> None:
        moved = pitch_time(tone(440, 44_100)[None], torch.tensor([1.2]), torch.tensor([1.3]), num_samples=30_000)[0]
        assert abs(frequency(moved, 528) - 528) < 0.01

    @pytest.mark.parametrize("samples", [1, 100, 1023, 5000])
    def test_lengths_below_a_frame_are_exact_and_finite(self, samples: int) -> None:
        wave = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
        moved = pitch_time(wave, torch.tensor([0.8, 1.2]), torch.tensor([1.1, 0.9]))
        assert moved.shape == (2, samples)
        assert moved.isfinite().all()

    def test_silence_then_music_is_not_silenced_for_ever(self, tone: Callable[..., Tensor]) -> None:
        wave = torch.cat([torch.zeros(10_000), tone(500)])[None]
        moved = pitch_time(wave, torch.tensor([1.1]), torch.ones(1))[0]
        assert float(moved[:8000].abs().max()) < 1e-6
        assert float(moved[-10_000:-3000].square().mean().sqrt()) == pytest.approx(0.5 / 2**0.5, rel=0.01)

    def test_past_the_end_there_is_silence_not_a_held_sound(self, tone: Callable[..., Tensor]) -> None:
        moved = pitch_time(tone(500)[None], torch.ones(1), torch.tensor([1.3]))[0]
        assert float(moved[-3000:].abs().max()) < 1e-5

    def test_a_bin_turns_with_the_nearest_peak_of_two_the_left(self) -> None:
        generator = torch.Generator().manual_seed(0)
        spectrum = torch.randn(2, 5, 257, dtype=torch.complex64, generator=generator)
        turn = torch.randint(-(1 << 15), 1 << 15, (2, 5, 257), dtype=torch.int32, generator=generator)
        beside = _phases_and_peaks(spectrum)[1]
        found = _of_nearest_peak(turn.add(beside, alpha=_BESIDE))
        for f in range(10):
            frame = spectrum.abs().square().flatten(0, 1)[f]
            peaks = [k for k in range(257) if frame[k] >= frame[max(0, k - 2) : k + 3].max()]
            owner = [min(peaks, key=lambda p: (abs(k - p), p)) for k in range(257)]
            assert torch.equal(found.flatten(0, 1)[f], turn.flatten(0, 1)[f, owner] % (1 << 16))

    def test_a_bin_far_from_every_peak_turns_alone(self) -> None:
        slope = torch.arange(300.0, 0, -1).to(torch.complex64).view(1, 1, -1)
        turn = torch.arange(300, dtype=torch.int32).view(1, 1, -1)
        found = _of_nearest_peak(turn.add(_phases_and_peaks(slope)[1], alpha=_BESIDE))[0, 0]
        assert found[:32].eq(0).all()
        assert torch.equal(found[32:], torch.arange(32, 300, dtype=torch.int32))

    @pytest.mark.parametrize("frames", [1, 5, 16, 37, 48])
    def test_running_sums_wrap_like_angles(self, frames: int) -> None:
        generator = torch.Generator().manual_seed(frames)
        advance = torch.randint(-(1 << 31), 1 << 31, (2, frames, 3), dtype=torch.int64, generator=generator)
        sums = advance.to(torch.int32)
        _running_sum_(sums)
        assert torch.equal(sums, advance.cumsum(1).to(torch.int32))

    def test_a_phase_is_the_angle_in_turns(self) -> None:
        angle = torch.linspace(-pi, pi, 401, dtype=torch.float64)
        phase = _phases_and_peaks(torch.polar(torch.ones_like(angle), angle).to(torch.complex64)[None, None])[0]
        off = torch.remainder(phase[0, 0] / 2.0**32 - angle / (2 * pi) + 0.5, 1) - 0.5
        assert off.abs().max() < 2e-7

    def test_settled_frames_are_nearer_to_frames_of_a_wave(self) -> None:
        generator, window = torch.Generator().manual_seed(0), torch.hann_window(512)
        frames = torch.randn(2, 9, 257, dtype=torch.complex64, generator=generator)

        def of_a_wave(frames_nJK: Tensor) -> Tensor:
            wave = _overlap_add(torch.fft.irfft(frames_nJK, 512), window, 128)
            again: Tensor = torch.fft.rfft(wave.unfold(-1, 512, 128) * window)
            return again

        settled = _settled(frames, window, 128)
        torch.testing.assert_close(settled.abs(), frames.abs())
        before, after = ((of_a_wave(x) - x).abs().square().sum() for x in (frames, settled))
        assert after < 0.8 * before
        wave_frames = of_a_wave(frames)
        torch.testing.assert_close(_settled(wave_frames, window, 128)[:, 3:-3], wave_frames[:, 3:-3])

    @pytest.mark.parametrize("tempo", [0.8, 1.25])
    def test_in_evaluation_notes_struck_anew_keep_their_level(self, tempo: float) -> None:
        generator = torch.Generator().manual_seed(0)
        hz = 110 * 2 ** (torch.randint(0, 36, (8, 3, 1), generator=generator) / 12)
        period_s = 0.3 + 0.3 * torch.rand(8, 3, 1, generator=generator)
        since = torch.remainder(torch.arange(2 * RATE) / RATE, period_s)
        partials = torch.stack([torch.sin(2 * pi * hz * h * since + h) / h for h in range(1, 9)]).sum(0)
        wave = (partials * torch.exp(-4 * since) * (since / 0.003).clamp(max=1)).sum(1)

        def level_db(x: Tensor) -> Tensor:
            return 10 * x.square().mean(1).log10()

        moved = pitch_time(wave, torch.ones(8), torch.full((8,), tempo), n_fft=2048, num_samples=RATE)
        off_db = level_db(moved) - level_db(wave[:, : round(RATE * tempo)])
        assert off_db.abs().max() < 0.15  # 0.37 where phases are not settled

    def test_a_hop_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match="hop must divide n_fft"):
            pitch_time(torch.zeros(1, 100), torch.ones(1), torch.ones(1), n_fft=1024, hop=300)

    def test_gradients_flow_to_the_wave(self, music: Callable[..., Tensor]) -> None:
        wave = music(2, 4000).requires_grad_()
        torch.autograd.backward(pitch_time(wave, torch.tensor([1.1, 0.9]), torch.ones(2)).square().sum())
        assert wave.grad is not None
        assert wave.grad.isfinite().all()
        assert float(wave.grad.abs().sum()) > 0


class TestFilter:
    @pytest.mark.parametrize(
        ("kind", "low_hz", "high_hz", "lives", "dies"),
        [
            ("low_pass", 1000.0, 1.0, (200, 700), (1500, 5000)),
            ("high_pass", 1000.0, 1.0, (1500, 5000), (200, 600)),
            ("band_pass", 800.0, 2000.0, (1200, 1500), (200, 4000)),
            ("band_cut", 800.0, 2000.0, (200, 4000), (1200, 1500)),
        ],
    )
    def test_below_and_above_the_cutoff(
        self,
        kind: str,
        low_hz: float,
        high_hz: float,
        lives: tuple[float, ...],
        dies: tuple[float, ...],
        tone: Callable[..., Tensor],
    ) -> None:
        def gain(hz: float) -> float:
            out = shape_spectrum(tone(hz)[None], sample_rate=RATE, filters=filters(kind, low_hz, high_hz))
            return float(out[0, 3000:-3000].abs().max()) / 0.5

        assert all(abs(gain(hz) - 1) < 0.02 for hz in lives)
        assert all(gain(hz) < 0.01 for hz in dies)

    @pytest.mark.parametrize("kind", ["low_pass", "high_pass", "band_pass", "band_cut"])
    @pytest.mark.parametrize(("low_hz", "high_hz"), [(150.0, 900.0), (1000.0, 2500.0)])
    def test_inside_it_is_juliuss_filter(
        self, kind: str, low_hz: float, high_hz: float, music: Callable[..., Tensor]
    ) -> None:
        julius = pytest.importorskip("julius", reason="optional extra bench")
        wave = music(2)
        band = julius.bandpass_filter(wave, low_hz / RATE, high_hz / RATE)
        theirs = {
            "low_pass": lambda: julius.lowpass_filter(wave, low_hz / RATE),
            "high_pass": lambda: julius.highpass_filter(wave, low_hz / RATE),
            "band_pass": lambda: band,
            "band_cut": lambda: wave - band,
        }[kind]()
        ours = shape_spectrum(wave, sample_rate=RATE, filters=filters(kind, low_hz, high_hz, rows=2))
        assert float((ours - theirs)[:, 2000:-2000].abs().max()) < 1e-4  # their kernel is normalised after sampling

    def test_nothing_wraps_around_the_ends(self) -> None:
        wave = torch.zeros(1, RATE)
        wave[0, -1] = 1
        out = shape_spectrum(wave, sample_rate=RATE, filters=filters("low_pass", 150.0))
        assert float(out[0, : RATE // 2].abs().max()) < 1e-6

    def test_kind_none_among_others_leaves_a_row_alone(self, music: Callable[..., Tensor]) -> None:
        wave = music(2)
        mixed = Filters(torch.tensor([0, 1]), torch.tensor([500.0, 500.0]), torch.ones(2))
        torch.testing.assert_close(shape_spectrum(wave, sample_rate=RATE, filters=mixed)[0], wave[0])


class TestNoise:
    def noise(self, snr: float, slope: float, rows: int = 1, seed: int = 5) -> Noise:
        seeds = torch.arange(rows) + seed
        return Noise(torch.full((rows,), snr), torch.full((rows,), slope), seeds)

    @pytest.mark.parametrize("snr", [3.0, 30.0])
    @pytest.mark.parametrize("slope", [-0.33, 0.0, 0.33])
    def test_the_ratio_is_as_drawn(self, snr: float, slope: float, music: Callable[..., Tensor]) -> None:
        wave = music(4)
        noise = shape_spectrum(wave, sample_rate=RATE, noise=self.noise(snr, slope, 4)) - wave
        ratio_db = 10 * (wave.square().mean(1) / noise.square().mean(1)).log10()
        assert (ratio_db - snr).abs().max() < 0.35

    @pytest.mark.parametrize("decay_db_per_octave", [-4.0, -2.0, 0.0, 2.0, 4.0])
    def test_the_slope_is_as_drawn(self, decay_db_per_octave: float) -> None:
        wave = torch.randn(8, 59_049, generator=torch.Generator().manual_seed(0))
        slope = decay_db_per_octave / (20 * log10(2))
        noise = shape_spectrum(wave, sample_rate=RATE, noise=self.noise(0.0, slope, 8)) - wave
        power = torch.fft.rfft(noise).abs().square().mean(0)
        octaves = [power[2**k : 2 ** (k + 1)].mean().item() for k in range(8, 14)]
        measured = [10 * log10(b / a) for a, b in pairwise(octaves)]
        assert all(abs(value - decay_db_per_octave) < 0.4 for value in measured)

    @pytest.mark.parametrize(("f_decay", "steep_db"), [(2.0, -11.8), (-2.0, 11.8)])
    def test_as_released_a_decay_is_an_exponent_and_the_spectrum_flat_below_106_hz(
        self, f_decay: float, steep_db: float
    ) -> None:
        released = PRESETS["as_released"]
        loud = replace(
            released.noise, p=1.0, min_snr_in_db=0.0, max_snr_in_db=0.0, min_f_decay=f_decay, max_f_decay=f_decay
        )
        chain = AugmentChain(replace(PRESETS["none"], noise=loud), RATE)
        wave = torch.randn(16, 59_049, generator=torch.Generator().manual_seed(0))
        noise = chain.apply(wave, chain.draw(torch.arange(16), step=0, seed=0, view=0)) - wave
        power_K = torch.fft.rfft(noise * torch.hann_window(59_049)).abs().square().mean(0)
        hz_K = torch.fft.rfftfreq(59_049, 1 / RATE)

        def level_db(low_hz: float, high_hz: float) -> float:
            return 10 * log10(float(power_K[(hz_K >= low_hz) & (hz_K < high_hz)].mean()))

        # Amplitude (1 + f/106)^-decay: 12.04 dB an octave far above the knee, a little less near it.
        slopes = [level_db(2 * hz, 4 * hz) - level_db(hz, 2 * hz) for hz in (1_300, 2_600)]
        assert slopes == pytest.approx([steep_db] * 2, abs=0.5)
        assert abs(level_db(10, 20) - level_db(5, 10)) < 2.5
        around_the_knee_db = -f_decay * 20 * log10((1 + 159 / 106) / (1 + 53 / 106))
        assert level_db(150, 168) - level_db(50, 56) == pytest.approx(around_the_knee_db, abs=1.0)

    def test_silence_gets_none_and_a_seed_is_a_noise(self, music: Callable[..., Tensor]) -> None:
        silence = torch.zeros(1, 5000)
        assert torch.equal(shape_spectrum(silence, sample_rate=RATE, noise=self.noise(3, 0)), silence)
        wave = music(2)[:1].repeat(3, 1)
        seeds = Noise(torch.full((3,), 3.0), torch.zeros(3), torch.tensor([1, 1, 2]))
        out = shape_spectrum(wave, sample_rate=RATE, noise=seeds)
        assert torch.equal(out[0], out[1])
        assert not torch.equal(out[0], out[2])

    def test_noise_then_filter_in_one_pass_is_both_one_by_one(self, music: Callable[..., Tensor]) -> None:
        wave, noise, low = music(3), self.noise(5, 0.2, 3), filters("low_pass", 700.0, rows=3)
        fused = shape_spectrum(wave, sample_rate=RATE, noise=noise, filters=low)
        stepwise = shape_spectrum(shape_spectrum(wave, sample_rate=RATE, noise=noise), sample_rate=RATE, filters=low)
        assert float((fused - stepwise)[:, 1000:-1000].abs().max()) < 1e-6
        assert float((fused - stepwise).abs().max()) < 5e-2

    def test_phases_are_uniform_and_uncorrelated(self) -> None:
        phases = random_phases(torch.tensor([0, 1, 2**62]), 40_000)
        torch.testing.assert_close(phases.abs(), torch.ones(3, 40_000))
        assert phases.mean(1).abs().max() < 0.02
        assert abs(complex((phases[:, 1:] * phases[:, :-1].conj()).mean())) < 0.02
        assert abs(complex((phases[0] * phases[1].conj()).mean())) < 0.02

    def test_samples_are_gaussian(self) -> None:
        wave = torch.ones(1, 59_049)
        noise = shape_spectrum(wave, sample_rate=RATE, noise=self.noise(0, 0)) - wave
        unit = noise / noise.std()
        assert float(unit.pow(4).mean()) == pytest.approx(3, abs=0.15)


class TestDelay:
    def test_echoes_lie_at_the_delay_and_level_asked(self) -> None:
        wave = torch.zeros(2, 4000)
        wave[:, 10] = 1
        out = echo(
            wave, torch.tensor([1000, 700]), torch.tensor([3, 1]), torch.tensor([0.5, 0.7]), torch.tensor([1.0, 0.25])
        )
        assert out[0].nonzero()[:, 0].tolist() == [10, 1010, 2010, 3010]
        torch.testing.assert_close(out[0, [10, 1010, 2010, 3010]], torch.tensor([1, 0.5, 0.25, 0.125]))
        assert out[1].nonzero()[:, 0].tolist() == [10, 710]
        assert float(out[1, 710]) == pytest.approx(0.175)

    def test_as_released_the_first_tap_is_undelayed_and_the_sum_halved(self) -> None:
        wave = torch.zeros(1, 300)
        wave[0, 0] = 1
        taps = torch.tensor([100]), torch.tensor([3]), torch.tensor([0.7]), torch.tensor([0.3])
        out = echo(wave, *taps, first_tap=0, output_gain=0.5)[0]
        expected = torch.zeros(300)
        expected[[0, 100, 200]] = torch.tensor([0.5 * (1 + 0.3 * 0.7), 0.5 * 0.3 * 0.49, 0.5 * 0.3 * 0.343])
        torch.testing.assert_close(out, expected)

    def test_slices_and_gather_are_the_same(self, music: Callable[..., Tensor]) -> None:
        wave = music(3, 5000)
        offset = torch.tensor([[0, 10, 6000], [100, 200, 300], [1, 4999, 5000]])
        gain = torch.tensor([[0.5, 0.2, 0.1], [0.0, 0.3, 0.2], [0.1, 0.1, 0.1]])
        sliced = _add_by_slices(wave.clone(), wave, offset, gain)
        torch.testing.assert_close(sliced, _add_by_gather(wave.clone(), wave, offset, gain))
