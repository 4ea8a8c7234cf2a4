"""The chain on a GPU: kernels where no gradient is wanted, the same noise, bounded memory, no wait, its own stream."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from data_shards.format.records import Batch
from trainers.augment.chain import AugmentChain
from trainers.augment.dsp.spectral import random_phases
from trainers.augment.parameters import PRESETS, AugmentConfig
from trainers.frontends.config import FrontendConfig
from trainers.views.config import ViewsConfig
from trainers.views.views import ViewMaker, stream_views, window_frames

RATE, T = 22_050, 59_049
PAPER = PRESETS["paper"]


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device("cuda")


def only(effect: str) -> AugmentConfig:
    return replace(PRESETS["none"], **{effect: replace(getattr(PAPER, effect), p=1.0)})


def make_batch(clips: int, frames: int) -> Batch:
    wave = (3000 * torch.randn(clips, frames, generator=torch.Generator().manual_seed(0))).to(torch.int16)
    slots = torch.arange(clips)
    lengths = torch.full((clips,), frames)
    lengths[0] = 9000  # shorter than a view: repeated
    return Batch(wave, lengths, slots, torch.zeros(clips, 1, dtype=torch.bool), slots)


def test_on_a_cpu_the_chain_is_eager_unless_told_otherwise() -> None:
    wave = torch.zeros(1, 10)
    assert not AugmentChain(PAPER, RATE).is_fused(wave)
    assert AugmentChain(PAPER, RATE, fused=True).is_fused(wave)
    assert not AugmentChain(PAPER, RATE, fused=False).is_fused(wave)


@pytest.mark.gpu
class TestOnGpu:
    def test_kernels_take_what_wants_no_gradient(self, gpu: torch.device) -> None:
        chain = AugmentChain(PAPER, RATE)
        wave = torch.zeros(1, 10, device=gpu)
        assert chain.is_fused(wave)
        assert chain.is_fused(wave.to(torch.int16))
        assert not chain.is_fused(wave.double())
        assert not chain.is_fused(wave.clone().requires_grad_())
        with torch.no_grad():
            assert chain.is_fused(wave.clone().requires_grad_())

    def test_gradients_still_flow(self, gpu: torch.device, music: Callable[..., Tensor]) -> None:
        wave = music(8, 4000).to(gpu).requires_grad_()
        chain = AugmentChain(PAPER.scaled(4), RATE)
        torch.autograd.backward(chain.apply(wave, chain.draw(torch.arange(8), step=0, seed=0, view=0)).square().sum())
        assert wave.grad is not None
        assert wave.grad.isfinite().all()
        assert (wave.grad.abs().sum(1) > 0).all()

    @pytest.mark.parametrize("effect", ["gain", "polarity", "noise", "filter", "delay"])
    def test_every_linear_effect_is_the_eager_one(
        self, gpu: torch.device, effect: str, music: Callable[..., Tensor]
    ) -> None:
        wave = music(16, T).to(gpu)
        chain = AugmentChain(only(effect), RATE)
        drawn = chain.draw(torch.arange(16), step=0, seed=0, view=0)
        expected = AugmentChain(only(effect), RATE, fused=False).apply(wave, drawn)
        torch.testing.assert_close(chain.apply(wave, drawn), expected, rtol=0, atol=3e-6)

    @pytest.mark.parametrize("name", ["paper", "as_released", "mule_both"])
    @pytest.mark.parametrize("quality", ["training", "evaluation"])
    def test_the_chain_is_the_eager_one(
        self,
        gpu: torch.device,
        name: str,
        quality: Any,
        music: Callable[..., Tensor],
        snr_db: Callable[[Tensor, Tensor], float],
    ) -> None:
        wave = music(40, T).to(gpu)
        config = replace(PRESETS[name], quality=quality)
        chain = AugmentChain(config, RATE)
        drawn = chain.draw(torch.arange(40), step=0, seed=0, view=0)
        expected = AugmentChain(config, RATE, fused=False).apply(wave, drawn, 44_000)
        out = chain.apply(wave, drawn, 44_000)
        assert out.isfinite().all()
        assert min(snr_db(a, b) for a, b in zip(expected, out, strict=True)) > 35

    def test_a_seed_is_the_same_noise_as_on_the_cpu(self, gpu: torch.device, music: Callable[..., Tensor]) -> None:
        seeds = torch.tensor([0, 1, 2**62 + 12_345])
        assert torch.equal(random_phases(seeds.to(gpu), 32_769).cpu(), random_phases(seeds, 32_769))
        chain = AugmentChain(only("noise"), RATE)
        drawn, wave = chain.draw(torch.arange(8), step=0, seed=0, view=0), music(8, T)
        torch.testing.assert_close(chain.apply(wave.to(gpu), drawn).cpu(), chain.apply(wave, drawn), rtol=0, atol=5e-6)

    def test_few_rows_split_among_programs_are_many_rows(
        self, gpu: torch.device, music: Callable[..., Tensor], snr_db: Callable[[Tensor, Tensor], float]
    ) -> None:
        wave = music(600, 20_000).to(gpu)
        chain = AugmentChain(only("pitch"), RATE)
        drawn = chain.draw(torch.arange(600), step=0, seed=0, view=0)
        whole, part = chain.apply(wave, drawn), chain.apply(wave[:3], drawn.rows(slice(3)))
        assert min(snr_db(a, b) for a, b in zip(whole, part, strict=False)) > 35

    def test_memory_is_bounded_by_the_chunk(self, gpu: torch.device) -> None:
        def working_memory(rows: int) -> int:
            wave = torch.randn(rows, 20_000, device=gpu)
            drawn = chain.draw(torch.arange(rows), step=0, seed=0, view=0)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            out = chain.apply(wave, drawn)
            return torch.cuda.max_memory_allocated() - before - 2 * out.nbytes

        chain = AugmentChain(only("pitch"), RATE)
        assert working_memory(2048) < 1.1 * working_memory(1024)

    def test_the_host_never_waits(self, gpu: torch.device) -> None:
        chain = AugmentChain(PAPER, RATE)
        wave = torch.randn(32, T, device=gpu)
        draws = [chain.draw(torch.arange(32), step=step, seed=0, view=0) for step in range(2)]
        chain.apply(wave, draws[0])  # tables are copied once
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            out = chain.apply(wave, draws[1])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert chain.is_fused(wave)
        assert out.isfinite().all()

    @pytest.mark.parametrize("frontend", ["wave", "mel"])
    def test_views_made_one_batch_ahead_on_their_stream_are_those_made_in_line(
        self, gpu: torch.device, frontend: str
    ) -> None:
        views = ViewsConfig(samples=20_000, chunk=24)
        maker = ViewMaker(views, PAPER, FrontendConfig(kind=frontend), device=gpu)
        batches = [(step, make_batch(32, window_frames(views, PAPER))) for step in range(5)]
        expected = [maker.make(batch, step=step, seed=1) for step, batch in batches]
        torch.cuda.synchronize()
        for there, streamed in zip(expected, stream_views(maker, batches, seed=1), strict=True):
            torch.randn(2048, 2048, device=gpu) @ torch.randn(2048, 2048, device=gpu)  # work beside it
            assert streamed.input_N.dtype == torch.float32
            assert torch.equal(streamed.input_N, there.input_N)
            assert torch.equal(streamed.clip_id_N, there.clip_id_N)

    def test_fused_views_are_the_eager_ones(self, gpu: torch.device, snr_db: Callable[[Tensor, Tensor], float]) -> None:
        views, batch = ViewsConfig(samples=20_000), make_batch(24, 50_000)
        maker = ViewMaker(views, PAPER, FrontendConfig(), device=gpu)
        fused = maker.make(batch, step=0, seed=0).input_N
        maker.chain.fused = False
        eager = maker.make(batch, step=0, seed=0).input_N
        assert min(snr_db(a, b) for a, b in zip(eager, fused, strict=True)) > 35
