"""The augmentation chain: each row with its own parameters, no loop over rows, only the rows that an effect was
drawn for.

Here it is written in torch, for any device and with gradients; `fused` computes the same in kernels on a GPU where no
gradient is wanted. Nothing clips in float: at severity 4 peaks reach about twice full scale.

Shape suffixes: n rows, T samples of a view, L samples it may read.
"""

import importlib.util
import math
import os
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from cluster.settings import require_config
from trainers.augment.drawing import ViewParameters, draw_parameters, noise_knee_hz, vocoded
from trainers.augment.dsp.delay import echo
from trainers.augment.dsp.phase_vocoder import pitch_time
from trainers.augment.dsp.spectral import Filters, Noise, shape_spectrum
from trainers.augment.parameters import AugmentConfig, Stage
from trainers.augment.passes import CHUNK_ROWS, FRAME, HOP, Rows, passes
from trainers.kernel_choice import KernelChoice

LARGEST_ERROR = 10 ** (-25 / 20)
"""RMS of the kernels' difference from the tensor code, relative to the view: more is another computation."""
SILENCE = 1e-5
"""RMS below which a difference is none, relative to full scale: a third of an int16 step."""


class AugmentChain:
    """Draw and apply the effects of a configuration.

    Args:
        config: the effects.
        sample_rate: Hz.
        fused: run in kernels, or in tensor operations; None: by ``config.kernel``.
    """

    def __init__(self, config: AugmentConfig, sample_rate: int, *, fused: bool | None = None) -> None:
        require_config("config", config, AugmentConfig)
        hertz: Any = sample_rate
        if isinstance(hertz, bool) or not isinstance(hertz, Real) or not 0 < float(hertz) < math.inf:
            raise ValueError(f"sample_rate must be a number of Hz > 0, got {sample_rate!r}")
        self.config = config
        self.sample_rate = sample_rate
        self.fused = fused
        self.choice = KernelChoice("augment.kernel", "torch")

    def draw(self, slots: Tensor, *, step: int, seed: int, view: int) -> ViewParameters:
        """Draw one view of each slot's clip: see `draw_parameters`."""
        return draw_parameters(self.config, slots, sample_rate=self.sample_rate, step=step, seed=seed, view=view)

    def apply(self, wave: Tensor, parameters: ViewParameters, num_samples: int | None = None) -> Tensor:
        """Apply what was drawn.

        Args:
            wave: float32 or float64, shape (n, L), any device. A row with tempo v reads the first num_samples · v of it
                (and ends in silence where that is more than L), any other row the first ``num_samples``.
            parameters: of the n rows.
            num_samples: T; L if None.

        Returns:
            Shape (n, T); a row for which nothing was drawn is ``wave[:, :T]`` bit for bit, unless
            ``identity_through_vocoder`` has it go through the vocoder.

        Raises:
            ValueError: if the shapes disagree, or the wave has another type.
        """
        if not isinstance(wave, Tensor) or wave.ndim != 2 or wave.is_meta:
            got = f"shape {tuple(wave.shape)} on {wave.device}" if isinstance(wave, Tensor) else type(wave).__name__
            raise ValueError(f"wave must be a torch tensor of shape (rows, samples) that holds numbers, got {got}")
        if not isinstance(parameters, ViewParameters):
            raise ValueError(f"parameters must be what draw returns, got a {type(parameters).__name__}")
        n, L = wave.shape
        if wave.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"wave must be float32 or float64, got {wave.dtype}")
        T = L if num_samples is None else num_samples
        if isinstance(T, bool) or not isinstance(T, int) or T < 1:
            raise ValueError(f"num_samples must be a whole number > 0, got {T!r}")
        if len(parameters.gain) != n or T > L:
            raise ValueError(
                f"wave is {(n, L)}: parameters of {len(parameters.gain)} rows and {T} samples do not fit it"
            )
        if self.is_fused(wave):
            everything = Rows(wave, torch.arange(n), torch.zeros(n, dtype=torch.int64), torch.full((n,), L), L)
            out = self.apply_checked(everything, parameters, T, lambda: self.apply_plain(wave, parameters, T))
            self.choice.settle()
            return out
        return self.apply_plain(wave, parameters, T)

    def apply_plain(self, wave: Tensor, parameters: ViewParameters, num_samples: int) -> Tensor:
        """`apply` in tensor operations, of a wave and parameters that fit each other."""
        T = num_samples
        if wave.shape[1] == T:
            return self._run(wave, parameters, T)
        out_nT = wave[:, :T].clone()
        stretched = parameters.tempo != 1
        for rows, reads in ((~stretched, T), (stretched, wave.shape[1])):
            index = rows.nonzero()[:, 0]
            if len(index):
                there = index.to(wave.device, non_blocking=True)
                part = self._run(wave[:, :reads].index_select(0, there), parameters.rows(index), T)
                out_nT = out_nT.index_copy(0, there, part)
        return out_nT

    def is_fused(self, wave: Tensor) -> bool:
        """Whether a wave of this device, type and wish for a gradient goes through the kernels.

        Raises:
            ValueError: if ``config.kernel`` is fused and the kernels cannot run on it.
        """
        if self.fused is not None:
            return self.fused
        if self.config.kernel == "torch":
            return False
        problem = obstacle(wave)
        if self.config.kernel == "fused" and problem:
            raise ValueError(f"augment.kernel=fused cannot run: {problem}; set augment.kernel to auto or torch")
        return problem is None and (wave.is_cuda or self.config.kernel == "fused")

    def apply_checked(
        self, rows: Rows, parameters: ViewParameters, num_samples: int, plain: Callable[[], Tensor]
    ) -> Tensor:
        """`apply_fused`; under ``kernel=auto`` with ``plain``, the same by tensor operations, to compare and to fall
        back on until `KernelChoice.settle`.
        """

        def fused() -> Tensor:
            return self.apply_fused(rows, parameters, num_samples)

        if self.fused or self.config.kernel == "fused":
            return fused()
        return self.choice.run("views", fused, plain, _difference)

    def apply_fused(self, rows: Rows, parameters: ViewParameters, num_samples: int) -> Tensor:
        """`apply` in kernels, on rows out of any windows: float32 (n, T), no gradient."""
        from trainers.augment.fused import FusedChain  # Triton is not on every machine

        return FusedChain(self.config, self.sample_rate).apply(rows, parameters, num_samples)

    def _run(self, wave_nL: Tensor, drawn: ViewParameters, num_samples: int) -> Tensor:
        gain_n = drawn.gain.to(wave_nL.device, wave_nL.dtype, non_blocking=True)
        out_nL = wave_nL * gain_n[:, None]
        for stage in passes(self.config.order):
            out_nL = self._stage(out_nL, drawn, stage, num_samples)
        return out_nL

    def _stage(self, wave_nL: Tensor, drawn: ViewParameters, stage: tuple[Stage, ...], num_samples: int) -> Tensor:
        if stage == ("pitch",):
            moved = vocoded(self.config, drawn)
            order = (drawn.pitch_ratio * moved).argsort()  # like ratios together: a chunk is as long as its longest
            return _on_rows(
                wave_nL, drawn, order[moved[order]], lambda w, d: self._pitch(w, d, num_samples), length=num_samples
            )
        if stage == ("delay",):
            return _on_rows(wave_nL, drawn, drawn.reflections > 0, self._delay)
        noisy = (drawn.snr_db < torch.inf) & ("noise" in stage)
        filtered = (drawn.filter_kind > 0) & ("filter" in stage)
        for rows in (noisy & ~filtered, filtered & ~noisy, noisy & filtered):
            wave_nL = _on_rows(wave_nL, drawn, rows, lambda w, d: self._spectrum(w, d, stage))
        return wave_nL

    def _spectrum(self, wave_nL: Tensor, drawn: ViewParameters, stage: tuple[Stage, ...]) -> Tensor:
        there = ViewParameters(*(values.to(wave_nL.device, non_blocking=True) for values in drawn))
        noise = filters = None
        if "noise" in stage and drawn.snr_db[0] < torch.inf:
            knee_hz = noise_knee_hz(self.config.noise, self.sample_rate)
            noise = Noise(there.snr_db, there.noise_slope, there.noise_seed, knee_hz)
        if "filter" in stage and drawn.filter_kind[0] > 0:
            filters = Filters(there.filter_kind, there.low_hz, there.high_hz)
        return shape_spectrum(wave_nL, sample_rate=self.sample_rate, noise=noise, filters=filters)

    def _pitch(self, wave_nL: Tensor, drawn: ViewParameters, num_samples: int) -> Tensor:
        n_fft = FRAME[self.config.quality]
        return pitch_time(wave_nL, drawn.pitch_ratio, drawn.tempo, n_fft=n_fft, hop=HOP, num_samples=num_samples)

    def _delay(self, wave_nL: Tensor, drawn: ViewParameters) -> Tensor:
        taps = (drawn.delay, drawn.reflections, drawn.attenuation, drawn.wet)
        config = self.config.delay
        return echo(wave_nL, *taps, first_tap=config.first_tap, output_gain=config.output_gain)


def obstacle(wave: Tensor) -> str | None:
    """Why the kernels cannot run on a wave; None when they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not wave.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the wave is on {wave.device.type}, not on a CUDA device"
    if wave.dtype not in (torch.int16, torch.float32):
        return f"the wave is {wave.dtype}, not torch.int16 or torch.float32"
    return "they have no gradient" if torch.is_grad_enabled() and wave.requires_grad else None


def _difference(fused_nT: Tensor, plain_nT: Tensor) -> str | None:
    """By row, for the phase vocoder turns a rounding error of its input into 42 dB of noise."""
    if fused_nT.shape != plain_nT.shape:
        return f"views of shape {tuple(fused_nT.shape)}, not {tuple(plain_nT.shape)}"
    error_n = (fused_nT - plain_nT).square().mean(1).sqrt()
    allowed_n = LARGEST_ERROR * plain_nT.square().mean(1).sqrt() + SILENCE
    wrong = int((~(error_n <= allowed_n)).sum())  # NaN is wrong
    return f"{wrong} of {len(plain_nT)} views differ from those of the tensor code" if wrong else None


def _on_rows(
    wave_nL: Tensor,
    drawn: ViewParameters,
    rows: Tensor,
    effect: Callable[[Tensor, ViewParameters], Tensor],
    *,
    length: int | None = None,
) -> Tensor:
    """``wave`` with some rows replaced by their effect in place, chunk by chunk: fresh memory costs more than sums.

    Args:
        wave_nL: shape (n, L), no one else's.
        drawn: of the n rows, on the host.
        rows: a mask (n,) or indices, on the host: no device is waited for.
        effect: of rows and their draws.
        length: of what the effect returns; where it differs from L, every row must be among ``rows``.
    """
    index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
    if len(index) == 0:
        return wave_nL
    out_nT = wave_nL
    if length is not None and length != wave_nL.shape[1]:
        assert len(index) == len(wave_nL)
        out_nT = wave_nL.new_empty(len(wave_nL), length)
    size = CHUNK_ROWS.get(wave_nL.device.type, CHUNK_ROWS["cuda"])
    drawn = drawn.rows(index)
    for first in range(0, len(index), size):
        chunk = slice(first, first + size)
        there = index[chunk].to(wave_nL.device, non_blocking=True)
        out_nT.index_copy_(0, there, effect(wave_nL.index_select(0, there), drawn.rows(chunk)))
    return out_nT
