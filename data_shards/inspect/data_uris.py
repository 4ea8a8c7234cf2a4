"""A little of a clip for a page: an MP3 that every browser plays, and a spectrogram, both as ``data:`` addresses.

Shape suffixes: T samples, F bands, S frames.
"""

import base64
import io

import numpy as np
import soundfile
from numpy.typing import NDArray

FFT, HOP = 2_048, 512
"""Samples, at 22,050 Hz."""
BANDS, MIN_HZ = 128, 40.0
RANGE_DB = 70.0
"""What lies so far below the loudest is black."""


def mp3_uri(wave_T: NDArray[np.int16], rate: int) -> str:
    """The sound, at about 64 kbit/s."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave_T, rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.6)
    return data_uri("audio/mpeg", buffer.getvalue())


def spectrogram_uri(wave_T: NDArray[np.int16], rate: int) -> str:
    """Its spectrogram as a PNG: low frequencies at the bottom, bands of equal musical width."""
    return data_uri("image/png", png(spectrogram_db(wave_T, rate), -RANGE_DB, 0.0))


def png(level_FS: NDArray[np.float32], low: float, high: float) -> bytes:
    """A pixel a value, F upwards; ``low`` and below is black, ``high`` and above is white."""
    from matplotlib.image import imsave  # half a second that no other command needs

    buffer = io.BytesIO()
    imsave(buffer, level_FS, cmap="magma", origin="lower", format="png", vmin=low, vmax=high)
    return buffer.getvalue()


def spectrogram_db(wave_T: NDArray[np.int16], rate: int) -> NDArray[np.float32]:
    """Level of `BANDS` bands in dB below the loudest: (F, S) in [-RANGE_DB, 0]; silence is -RANGE_DB throughout."""
    padded_T = np.pad(wave_T.astype(np.float32) / 32_768, (0, max(0, FFT - len(wave_T))))
    frames_SX = np.lib.stride_tricks.sliding_window_view(padded_T, FFT)[::HOP] * np.hanning(FFT).astype(np.float32)
    power_SX = np.abs(np.fft.rfft(frames_SX)) ** 2
    edges_hz = np.geomspace(MIN_HZ, rate / 2, BANDS + 1)
    # The bins below a band's upper edge, less those below its lower edge; a narrow band takes the bin it lies in.
    low_F = np.floor(edges_hz[:-1] * FFT / rate).astype(int)
    high_F = np.maximum(np.floor(edges_hz[1:] * FFT / rate).astype(int), low_F + 1)
    sums_SX = np.pad(np.cumsum(power_SX, axis=1), ((0, 0), (1, 0)))
    power_FS = ((sums_SX[:, high_F] - sums_SX[:, low_F]) / (high_F - low_F)).T
    loudest = power_FS.max()
    if loudest <= 0:
        return np.full(power_FS.shape, -RANGE_DB, np.float32)
    floor = loudest * 10 ** (-RANGE_DB / 10)
    level_FS: NDArray[np.float32] = (10 * np.log10(np.maximum(power_FS, floor) / loudest)).astype(np.float32)
    return level_FS


def data_uri(kind: str, content: bytes) -> str:
    """An address that holds what it names."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
