"""From a batch of int16 windows to what the encoder reads: M segments a clip, augmented, through the front-end, on
the device.

Views are view-major: row m·B + b is view m of clip b. Every draw (positions too) is keyed by (seed, step, slot,
view), so the number of ranks and workers changes no view.

Shape suffixes: B clips of this rank, M views a clip, N = M·B rows, W samples of a window, L samples that a view
may read, T samples of a view, F bands, S frames, C tags.
"""

from collections.abc import Iterable, Iterator
from math import ceil
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cluster.machine.resources import torch_device
from cluster.settings import require_config
from data_shards.format.records import SAMPLE_RATE, Batch, TextRows
from trainers.augment.chain import AugmentChain
from trainers.augment.drawing import ViewParameters, join
from trainers.augment.own import ExtraDraws, OwnAugmentations
from trainers.augment.parameters import AugmentConfig
from trainers.augment.passes import FRAME, Rows
from trainers.augment.philox import uniforms
from trainers.frontends.config import FrontendConfig
from trainers.frontends.frontend import build_frontend
from trainers.views.config import ViewsConfig

NEAR_S = 5.0
"""MULE's positives lie at most this far apart (arXiv:2210.03799, 2401.08889)."""
FULL_SCALE = 32_768.0
MARGIN_FRAMES = 1
"""Vocoder frames that a stretched view reads beyond its end: its last frames then hold music."""


def read_frames(views: ViewsConfig, augment: AugmentConfig) -> int:
    """L, the samples of its clip that one view may read: ⌈T · greatest tempo⌉ and a margin where tempo moves."""
    if augment.max_tempo == 1 and augment.stretch.p == 0:
        return views.samples
    return ceil(views.samples * augment.max_tempo) + _margin(augment)


def _margin(augment: AugmentConfig) -> int:
    """Samples that a vocoder reads beyond its last output sample."""
    return MARGIN_FRAMES * FRAME[augment.quality]


def window_frames(views: ViewsConfig, augment: AugmentConfig, rate: int = SAMPLE_RATE) -> int:
    """W, the samples of a clip that the loader reads for all its views."""
    reads = read_frames(views, augment)
    return reads * views.count if views.pair == "adjacent" else reads + round(NEAR_S * rate) * (views.count > 1)


class Views(NamedTuple):
    """What an encoder reads, view-major, and what the loss needs to know of each row."""

    input_N: Tensor
    """float32, wave (N, T) or mel (N, F, S)."""
    clip_id_N: Tensor
    """int64."""
    labels_NC: Tensor
    """bool."""
    parameters: ViewParameters
    """What was drawn, on the host."""
    received: dict[str, Tensor]
    """Which views received which effect, bool (N,) on the host, own augmentations included."""
    texts: TextRows | None = None
    """Of the clips, on the host; None where the loader reads none."""


class ViewMaker:
    """Turns batches into views.

    Args:
        views: how many, how long, from where.
        augment: the chain.
        frontend: what the encoder reads; the waveform by default.
        rate: Hz of the windows.
        device: where views are made.
    """

    def __init__(
        self,
        views: ViewsConfig,
        augment: AugmentConfig,
        frontend: FrontendConfig | None = None,
        *,
        rate: int = SAMPLE_RATE,
        device: torch.device | str = "cpu",
    ) -> None:
        require_config("views", views, ViewsConfig)
        require_config("augment", augment, AugmentConfig)
        self.views = views
        self.rate = rate
        self.device = torch_device(device)
        self.chain = AugmentChain(augment, rate)
        self.own = OwnAugmentations(augment.extra)
        self.reads = read_frames(views, augment)
        self.margin = _margin(augment)
        self.frontend: nn.Module = build_frontend(frontend or FrontendConfig(), rate).to(self.device)

    @torch.no_grad()
    def make(self, batch: Batch, *, step: int, seed: int) -> Views:
        """All views of a batch, chunk by chunk, without waiting for the device."""
        assert batch.wave_BT.dtype == torch.int16  # so no sample is NaN
        M = self.views.count
        parameters, start_N = self._draw(batch, step=step, seed=seed)
        extra = self._draw_own(batch, step=step, seed=seed)
        clip_N = torch.arange(len(batch.slot_B)).repeat(M)
        wave_BW = batch.wave_BT.to(self.device, non_blocking=True)
        parts = []
        for first in range(0, len(clip_N), self.views.chunk):
            rows = slice(first, first + self.views.chunk)
            drawn = parameters.rows(rows)
            wave_nT = self._chunk(wave_BW, batch.frames_B, clip_N[rows], start_N[rows], drawn)
            parts.append(self._through_frontend(wave_nT, extra.rows(rows)))
        self.chain.choice.settle()
        return Views(
            input_N=torch.cat(parts),
            clip_id_N=batch.clip_id_B.to(self.device, non_blocking=True).repeat(M),
            labels_NC=batch.labels_BC.to(self.device, non_blocking=True).repeat(M, 1),
            parameters=parameters,
            received=parameters.received | dict(zip(self.own.names, extra.received_nE.unbind(1), strict=True)),
            texts=batch.texts,
        )

    def segments(self, batch: Batch, *, step: int, seed: int) -> Tensor:
        """What each view reads of its clip before anything is done to it: int16 (N, L)."""
        _, start_N = self._draw(batch, step=step, seed=seed)
        clip_N = torch.arange(len(batch.slot_B)).repeat(self.views.count)
        return _segments(batch.wave_BT.to(self.device), batch.frames_B, clip_N, start_N, self.reads)

    def _chunk(
        self, wave_BW: Tensor, frames_B: Tensor, clip_n: Tensor, start_n: Tensor, drawn: ViewParameters
    ) -> Tensor:
        def plain() -> Tensor:
            segment_nL = _segments(wave_BW, frames_B, clip_n, start_n, self.reads)
            return self.chain.apply_plain(segment_nL.float() / FULL_SCALE, drawn, self.views.samples)

        if self.chain.is_fused(wave_BW):
            rows = Rows(wave_BW, clip_n, start_n, _left(frames_B, clip_n, start_n), self.reads, 1 / FULL_SCALE)
            return self.chain.apply_checked(rows, drawn, self.views.samples, plain)
        return plain()

    def _through_frontend(self, wave_nT: Tensor, drawn: ExtraDraws) -> Tensor:
        """What the encoder reads of augmented waves, with the own augmentations around the front-end."""
        out_n = self.frontend(self.own.apply(wave_nT, drawn, "wave"))
        return self.own.apply(out_n, drawn, "spectrogram")

    def _draw_own(self, batch: Batch, *, step: int, seed: int) -> ExtraDraws:
        slots = batch.slot_B.cpu().numpy()
        drawn = [self.own.draw(slots, step=step, seed=seed, view=view) for view in range(self.views.count)]
        return ExtraDraws(*(torch.cat(values) for values in zip(*drawn, strict=True)))

    def _draw(self, batch: Batch, *, step: int, seed: int) -> tuple[ViewParameters, Tensor]:
        """The draws of each view and its first sample in its window; N of each, on the host."""
        each = [self.chain.draw(batch.slot_B, step=step, seed=seed, view=view) for view in range(self.views.count)]
        range_MB = torch.stack([self._latest_start(batch.frames_B.cpu(), drawn.tempo) for drawn in each])
        return join(each), self._starts(range_MB, batch, step=step, seed=seed).flatten()

    def _latest_start(self, frames_B: Tensor, tempo_B: Tensor) -> Tensor:
        """Latest start of a view that leaves what it reads in its clip, or T samples of a clip that holds less."""
        T = self.views.samples
        stretched_B = (tempo_B.clamp(min=1) * T).ceil().long() + self.margin
        reads_B = torch.where(tempo_B == 1, T, stretched_B)
        return (frames_B - torch.where(frames_B < reads_B, T, reads_B)).clamp(min=0)

    def _starts(self, range_MB: Tensor, batch: Batch, *, step: int, seed: int) -> Tensor:
        """First sample of each view in its window, int64 of shape (M, B)."""
        M = self.views.count
        if self.views.pair == "adjacent" and M <= 2:
            # Side by side where the clip is long enough, else as far apart as it allows.
            return range_MB.clamp(max=self.reads) * torch.arange(M)[:, None]
        if self.views.pair == "near":
            range_MB = range_MB.clamp(max=round(NEAR_S * self.rate))
        slots = batch.slot_B.cpu().numpy()
        drawn = [
            uniforms(slots, seed=seed, step=step, view=view, count=1, purpose="position")[:, 0] for view in range(M)
        ]
        return (torch.as_tensor(np.stack(drawn)) * (range_MB + 1)).long()


def _left(frames_B: Tensor, clip_n: Tensor, start_n: Tensor) -> Tensor:
    """Samples of its clip from a row's start on, after which the row repeats, int64 ≥ 1 on the host."""
    return (frames_B.cpu()[clip_n] - start_n).clamp(min=1)


def _segments(wave_BW: Tensor, frames_B: Tensor, clip_n: Tensor, start_n: Tensor, reads: int) -> Tensor:
    """int16 segments of shape (n, L); where a clip ends within, its samples from the start on are repeated."""
    device = wave_BW.device
    left_n = _left(frames_B, clip_n, start_n)
    rows, start = clip_n.to(device, non_blocking=True), start_n.to(device, non_blocking=True)
    if wave_BW.shape[1] >= reads:
        segment_nL = wave_BW.unfold(1, reads, 1)[rows, start.clamp(max=wave_BW.shape[1] - reads)]
    else:
        segment_nL = wave_BW.new_zeros(len(clip_n), reads)
    index = (left_n < reads).nonzero()[:, 0]
    if len(index):
        left_n1 = left_n[index].to(device, non_blocking=True)[:, None]
        index = index.to(device, non_blocking=True)
        place_nL = start[index, None] + torch.arange(reads, device=device) % left_n1
        segment_nL[index] = wave_BW[rows[index]].gather(1, place_nL)
    return segment_nL


class ViewStream(Protocol):
    """Makes the views of a run: `stream_views`, or a pool beside the trainer."""

    def __call__(self, maker: ViewMaker, batches: Iterable[tuple[int, Batch]], *, seed: int) -> Iterator[Views]:
        """The views of each (step, batch) in order, on the maker's device, as `ViewMaker.make` makes them."""
        ...


def stream_views(maker: ViewMaker, batches: Iterable[tuple[int, Batch]], *, seed: int) -> Iterator[Views]:
    """Views of each (step, batch): in line on a CPU, on a GPU on their own stream and one batch ahead."""
    if maker.device.type != "cuda":
        for step, batch in batches:
            yield maker.make(batch, step=step, seed=seed)
        return
    stream = torch.cuda.Stream(maker.device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    ready: tuple[Views, torch.cuda.Event] | None = None
    for step, batch in batches:
        with torch.cuda.stream(stream):
            views = maker.make(batch, step=step, seed=seed)
            made = stream.record_event()
        if ready is not None:
            yield _handed_over(*ready)
        ready = views, made
    if ready is not None:
        yield _handed_over(*ready)


def _handed_over(views: Views, made: torch.cuda.Event) -> Views:
    """Views that the current stream may read and whose memory is kept until it has."""
    current = torch.cuda.current_stream(views.input_N.device)
    current.wait_event(made)
    for tensor in views[:3]:
        tensor.record_stream(current)
    return views
