"""The chain on a GPU where no gradient is wanted: the numbers of `chain` up to rounding, at a fraction of its traffic.

Rows are read once with their gain, every stage works in place on the rows that it was drawn for, and the echoes write
the result. The transforms are cuFFT's; everything between them is a Triton kernel.

Shape suffixes: B clips, W samples of a window, n rows, L samples that a row reads, T samples of a view, m rows of a
chunk.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from math import ceil

import torch
from torch import Tensor

from trainers.augment.drawing import ViewParameters, noise_knee_hz, vocoded
from trainers.augment.dsp import spectral
from trainers.augment.dsp.phase_vocoder import pitch_time
from trainers.augment.dsp.resampling import SPLINE_REACH, spline_degree
from trainers.augment.kernels import segments, spectrum, turning, vocoder
from trainers.augment.parameters import AugmentConfig, Stage
from trainers.augment.passes import CHUNK_ROWS, FRAME, HOP, Rows, passes

ROWS_STEP = 8
"""Rows of the long transform come in multiples of this: cuFFT plans anew for every count that it has not met."""


class FusedChain:
    """`AugmentChain.apply` in kernels."""

    def __init__(self, config: AugmentConfig, sample_rate: int, chunk: int = CHUNK_ROWS["cuda"]) -> None:
        self.config, self.sample_rate, self.chunk = config, sample_rate, chunk

    def apply(self, rows: Rows, drawn: ViewParameters, num_samples: int) -> Tensor:
        """Float32 (n, ``num_samples``) of the rows to read and what was drawn of them, on the host.
        Rows without tempo read T = ``num_samples``, the others L ≥ T.
        """
        if rows.wave_BW.stride(1) != 1:
            rows = rows._replace(wave_BW=rows.wave_BW.contiguous())
        device = rows.wave_BW.device
        out_nT = torch.empty(len(rows.row_n), num_samples, device=device)
        stretched_n = drawn.tempo != 1
        groups = [(~stretched_n, num_samples), (stretched_n, rows.length)]
        if num_samples == rows.length:
            groups = [(torch.ones_like(stretched_n), num_samples)]
        with _on(device):
            for among_n, reads in groups:
                index = among_n.nonzero()[:, 0]
                if len(index):
                    self._apply(rows, drawn.rows(index), index, reads, out_nT)
        return out_nT

    def _apply(self, rows: Rows, host: ViewParameters, index: Tensor, reads: int, out_nT: Tensor) -> None:
        """Rows that read equally many samples, into the places ``index`` of the result."""
        places = [part.to(torch.int64) for part in (rows.row_n[index], rows.start_n[index], rows.frames_n[index])]
        there, (row_n, start_n, frames_n, to_n) = _on_device(host, [*places, index], rows.wave_BW.device)
        wave_nL = segments.read_segments(
            rows.wave_BW, row_n, start_n, frames_n, there.gain, length=reads, columns=reads, scale=rows.scale
        )
        stages = list(passes(self.config.order))
        for stage in stages:
            if stage == ("delay",):
                if stage == stages[-1]:
                    continue  # written with the result
                echoed = torch.empty_like(wave_nL)
                self._echo(wave_nL, echoed, torch.arange(len(index), device=wave_nL.device), there)
                wave_nL = echoed
            elif stage == ("pitch",):
                self._pitch(wave_nL, host, there, out_nT.shape[1])
                wave_nL = wave_nL[:, : out_nT.shape[1]]
            else:
                self._spectrum(wave_nL, host, there, stage)
        if stages[-1] != ("delay",):
            there = there._replace(reflections=torch.zeros_like(there.reflections))
        self._echo(wave_nL, out_nT, to_n, there)

    def _echo(self, wave_nL: Tensor, out: Tensor, to_n: Tensor, there: ViewParameters) -> None:
        delay = self.config.delay
        taps = (there.delay, there.reflections, there.attenuation, there.wet)
        segments.write_with_echoes(wave_nL, out, to_n, *taps, first_tap=delay.first_tap, output_gain=delay.output_gain)

    def _spectrum(self, wave_nL: Tensor, host: ViewParameters, there: ViewParameters, stage: tuple[Stage, ...]) -> None:
        device, size = wave_nL.device, spectral.transform_length(wave_nL.shape[1])
        knee_hz = noise_knee_hz(self.config.noise, self.sample_rate)
        log_hz_K = spectral.log_frequencies(size, self.sample_rate, knee_hz, device=device)
        noisy_n = (host.snr_db < torch.inf) & ("noise" in stage)
        filtered_n = (host.filter_kind > 0) & ("filter" in stage)
        level_n = torch.zeros(len(wave_nL), device=device)
        noisy = noisy_n.nonzero()[:, 0].to(device, non_blocking=True)
        spectrum.noise_level(wave_nL, noisy, there.snr_db, there.noise_slope, log_hz_K, level_n)
        for among_n, is_filtered in ((noisy_n & ~filtered_n, False), (filtered_n, True)):
            for row_m in self._chunks(among_n.nonzero()[:, 0], device):
                padded = -(-len(row_m) // ROWS_STEP) * ROWS_STEP
                before = _transformed(wave_nL, row_m, size, padded) if is_filtered else None
                after = spectrum.shape_pairs(
                    before,
                    row_m,
                    there,
                    level_n,
                    spectrum.Shape(log_hz_K, spectral.edge_table(device), self.sample_rate),
                    rows=padded,
                )
                shaped = torch.view_as_real(torch.fft.ifft(after, norm="forward")).flatten(1)
                spectrum.put_rows(shaped, wave_nL, row_m, add=not is_filtered)

    def _pitch(self, wave_nL: Tensor, host: ViewParameters, there: ViewParameters, num_samples: int) -> None:
        n_fft, device = FRAME[self.config.quality], wave_nL.device
        window, F = _window(n_fft, device), vocoder.analysis_frames(wave_nL.shape[1], n_fft, HOP)
        moved = vocoded(self.config, host)
        order = (host.pitch_ratio * moved).argsort()  # like ratios together: a chunk is as long as its longest
        index = order[moved[order]]
        for row_m in self._chunks(index, device):
            at, index = index[: len(row_m)], index[len(row_m) :]
            ratio_m, tempo_m = host.pitch_ratio[at], host.tempo[at]
            if self.config.quality == "evaluation":  # listening tests, not training steps: speed does not matter
                part = pitch_time(wave_nL[row_m], ratio_m, tempo_m, n_fft=n_fft, hop=HOP, num_samples=num_samples)
                wave_nL[:, :num_samples].index_copy_(0, row_m, part)
                continue
            longest = float(ratio_m.max())
            J = ceil((num_samples * longest + SPLINE_REACH) / HOP) + 2
            analysed = torch.fft.rfft(vocoder.windowed_frames(wave_nL, row_m, window, hop=HOP))
            turned = turning.turn_frames(
                analysed, row_m, there.pitch_ratio, there.tempo, frames=F, moved=J, rows=vocoder.padded(len(row_m) * J)
            )
            del analysed
            spoken = torch.view_as_real(torch.fft.ifft(turned, norm="forward")).flatten(1)
            del turned
            stretched = vocoder.overlap_add(spoken, len(row_m), window, frames=J, hop=HOP)
            vocoder.read_rows(
                stretched, wave_nL, row_m, there.pitch_ratio, columns=num_samples, degree=spline_degree(n_fft)
            )

    def _chunks(self, index: Tensor, device: torch.device) -> Iterator[Tensor]:
        there = index.to(device, non_blocking=True)
        return iter(torch.split(there, self.chunk) if len(index) else ())


def _transformed(wave_nL: Tensor, row_m: Tensor, size: int, padded: int) -> Tensor:
    """Transform of the sample pairs of some rows, complex64 (padded, size / 2)."""
    unchanged = torch.ones(len(row_m), dtype=torch.float64, device=row_m.device)
    long = torch.full_like(row_m, size)
    pairs = segments.read_segments(
        wave_nL, row_m, torch.zeros_like(row_m), long, unchanged, length=wave_nL.shape[1], columns=size, rows=padded
    )
    spectrum_mM: Tensor = torch.fft.fft(torch.view_as_complex(pairs.view(padded, size // 2, 2)))
    return spectrum_mM


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Kernels start on the current device: make it that of the data."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _on_device(
    host: ViewParameters, extra: list[Tensor], device: torch.device
) -> tuple[ViewParameters, tuple[Tensor, ...]]:
    """Parameters and more columns over there in one copy: real ones as float64, whole ones as int64."""
    columns = [x.double().view(torch.int64) if x.is_floating_point() else x for x in (*host, *extra)]
    there_Pn = torch.stack(columns).to(device, non_blocking=True)
    back = [
        there_n.view(torch.float64) if x.is_floating_point() else there_n
        for x, there_n in zip((*host, *extra), there_Pn, strict=True)
    ]
    return ViewParameters(*back[: len(host)]), tuple(back[len(host) :])


@lru_cache(maxsize=8)
def _window(n_fft: int, device: torch.device) -> Tensor:
    return torch.hann_window(n_fft, device=device)
