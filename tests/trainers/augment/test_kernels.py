"""The kernels against the chain written in torch, stage by stage on equal inputs: interpreted on a CPU, or on a GPU."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from trainers.augment.chain import AugmentChain
from trainers.augment.drawing import ViewParameters
from trainers.augment.dsp import phase_vocoder, spectral
from trainers.augment.dsp.delay import echo
from trainers.augment.dsp.resampling import SPLINE_REACH, read_spline
from trainers.augment.parameters import PRESETS, AugmentConfig
from trainers.augment.passes import Rows

pytest.importorskip("triton")

from trainers.augment.kernels import segments, spectrum, turning, vocoder

RATE, HOP = 22_050, 256
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process in which Triton interprets its kernels on the CPU; it must know so before it imports them."""
    pytest.importorskip("triton")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
            pool.submit(int).result()
        yield pool


@pytest.fixture(params=["interpreted", pytest.param("cuda", marks=pytest.mark.gpu)])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run a function that launches kernels, interpreted or on the GPU; what it writes in place is seen here too."""
    if request.param == "interpreted":
        pool: ProcessPoolExecutor = request.getfixturevalue("interpreter")

        def interpreted(work: Callable[..., Any], *args: Any, **options: Any) -> Any:
            shared = [_shared(x) for x in args]
            return pool.submit(work, *shared, **options).result()

        return interpreted
    if not torch.cuda.is_available():
        pytest.skip("no GPU")

    def on_gpu(work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        there = [_on_gpu(x) for x in args]
        result = work(*there, **options)
        for here, moved in zip(args, there, strict=True):
            if isinstance(here, Tensor):
                here.copy_(moved)
        return result.cpu() if isinstance(result, Tensor) else result

    return on_gpu


def _shared(value: Any) -> Any:
    return value.share_memory_() if isinstance(value, Tensor) else value  # type: ignore[no-untyped-call]


def _on_gpu(value: Any) -> Any:
    """Tensors over there, and those of tuples but for what a chain wants on the host: draws in float32, places."""
    if isinstance(value, Rows):
        return value._replace(wave_BW=value.wave_BW.cuda())
    if isinstance(value, ViewParameters) and value.gain.dtype == torch.float32:
        return value
    if isinstance(value, tuple):
        return type(value)(*(_on_gpu(x) for x in value))
    return value.cuda() if isinstance(value, Tensor) else value


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise_like(*shape: int, seed: int = 0, **options: Any) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


def on_the_device(drawn: Any) -> Any:
    """Parameters as the kernels read them."""
    return drawn._replace(**{k: v.double() for k, v in drawn._asdict().items() if v.is_floating_point()})


def sure(*effects: str, preset: str = "none", **changes: Any) -> AugmentConfig:
    """These effects for every row, no other."""
    config = PRESETS[preset].scaled(0)
    return replace(config, **{name: replace(getattr(PRESETS["paper"], name), p=1.0) for name in effects}, **changes)


class TestEnds:
    def test_a_segment_is_its_samples_times_the_gain_bit_for_bit(self, run: Run) -> None:
        wave = torch.randint(-32_768, 32_768, (3, 5000), generator=torch.Generator().manual_seed(0)).to(torch.int16)
        row, start, frames = (
            torch.tensor([2, 0, 1, 1]),
            torch.tensor([1, 1999, 0, 0]),
            torch.tensor([5000, 5000, 700, 1]),
        )
        gain = doubles(0.31, -1.0, 1.0, 1.7).float().double()
        out = run(segments.read_segments, wave, row, start, frames, gain, length=3001, columns=3010, scale=2.0**-15)
        place = start[:, None] + torch.arange(3001) % frames[:, None]
        expected = wave[row].float().div(32_768).gather(1, place) * gain.float()[:, None]
        assert torch.equal(out[:, :3001], expected)
        assert torch.equal(out[:, 3001:], torch.zeros(4, 9))

    @pytest.mark.parametrize(("first_tap", "output_gain"), [(1, 1.0), (0, 0.5)])
    def test_echoes_are_those_of_the_chain(self, run: Run, first_tap: int, output_gain: float) -> None:
        wave, to = noise_like(5, 5001), torch.tensor([4, 0, 1, 3, 2])
        delay, many = torch.tensor([1, 700, 6000, 2500, 100]), torch.tensor([3, 1, 2, 0, 2])
        kept, wet = doubles(0.5, 0.7, 0.6, 0.5, 0.6), doubles(1.0, 0.25, 0.5, 1.0, 0.3)
        out = torch.full((5, 5001), torch.nan)
        taps = {"first_tap": first_tap, "output_gain": output_gain}
        run(segments.write_with_echoes, wave, out, to, delay, many, kept, wet, **taps)
        expected = echo(wave, delay, many, kept.float(), wet.float(), **taps)  # type: ignore[arg-type]
        expected[3] = wave[3]
        torch.testing.assert_close(out[to], expected, rtol=0, atol=1e-6)
        assert torch.equal(out[3], wave[3])


class TestSpectrum:
    def shaped(self, run: Run, wave: Tensor, drawn: Any, *, noisy: bool, filtered: bool) -> Tensor:
        """What the kernels make of the rows, as `shape_spectrum` returns it."""
        n, T = wave.shape
        size = spectral.transform_length(T)
        there, everyone = on_the_device(drawn), torch.arange(n)
        log_hz, level = spectral.log_frequencies(size, RATE, 0.0), torch.zeros(n)
        if noisy:
            run(spectrum.noise_level, wave, everyone, there.snr_db, there.noise_slope, log_hz, level)
        pairs = torch.view_as_complex(torch.nn.functional.pad(wave, (0, size - T)).view(n, size // 2, 2))
        before = torch.fft.fft(pairs) if filtered else None
        shape = spectrum.Shape(log_hz, spectral.edge_table(wave.device), RATE)
        after = run(spectrum.shape_pairs, before, everyone, there, level, shape, rows=n)
        out = wave.clone()
        run(
            spectrum.put_rows,
            torch.view_as_real(torch.fft.ifft(after, norm="forward")).flatten(1),
            out,
            everyone,
            add=not filtered,
        )
        return out

    @pytest.mark.parametrize("samples", [1, 700])
    @pytest.mark.parametrize(("noisy", "filtered"), [(True, False), (False, True), (True, True)])
    def test_noise_and_filters_are_those_of_the_chain(
        self, run: Run, samples: int, noisy: bool, filtered: bool
    ) -> None:
        wave = noise_like(6, samples)
        wave[4], wave[5] = 0.0, 0.7
        drawn = AugmentChain(sure("noise", "filter"), RATE).draw(torch.arange(6), step=0, seed=3, view=0)
        drawn = drawn._replace(filter_kind=torch.tensor([0, 1, 2, 3, 4, 1]))
        noise = spectral.Noise(drawn.snr_db, drawn.noise_slope, drawn.noise_seed) if noisy else None
        filters = spectral.Filters(drawn.filter_kind, drawn.low_hz, drawn.high_hz) if filtered else None
        expected = spectral.shape_spectrum(wave, sample_rate=RATE, noise=noise, filters=filters)
        out = self.shaped(run, wave, drawn, noisy=noisy, filtered=filtered)
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)
        assert torch.equal(out[4], torch.zeros(samples))


class TestVocoder:
    def alike(self, out: Tensor, expected: Tensor) -> None:
        """The eager phases are rounded to 2^16 a turn, noise at −91 dB."""
        assert float((out - expected).square().sum() / expected.square().sum()) < 1e-8

    @pytest.mark.parametrize("n_fft", [1024, 2048])
    @pytest.mark.parametrize("samples", [1, 3000])
    def test_frames_are_windowed_with_silence_around(self, run: Run, n_fft: int, samples: int) -> None:
        wave, row, window = noise_like(3, samples), torch.tensor([2, 0]), torch.hann_window(n_fft)
        padded = torch.nn.functional.pad(wave, (n_fft // 2, 2 * n_fft)).unfold(1, n_fft, HOP) * window
        F = vocoder.analysis_frames(samples, n_fft, HOP)
        out = run(vocoder.windowed_frames, wave, row, window, hop=HOP)
        assert padded.shape[1] == F
        assert torch.equal(out[: 2 * F].view(2, F, n_fft), padded[row])

    @pytest.mark.parametrize(("n_fft", "parts"), [(1024, 1), (1024, 3), (2048, 2)])
    def test_frames_are_turned_as_in_the_chain(self, run: Run, n_fft: int, parts: int) -> None:
        F, J, half = 4, 5, n_fft // 2
        silence, constant = torch.zeros(1, F * n_fft), torch.full((1, F * n_fft), 0.3)
        waves = torch.cat([noise_like(1, F * n_fft), silence, constant])
        analysed = torch.fft.rfft(waves.view(3, F, n_fft) * torch.hann_window(n_fft))
        ratio, tempo = doubles(0.83, 1.2, 1.1), doubles(1.0, 1.3, 0.8)
        turned = run(
            turning.turn_frames,
            analysed.flatten(0, 1),
            torch.arange(3),
            ratio,
            tempo,
            frames=F,
            moved=J,
            rows=18,
            parts=parts,
        )
        weights = phase_vocoder._weights(ratio, n_fft, 3 if n_fft < 2048 else 5, torch.float32)
        expected = phase_vocoder._synthesis_frames(analysed, tempo / ratio, 16)[:, :J] * weights[:, None]
        assert turned.shape == (18, half)
        spoken = torch.view_as_real(torch.fft.ifft(turned[: 3 * J], norm="forward")).reshape(3, J, n_fft)
        self.alike(spoken, torch.fft.irfft(expected, n_fft))
        assert torch.equal(spoken[1], torch.zeros(J, n_fft))

    @pytest.mark.parametrize("n_fft", [1024, 2048])
    def test_the_owner_of_nyquist_is_found_on_both_sides(self, run: Run, n_fft: int) -> None:
        """Peaks at the last bin, next to it, far from it; a ratio of one keeps that bin."""
        half = n_fft // 2
        analysed = 1e-3 * noise_like(3, 4, half + 1, dtype=torch.complex64)
        for row, peak in enumerate((half, half - 1, half - 40)):
            analysed[row] *= torch.exp(-0.2 * (torch.arange(half + 1) - peak).abs())
        one = doubles(1.0, 1.0, 1.0)
        turned = run(turning.turn_frames, analysed.flatten(0, 1), torch.arange(3), one, one, frames=4, moved=2, rows=6)
        weights = phase_vocoder._weights(one, n_fft, 3 if n_fft < 2048 else 5, torch.float32)
        expected = phase_vocoder._synthesis_frames(analysed, one, 16)[:, :2] * weights[:, None]
        spoken = torch.view_as_real(torch.fft.ifft(turned, norm="forward")).reshape(3, 2, n_fft)
        self.alike(spoken, torch.fft.irfft(expected, n_fft))

    @pytest.mark.parametrize("n_fft", [1024, 2048])
    def test_overlap_and_reading_are_those_of_the_chain(self, run: Run, n_fft: int) -> None:
        J, T, window, degree = 12, 1000, torch.hann_window(n_fft), 3 if n_fft < 2048 else 5
        spoken = noise_like(3, J, n_fft)
        stretched = run(vocoder.overlap_add, spoken.flatten(0, 1), 3, window, frames=J, hop=HOP)
        expected = phase_vocoder._overlap_add(spoken, window, HOP)[:, n_fft // 2 - SPLINE_REACH :]
        torch.testing.assert_close(stretched, expected, rtol=0, atol=3e-6)
        wave, row = torch.full((4, T + 5), torch.nan), torch.tensor([3, 1, 0])
        four = doubles(1.0, 1.26, 0.0, 0.8)
        run(vocoder.read_rows, stretched, wave, row, four, columns=T, degree=degree)
        expected = read_spline(stretched, four[row], T, degree=degree)
        torch.testing.assert_close(wave[row, :T], expected, rtol=0, atol=3e-6)
        assert wave[2].isnan().all()
        assert wave[:, T:].isnan().all()


class TestChain:
    def apply(self, run: Run, chain: AugmentChain, wave: Tensor, drawn: Any, samples: int) -> Tensor:
        fused = AugmentChain(chain.config, RATE, fused=True)
        out: Tensor = run(fused.apply, wave, drawn, samples)
        return out

    @pytest.mark.parametrize("samples", [1, 600])
    def test_a_chain_is_the_eager_one(
        self, run: Run, samples: int, music: Callable[..., Tensor], snr_db: Callable[[Tensor, Tensor], float]
    ) -> None:
        wave = music(6, samples)
        wave[4], wave[5] = 0.0, 1.0
        chain = AugmentChain(replace(PRESETS["paper"], delay=replace(PRESETS["paper"].delay, min_delay_ms=5.0)), RATE)
        drawn = chain.draw(torch.arange(6), step=0, seed=4, view=0)
        out, expected = self.apply(run, chain, wave, drawn, samples), chain.apply(wave, drawn)
        assert all(drawn.received[name].any() for name in ("gain", "noise", "filter", "pitch", "delay"))
        assert out.shape == expected.shape
        assert torch.equal(out[4], torch.zeros(samples))
        assert min(snr_db(a, b) for a, b in zip(expected[:4], out[:4], strict=True)) > 40
        # A high pass leaves next to nothing of a constant, so row 5 is left out of that ratio.
        torch.testing.assert_close(out[5], expected[5], rtol=0, atol=1e-4)

    def test_rows_that_read_more_and_rows_that_do_not_in_one_batch(
        self, run: Run, music: Callable[..., Tensor], snr_db: Callable[[Tensor, Tensor], float]
    ) -> None:
        wave = music(4, 1200)
        config = sure("noise", "stretch", "delay", order=("delay", "pitch", "filter", "noise"))
        chain = AugmentChain(replace(config, stretch=replace(config.stretch, p=0.5)), RATE)
        drawn = chain.draw(torch.arange(4), step=0, seed=0, view=0)
        assert 0 < drawn.received["stretch"].sum() < 4
        out, expected = self.apply(run, chain, wave, drawn, 900), chain.apply(wave, drawn, 900)
        assert min(snr_db(a, b) for a, b in zip(expected, out, strict=True)) > 40

    def test_rows_without_pitch_and_tempo_go_through_the_vocoder_too(
        self, run: Run, music: Callable[..., Tensor], snr_db: Callable[[Tensor, Tensor], float]
    ) -> None:
        wave = music(3, 1500)
        chain = AugmentChain(replace(PRESETS["none"], identity_through_vocoder=True), RATE)
        drawn = chain.draw(torch.arange(3), step=0, seed=0, view=0)
        out, expected = self.apply(run, chain, wave, drawn, 1200), chain.apply(wave, drawn, 1200)
        assert not torch.equal(out, wave[:, :1200])
        assert min(snr_db(a, b) for a, b in zip(expected, out, strict=True)) > 40

    @pytest.mark.parametrize("name", ["paper", "as_released"])
    def test_severity_zero_is_the_identity_bit_for_bit(self, run: Run, name: str, music: Callable[..., Tensor]) -> None:
        wave = music(5, 3000)
        chain = AugmentChain(PRESETS[name].scaled(0), RATE)
        drawn = chain.draw(torch.arange(5), step=0, seed=0, view=0)
        assert torch.equal(self.apply(run, chain, wave, drawn, 2500), wave[:, :2500])

    def test_windows_are_read_as_segments(self, run: Run) -> None:
        wave = torch.randint(-3000, 3000, (2, 4000)).to(torch.int16)
        chain = AugmentChain(sure("gain"), RATE, fused=True)
        drawn = chain.draw(torch.arange(3), step=0, seed=0, view=0)
        where = torch.tensor([1, 0, 1]), torch.tensor([7, 100, 0]), torch.tensor([4000, 4000, 300])
        out = run(chain.apply_fused, Rows(wave, *where, 2000, 2.0**-15), drawn, 1500)
        assert out.shape == (3, 1500)
        assert torch.equal(out[0], wave[1, 7:1507].float() / 32_768 * drawn.gain[0])
        assert torch.equal(out[2], wave[1, torch.arange(1500) % 300].float() / 32_768 * drawn.gain[2])


def test_no_batch_at_all_gives_none(run: Run) -> None:
    chain = AugmentChain(PRESETS["paper"], RATE, fused=True)
    drawn = chain.draw(torch.arange(0), step=0, seed=0, view=0)
    assert run(chain.apply, torch.zeros(0, 500), drawn, 400).shape == (0, 400)
