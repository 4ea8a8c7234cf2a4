"""Views: where segments lie, whom draws belong to, what short clips become."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data_shards.format.records import Batch, Windows
from trainers.augment.parameters import PRESETS
from trainers.frontends.config import FrontendConfig
from trainers.views.config import ViewsConfig
from trainers.views.views import ViewMaker, read_frames, stream_views, window_frames

T = 4000
WAVE = FrontendConfig()
NONE = PRESETS["none"]


def batch(window: int, frames: list[int]) -> Batch:
    """Every sample encodes its clip and place: clip · 10,000 + place, behind the end 0."""
    B = len(frames)
    place = torch.arange(window)
    wave = torch.stack([torch.where(place < f, b * 10_000 + place % 10_000, 0) for b, f in enumerate(frames)])
    slots = torch.arange(B)
    return Batch(wave.to(torch.int16), torch.tensor(frames), slots + 100, torch.eye(B, dtype=torch.bool), slots)


def as_places(input_N: Tensor) -> Tensor:
    return (input_N * 32_768).round().long()


def maker(count: int = 2, **settings: object) -> ViewMaker:
    return ViewMaker(replace(ViewsConfig(count=count, samples=T), **settings), NONE, WAVE)  # type: ignore[arg-type] # mixed


def test_two_views_are_adjacent_segments_in_view_major_order() -> None:
    views = maker().make(batch(2 * T, [2 * T] * 3), step=0, seed=0)
    assert views.input_N.shape == (6, T)
    assert views.clip_id_N.tolist() == [100, 101, 102, 100, 101, 102]
    assert torch.equal(views.labels_NC, torch.eye(3, dtype=torch.bool).repeat(2, 1))
    for b in range(3):
        assert torch.equal(as_places(views.input_N[b]), b * 10_000 + torch.arange(T))
        assert torch.equal(as_places(views.input_N[3 + b]), b * 10_000 + T + torch.arange(T))


def test_a_clip_shorter_than_two_views_has_overlapping_segments() -> None:
    views = maker().make(batch(2 * T, [T + 500]), step=0, seed=0)
    assert as_places(views.input_N)[:, 0].tolist() == [0, 500]
    assert (as_places(views.input_N[1]) == 500 + torch.arange(T)).all()


def test_a_clip_shorter_than_a_view_is_repeated() -> None:
    views = maker().make(batch(2 * T, [1500]), step=0, seed=0)
    for row in as_places(views.input_N):
        assert torch.equal(row, torch.arange(T) % 1500)


@pytest.mark.parametrize("frames", [T - 10, T, T + 900, 2 * T, 12_000])
def test_a_view_has_in_its_clip_what_its_tempo_reads_and_two_lie_as_far_apart_as_that_allows(frames: int) -> None:
    stretch = replace(NONE, stretch=replace(NONE.stretch, p=0.5))
    make = ViewMaker(ViewsConfig(samples=T), stretch, WAVE)
    clips = batch(window_frames(make.views, stretch), [frames] * 64)
    parameters, starts = make._draw(clips, step=0, seed=0)
    tempo = parameters.tempo.tolist()
    reads = [T if v == 1 else math.ceil(T * max(v, 1)) + 1024 for v in tempo]
    assert len(set(reads)) > 10
    for view, (start, read) in enumerate(zip(starts.tolist(), reads, strict=True)):
        fits = frames >= read
        latest = min(make.reads, frames - read if fits else max(0, frames - T))
        assert start == (latest if view >= 64 else 0)
    made = make.make(clips, step=0, seed=0).input_N
    plain = (parameters.tempo == 1).nonzero()[:, 0]
    expected = torch.stack([clips.wave_BT[i % 64][(starts[i] + torch.arange(T)) % frames] for i in plain.tolist()])
    assert torch.equal(as_places(made[plain]), expected)
    segments = make.segments(clips, step=0, seed=0)  # what is left of the clip, again and again where it is too short
    for i, start in enumerate(starts.tolist()):
        place = start + torch.arange(make.reads) % (frames - start)
        assert torch.equal(segments[i], clips.wave_BT[i % 64][place])


@pytest.mark.parametrize("frames", [8 * T, 3 * T, T + 10])
def test_many_views_lie_anywhere_inside_the_clip(frames: int) -> None:
    many = maker(count=8)
    assert window_frames(many.views, NONE) == 8 * T
    window = batch(8 * T, [min(frames, 9000)] * 3)
    starts = as_places(many.make(window, step=0, seed=0).input_N)[:, 0] % 10_000
    assert starts.max() <= min(frames, 9000) - T
    assert len(set(starts.tolist())) > 2
    assert not torch.equal(starts, as_places(many.make(window, step=1, seed=0).input_N)[:, 0] % 10_000)


def test_near_views_lie_at_most_five_seconds_apart() -> None:
    near = maker(pair="near", count=4)
    window = window_frames(near.views, NONE)
    assert window == T + 5 * 22_050
    starts = near._draw(batch(window, [window] * 200), step=0, seed=0)[1].view(4, 200)
    assert (starts.amax(0) - starts.amin(0)).max() <= 5 * 22_050
    assert float(starts.float().mean()) == pytest.approx(2.5 * 22_050, rel=0.05)


def test_a_stretched_view_reads_a_margin_beyond_its_greatest_tempo() -> None:
    views, stretch = ViewsConfig(), PRESETS["mule_stretch"]
    assert read_frames(views, NONE) == 59_049
    assert read_frames(views, stretch) == 76_764 + 1024
    assert window_frames(views, stretch) == 2 * (76_764 + 1024)


def test_a_stretched_view_never_ends_in_silence() -> None:
    sure = replace(PRESETS["mule_stretch"], stretch=replace(PRESETS["mule_stretch"].stretch, p=1.0))
    make = ViewMaker(ViewsConfig(samples=T), sure, WAVE)
    window = window_frames(make.views, sure)
    tone = (8000 * torch.sin(torch.arange(window) * 0.2)).to(torch.int16).repeat(16, 1)
    slots = torch.arange(16)
    frames = torch.full((16,), window)
    views = make.make(Batch(tone, frames, slots, torch.zeros(16, 1, dtype=torch.bool), slots), step=0, seed=0)
    assert float(views.input_N[:, -300:].square().mean(1).sqrt().min()) > 0.12


@pytest.mark.parametrize("kind", ["wave", "mel"])
def test_ranks_and_chunks_change_no_view(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    wave = (3000 * torch.randn(8, 2 * T, generator=generator)).to(torch.int16)
    slots = torch.arange(8)
    whole = Batch(wave, torch.full((8,), 2 * T), slots, torch.zeros(8, 2, dtype=torch.bool), slots)
    frontend = FrontendConfig(kind="mel") if kind == "mel" else WAVE
    views = ViewsConfig(samples=T)
    expected = ViewMaker(views, PRESETS["paper"], frontend).make(whole, step=3, seed=1).input_N
    expected = expected.view(2, 8, *expected.shape[1:])
    for rank in range(2):
        part = ViewMaker(replace(views, chunk=3), PRESETS["paper"], frontend).make(
            Batch(*Windows._make(values[rank::2] for values in whole)), step=3, seed=1
        )
        got = part.input_N.view(2, 4, *expected.shape[2:])
        error = (got - expected[:, rank::2]).square().sum() / expected[:, rank::2].square().sum()
        assert float(error) < 1e-4


def test_a_stream_gives_the_views_of_each_step_in_order() -> None:
    make = maker()
    batches = [(step, batch(2 * T, [2 * T])) for step in (4, 5)]
    streamed = list(stream_views(make, batches, seed=9))
    for (step, each), views in zip(batches, streamed, strict=True):
        assert torch.equal(views.input_N, make.make(each, step=step, seed=9).input_N)


def test_segments_are_what_views_without_effects_hold() -> None:
    near = maker(pair="near", count=3)
    read = batch(window_frames(near.views, NONE), [30_000, 1500])
    expected = near.make(read, step=2, seed=1).input_N
    assert torch.equal(near.segments(read, step=2, seed=1).float() / 32_768, expected)


def test_windows_that_could_hold_nan_are_refused() -> None:
    window = batch(2 * T, [2 * T])
    with pytest.raises(AssertionError):
        maker().make(window._replace(wave_BT=window.wave_BT.float()), step=0, seed=0)


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        ViewsConfig(count=0)
