"""The length that an audio file's container states, compared with the bytes of the file (docs/faults.md 22).

Decoders return fewer samples without an error, and estimate a length that is not stated. A writer that cannot seek back
(a pipe, a killed recorder) leaves its size field unfilled: such a file is read to its end.
"""

import io
import os
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from data_shards.audio.chunks import AS_IT_IS, LENGTH_CHECKS, Container
from data_shards.audio.mpeg import find_mpeg, frames_of, unknown_length_stream
from data_shards.audio.ogg import read_ogg

MAX_COMPRESSED_BYTES = 1 << 29
"""Limit of a file whose frames or pages are counted: more than `decode.MAX_SAMPLES` at any bitrate."""
_FLAC_STREAM = re.compile(rb"fLaC[\0\x80]\0\0\x22")
"""The marker of a stream and the header of its STREAMINFO, which comes first and has 34 bytes."""
SEARCH_BYTES = 1 << 17
"""Bytes behind the tags that are searched for the first MPEG frame."""


def examine(file: BinaryIO) -> Container:
    """Compare the length that a file states with its bytes. Raises OSError if it cannot be read."""
    size = os.fstat(file.fileno()).st_size
    start = tags_end(file)
    file.seek(start)
    head = file.read(16)
    if head.startswith(b"fLaC"):
        return _flac(file, start, size)
    checks = {**LENGTH_CHECKS, b"OggS": _ogg}
    check = next((check for magic, check in checks.items() if head.startswith(magic)), None)
    if check is None:
        return _mpeg(file, start, size)
    if start:
        return _behind_tags(file, start, size, check)
    found = check(file, size)
    return _mpeg(file, found.mpeg_at, size) if found.mpeg_at and not found.problem else found


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


def _behind_tags(file: BinaryIO, start: int, size: int, check: Callable[[BinaryIO, int], Container]) -> Container:
    """A container behind tags, which libsndfile does not pass over."""
    if refused := _too_large(size):
        return refused
    file.seek(start)
    content = io.BytesIO(file.read())
    found = check(content, size - start)
    if found.mpeg_at and not found.problem:
        return _mpeg(file, start + found.mpeg_at, size)
    content.seek(0)
    return found if found.problem or found.parts else replace(found, parts=(content,))


def _flac(file: BinaryIO, start: int, size: int) -> Container:
    """A stream, or several that were appended to each other; of those libsndfile reads the first alone."""
    if refused := _too_large(size):
        return refused
    file.seek(start)
    data = file.read()
    begins = [0, *(match.start() for match in _FLAC_STREAM.finditer(data, 4))]
    totals = [int.from_bytes(data[begin + 18 : begin + 26]) & ((1 << 36) - 1) for begin in begins]
    parts: tuple[io.BytesIO, ...] = ()
    if len(begins) > 1 or start:
        parts = tuple(io.BytesIO(data[begin:end]) for begin, end in zip(begins, [*begins[1:], None], strict=True))
    return Container(states_length=all(totals), parts=parts)


def _too_large(size: int) -> Container | None:
    if size <= MAX_COMPRESSED_BYTES:
        return None
    return Container(f"{size:,} bytes of compressed audio; cut it below {MAX_COMPRESSED_BYTES:,}")


def _ogg(file: BinaryIO, size: int) -> Container:
    if refused := _too_large(size):
        return refused
    file.seek(0)
    found = read_ogg(file.read())
    return Container(found.problem, found.states_length, found.links, slack=found.slack)


def _mpeg(file: BinaryIO, start: int, size: int) -> Container:
    file.seek(start)
    if find_mpeg(file.read(SEARCH_BYTES)) is None:
        return AS_IT_IS
    if refused := _too_large(size):
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
            tail = len(data) - found.audio[-1][1]
            whole = len(found.audio) == 1 and found.start == start and data.startswith((b"ID3", b"\xff"))
            if whole and 200 * tail <= len(data):  # mpg123 warns on stderr where the stated size is 1% off
                # Never by its name: beside a file without tags libsndfile reads the ._NAME that macOS leaves instead.
                return Container(parts=(io.BytesIO(data),))
            header = data[found.start : found.audio[0][0]]
            return Container(parts=(io.BytesIO(header + frames_of(data, found)),))
    least = max(0, found.num_frames - 2) * found.frame_samples
    return Container(states_length=False, parts=(unknown_length_stream(data, found),), least_frames=least)
