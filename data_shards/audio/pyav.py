"""Audio that libsndfile does not decode: its format, how to convert it, and decoding by PyAV where it is installed.

PyAV brings FFmpeg's decoders in its wheel; `pip install 'counterpoint-audio[av]'` adds it.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXTRA = "pip install 'counterpoint-audio[av]'"
SUFFIXES = (
    ".3gp", ".aac", ".ac3", ".amr", ".ape", ".asf", ".avi", ".dff", ".dsf", ".dts", ".eac3", ".m4a", ".m4b", ".m4p",
    ".m4r", ".mka", ".mkv", ".mov", ".mp4", ".mpc", ".ra", ".rm", ".spx", ".tak", ".tta", ".webm", ".weba", ".wma",
    ".wv",
)  # fmt: skip
"""Suffixes of files whose audio libsndfile does not decode."""
MIN_STATED_S = 0.1
"""Seconds that a container's length and what is decoded may differ by: encoders' delays and padding."""
_STATE_LENGTH = ("mov", "matroska", "asf", "avi", "ape", "wv", "tta", "dsf", "mpc")
"""Demuxers that read the length from the file; the others estimate it."""
_BY_MAGIC = {
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "ASF (WMA)", b"\x1a\x45\xdf\xa3": "Matroska or WebM",
    b"MAC ": "Monkey's Audio", b"wvpk": "WavPack", b"MPCK": "Musepack", b"MP+": "Musepack", b"TTA1": "True Audio",
    b"#!AMR": "AMR", b"\x0b\x77": "AC-3", b"\x7f\xfe\x80\x01": "DTS", b"DSD ": "DSD", b"FRM8": "DSD",
    b".RMF": "RealMedia", b".ra\xfd": "RealAudio", b"tBaK": "TAK", b"ADIF": "AAC", b"FLV\x01": "Flash video",
}  # fmt: skip
_NO_AUDIO = {
    b"<": "HTML or XML", b"%PDF": "PDF", b"PK\x03\x04": "zip", b"\x89PNG": "a PNG image", b"GIF8": "a GIF image",
    b"\xff\xd8\xff": "a JPEG image", b"\x1f\x8b": "gzip", b"Rar!": "RAR", b"7z\xbc\xaf": "7-Zip",
    b"MThd": "MIDI, notes without sound",
}  # fmt: skip
_IN_OGG = {b"Speex   ": "Ogg Speex", b"\x7fFLAC": "Ogg FLAC", b"\x80theora": "Ogg video", b"fishead\0": "Ogg Skeleton"}


def has_av() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


def foreign_format(head: bytes) -> str | None:
    r"""The format of a file whose audio libsndfile does not decode, None where it may.

    >>> foreign_format(b"\0\0\0 ftypM4A " + bytes(50)), foreign_format(b"fLaC" + bytes(60))
    ('MP4 (AAC or ALAC)', None)
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "MP4 (AAC or ALAC)"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC"
    if head.startswith(b"RIFF") and head[8:12] not in (b"WAVE", b""):
        return f"RIFF {head[8:12].decode('ascii', 'replace').strip()}"
    if head.startswith(b"OggS"):
        return next((name for magic, name in _IN_OGG.items() if head[28:].startswith(magic)), None)
    return next((name for magic, name in _BY_MAGIC.items() if head.startswith(magic)), None)


def no_audio(head: bytes) -> str | None:
    """The kind of a file without audio, None where it may hold some."""
    return next((name for magic, name in _NO_AUDIO.items() if head.lstrip().startswith(magic)), None)


def remedy() -> str:
    """The remedy for such a file: a conversion, or PyAV."""
    convert = "convert it: ffmpeg -i FILE FILE.flac"
    return convert if has_av() else f"{convert}, or read such files as they are: {EXTRA}"


def decode_with_av(path: Path, max_samples: int) -> tuple[NDArray[np.float32], int]:
    """The first audio stream of a file by PyAV: (T, channels), and its rate in Hz.
    Raises ValueError with the reason, also where it holds more than ``max_samples`` of all channels.
    """
    av: Any = import_module("av")  # optional
    blocks: list[NDArray[np.float32]] = []
    count = failed = 0
    try:
        # A file object, not a path: FFmpeg would take "concat:" or "http:" at its beginning for a protocol.
        with path.open("rb") as file, av.open(file, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise ValueError("holds no audio")
            stream = container.streams.audio[0]
            states_length = container.format.name.partition(",")[0] in _STATE_LENGTH
            rate, stated_s = stream.rate, _stated_s(container, stream)
            convert = av.AudioResampler(format="fltp", rate=rate)
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    failed += 1
                    if states_length or failed > 1:  # a recording that was stopped may end within a packet
                        raise
                    continue
                fresh = [block.to_ndarray() for frame in frames for block in convert.resample(frame)]
                blocks += fresh
                count += sum(block.size for block in fresh)
                if count > max_samples:
                    raise ValueError(f"holds more than {max_samples:,} samples; cut it")
    except av.error.FFmpegError as error:
        raise ValueError(f"cannot be decoded: {error.strerror or error}") from None
    if not blocks:
        raise ValueError("holds no samples")
    wave = np.concatenate(blocks, axis=1).T
    if states_length and stated_s - len(wave) / rate > MIN_STATED_S:
        raise ValueError(f"truncated: {len(wave) / rate:.2f} s of the {stated_s:.2f} s that its header promises")
    return np.ascontiguousarray(wave, np.float32), rate


def _stated_s(container: Any, stream: Any) -> float:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration is not None else 0.0
