"""The length that an audio file's container states, compared with the bytes of the file (docs/faults.md 22).

Decoders return fewer samples without an error, and estimate a length that is not stated. A writer that cannot seek back
(a pipe, a killed recorder) leaves its size field unfilled: such a file is read to its end.
"""

import io
import os
import struct
from typing import BinaryIO

from data_shards.audio.chunks import AS_IT_IS, LENGTH_CHECKS, Container
from data_shards.audio.mpeg import find_mpeg, frames_of, unknown_length_stream
from data_shards.audio.ogg import read_ogg

MAX_COMPRESSED_BYTES = 1 << 29
"""Limit of a file whose frames or pages are counted: more than `decode.MAX_SAMPLES` at any bitrate."""
SEARCH_BYTES = 1 << 17
"""Bytes behind the tags that are searched for the first MPEG frame."""


def examine(file: BinaryIO) -> Container:
    """Compare the length that a file states with its bytes.

    Raises:
        OSError: if it cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    start = tags_end(file)
    file.seek(start)
    head = file.read(16)
    for magic, check in LENGTH_CHECKS.items():
        if head.startswith(magic):
            return check(file, size)
    if head.startswith(b"OggS"):
        return _ogg(file, size)
    if head.startswith(b"fLaC"):
        return _flac(file, start)
    return _mpeg(file, start, size)


def tags_end(file: BinaryIO) -> int:
    """Where the audio begins behind ID3v2 and APE tags, which programs put in front of any format."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(32)
        if head.startswith(b"ID3") and len(head) >= 10:
            length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            start += 10 + length + (10 if head[5] & 0x10 else 0)
        elif head.startswith(b"APETAGEX") and len(head) == 32:
            start += 32 + struct.unpack_from("<I", head, 12)[0]
        else:
            return start


def _flac(file: BinaryIO, start: int) -> Container:
    file.seek(start + 18)
    total = int.from_bytes(file.read(8)) & ((1 << 36) - 1)
    return Container(states_length=total > 0)


def _too_large(size: int) -> Container | None:
    if size <= MAX_COMPRESSED_BYTES:
        return None
    return Container(f"{size:,} bytes of compressed audio; cut it below {MAX_COMPRESSED_BYTES:,}")


def _ogg(file: BinaryIO, size: int) -> Container:
    refused = _too_large(size)
    if refused:
        return refused
    file.seek(0)
    found = read_ogg(file.read())
    return Container(found.problem, found.states_length, found.links, slack=found.slack)


def _mpeg(file: BinaryIO, start: int, size: int) -> Container:
    file.seek(start)
    if find_mpeg(file.read(SEARCH_BYTES)) is None:
        return AS_IT_IS
    refused = _too_large(size)
    if refused:
        return refused
    file.seek(0)
    data = file.read()
    found = find_mpeg(data, start)
    if found is None or not found.num_frames:
        return AS_IT_IS
    stated, there = found.stated, len(data) - found.start
    if stated and stated.size is not None and stated.size > there:
        return Container(f"truncated: its {stated.name} header promises {stated.size:,} bytes, {there:,} are there")
    if stated and stated.frames is not None:
        if found.num_frames < stated.frames - 1:
            counts = f"{stated.frames:,} frames, {found.num_frames:,} are there"
            return Container(f"truncated: its {stated.name} header promises {counts}")
        appended = found.num_frames > stated.frames + max(2, stated.frames // 100)
        if stated.name != "VBRI" and not appended:  # libsndfile does not read VBRI
            if len(found.audio) == 1 and found.start == start and data.startswith((b"ID3", b"\xff")):
                return AS_IT_IS
            header = data[found.start : found.audio[0][0]]
            return Container(parts=(io.BytesIO(header + frames_of(data, found)),))
    least = max(0, found.num_frames - 2) * found.frame_samples
    return Container(states_length=False, parts=(unknown_length_stream(data, found),), least_frames=least)
