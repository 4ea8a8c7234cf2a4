"""The two forms of audio inside a shard: a WAV whose samples are read without decoding, and FLAC.

Shape suffixes: T samples.
"""

import io
import struct
import wave
from typing import Literal, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

Codec = Literal["pcm16", "flac"]
EXTENSIONS: dict[str, Codec] = {"wav": "pcm16", "flac": "flac"}
WAV_HEAD_BYTES = 4096
"""Bytes of a WAV that `read_form` reads; the samples must begin within them."""


class Form(NamedTuple):
    """Length, rate and position of the samples of an audio member."""

    frames: int
    rate: int
    pcm_offset: int
    """Bytes from the start of the member to the first sample; 0 for FLAC."""


def encode(wave_T: NDArray[np.int16], rate: int, codec: Codec) -> tuple[str, bytes]:
    """Extension and bytes of a shard's audio member; the same samples give the same bytes."""
    buffer = io.BytesIO()
    if codec == "pcm16":
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(wave_T.astype("<i2", copy=False).tobytes())
        return "wav", buffer.getvalue()
    soundfile.write(buffer, wave_T, rate, format="FLAC", subtype="PCM_16")
    return "flac", buffer.getvalue()


def read_form(extension: str, head: bytes, size: int) -> Form:
    """Length and rate of a shard's audio member.
    Raises ValueError if it is not mono, not 16 bits, or shorter than its header states.
    """
    return _wav_form(head, size) if extension == "wav" else _flac_form(head)


def _wav_form(head: bytes, size: int) -> Form:
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        raise ValueError("not a RIFF/WAVE file")
    position, rate = 12, 0
    while position + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, position)
        body = position + 8
        if name == b"fmt " and length >= 16 and body + 16 <= len(head):
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head, body)
            if (kind, channels, bits) != (1, 1, 16):
                raise ValueError(f"WAV format {kind}, {channels} channels, {bits} bits; shards hold mono 16-bit PCM")
        elif name == b"data":
            if rate == 0:
                raise ValueError("its data chunk comes before its format")
            if body + length > size or length % 2 or body % 2:
                raise ValueError(f"its data chunk promises {length:,} bytes, {size - body:,} are there")
            if length == 0:
                raise ValueError("holds no samples")
            return Form(length // 2, rate, body)
        position = body + length + length % 2
    raise ValueError(f"no data chunk in its first {len(head):,} bytes")


def _flac_form(payload: bytes) -> Form:
    try:
        info = soundfile.info(io.BytesIO(payload))
    except soundfile.SoundFileError as error:
        raise ValueError(f"not FLAC: {error}") from None
    if (info.format, info.channels, info.subtype) != ("FLAC", 1, "PCM_16"):
        raise ValueError(f"{info.format} {info.subtype} with {info.channels} channels; shards hold mono 16-bit")
    if info.frames <= 0 or info.frames > 1 << 32:
        raise ValueError(f"promises {info.frames:,} samples")
    return Form(int(info.frames), int(info.samplerate), 0)
