"""What an audio file's own container promises, against what is there: decoders return short without a word (fault 22).

Only the ends of a file are read. A constant-rate MP3 without a Xing header promises nothing and cannot be judged here.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

MAX_OGG_PAGE = 65_307
_UNKNOWN_LENGTHS = (0, 0xFFFFFFFF)  # what a writer that could not seek back leaves in a WAV's sizes
_MPEG_SIDE_INFO = {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}  # (MPEG-1, mono)


def shortfall(path: Path) -> str | None:
    """Why the file is shorter than its container says, or None.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        for magic, check in _CHECKS.items():
            if head.startswith(magic):
                return check(file, size)
        return _mp3(file, size) if head[:1] == b"\xff" else None


def _wav(file: BinaryIO, size: int) -> str | None:
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"data":
            there = size - position - 8
            if length in _UNKNOWN_LENGTHS or length <= there:
                return None
            return f"truncated: its data chunk promises {length:,} bytes, {there:,} are there"
        position += 8 + length + length % 2
    return "truncated: no data chunk"


def _ogg(file: BinaryIO, size: int) -> str | None:
    file.seek(max(0, size - MAX_OGG_PAGE))
    tail = file.read()
    start = tail.rfind(b"OggS")
    page = tail[start:]
    if start < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return "truncated: the last Ogg page is not whole"
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    if length > len(page):
        return f"truncated: the last Ogg page promises {length:,} bytes, {len(page):,} are there"
    return None if page[5] & 4 else "truncated: the last Ogg page does not end the stream"


def _mp3(file: BinaryIO, size: int) -> str | None:
    file.seek(0)
    head = file.read(10)
    start = 0
    if head.startswith(b"ID3"):
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(200)
    if len(frame) < 200 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    mpeg1, mono = frame[1] & 0x18 == 0x18, frame[3] & 0xC0 == 0xC0
    xing = 4 + _MPEG_SIDE_INFO[mpeg1, mono]
    if frame[xing : xing + 4] not in (b"Xing", b"Info"):
        return None
    (flags,) = struct.unpack_from(">I", frame, xing + 4)
    if not flags & 2:
        return None
    (length,) = struct.unpack_from(">I", frame, xing + 8 + (4 if flags & 1 else 0))
    there = size - start
    return f"truncated: its Xing header promises {length:,} bytes, {there:,} are there" if length > there else None


_CHECKS: dict[bytes, Callable[[BinaryIO, int], str | None]] = {b"RIFF": _wav, b"OggS": _ogg, b"ID3": _mp3}
