"""From any audio file to mono int16 at one rate, or the reason why not (docs/faults.md, 18–28).

Shape suffixes: T samples. 1.0 in float is 32,768 in int16, so a 16-bit file at the right rate keeps every bit.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from data_shards.containers import shortfall

MAX_CHANNELS = 16
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
MAX_SAMPLES = 1 << 28
"""Samples of all channels that one file may hold: 50 minutes of 44.1 kHz stereo, 1 GiB as float32."""
MAX_PEAK = 8.0
"""Full scale is 1; lossy decoders overshoot to about 2, a damaged MP3 decodes to 2e5."""


class AudioError(ValueError):
    """The reason why a clip's audio is refused."""


@dataclass(frozen=True)
class FileAudio:
    """Audio of one file below a dataset's folder."""

    root: str
    path: str
    """Relative to `root`."""

    @property
    def name(self) -> str:
        """The path a person would look at."""
        return str(Path(self.root) / self.path)

    def read(self) -> tuple[NDArray[np.float32], int]:
        """Decode the whole file: (T, channels) in [-1, 1], and the rate in Hz.

        Raises:
            AudioError: missing, empty, not audio, too large, or shorter than its header says.
        """
        return decode(Path(self.root) / self.path)


def decode(path: Path) -> tuple[NDArray[np.float32], int]:
    """Decode a file after looking at what its header asks for.

    Returns:
        wave (T, channels) float32, rate in Hz.

    Raises:
        AudioError: with the reason.
    """
    try:
        if path.stat().st_size == 0:
            raise AudioError("the file is empty")
        reason = shortfall(path)
        if reason:
            raise AudioError(reason)
        with soundfile.SoundFile(path) as file:
            frames, channels, rate = file.frames, file.channels, file.samplerate
            check_form(frames, channels, rate)
            wave = file.read(dtype="float32", always_2d=True)
    except FileNotFoundError:
        raise AudioError("no such file") from None
    except soundfile.LibsndfileError as error:
        raise AudioError(f"cannot be decoded: {error.error_string}") from None
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror or error}") from None
    if len(wave) != frames:
        raise AudioError(f"truncated: {len(wave):,} of the {frames:,} samples that its header promises")
    return wave, rate


def check_form(frames: int, channels: int, rate: int) -> None:
    """Refuse what cannot be music before anything is allocated for it.

    Raises:
        AudioError: for a length, a number of channels or a rate out of bounds.
    """
    if frames <= 0:
        raise AudioError("holds no samples")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{channels} channels; at most {MAX_CHANNELS}")
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise AudioError(f"a sample rate of {rate:,} Hz; it must be {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,}")
    if frames * channels > MAX_SAMPLES:
        raise AudioError(
            f"its header promises {frames:,} frames of {channels} channels; cut it below {MAX_SAMPLES:,} samples"
        )


def to_int16(wave: NDArray[np.float32], rate: int, target_rate: int) -> NDArray[np.int16]:
    """Downmix by the mean, resample, round to 16 bits.

    Args:
        wave: (T,) or (T, channels), 1.0 is full scale; what lies a little beyond is clipped.
        rate: of `wave`, Hz.
        target_rate: Hz.

    Returns:
        (T',) int16.

    Raises:
        AudioError: for the form, NaN or Inf, or a peak far over full scale.
    """
    if wave.ndim not in (1, 2):
        raise AudioError(f"an array of {wave.ndim} dimensions; audio has one, or two with channels last")
    check_form(len(wave), wave.shape[1] if wave.ndim == 2 else 1, rate)
    peak = float(np.abs(wave).max())  # NaN wins every comparison of max, so one pass finds NaN, Inf and excess
    if not np.isfinite(peak):
        raise AudioError("holds NaN or Inf")
    if peak > MAX_PEAK:
        raise AudioError(f"a peak of {peak:.3g} where full scale is 1: damaged or not normalised")
    mono_T = wave.mean(axis=1, dtype=np.float32) if wave.ndim == 2 else wave
    if rate != target_rate:
        mono_T = soxr.resample(np.ascontiguousarray(mono_T, dtype=np.float32), rate, target_rate, quality="HQ")
    if len(mono_T) == 0:
        raise AudioError(f"shorter than one sample at {target_rate:,} Hz")
    scaled_T = np.rint(mono_T * np.float32(32_768))
    quantised_T: NDArray[np.int16] = np.clip(scaled_T, -32_768, 32_767).astype(np.int16)
    return quantised_T
