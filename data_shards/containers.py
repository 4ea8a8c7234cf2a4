"""What an audio file's own container states of its length, against what is there (docs/faults.md 22).

Decoders return short without an error, and estimate where nothing is stated. A size that a writer could not go back to
fill in (a pipe, a killed recorder) states nothing: such a file is read to its end.
"""

import io
import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from data_shards.mpeg_frames import find_mpeg, frames_of, unknown_length_stream
from data_shards.ogg_pages import read_ogg

MAX_COMPRESSED_BYTES = 1 << 29
"""Of a file whose frames or pages are looked through: more than `audio.MAX_SAMPLES` at any bitrate."""
SEARCH_BYTES = 1 << 17
"""Behind the tags, as far as the first MPEG frame is looked for."""
_BANDS_32 = ((0x7FFF_0000, 0x8000_1000), (0xFFFF_0000, 0xFFFF_FFFF))
"""What streaming writers leave as a size: the largest number, signed or not, rounded to blocks or less a header."""
_HUGE = 1 << 48


class PatchedFile(io.RawIOBase):
    """A file of which some bytes are replaced, for a decoder that takes a placeholder at its word."""

    def __init__(self, file: BinaryIO, patches: Mapping[int, bytes]) -> None:
        self._file, self._patches = file, patches
        file.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As the file's."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As the file's."""
        return self._file.tell()

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """As the file's, with the replaced bytes."""
        start = self._file.tell()
        content = bytearray(self._file.read(len(buffer)))
        for place, patch in self._patches.items():
            for i, byte in enumerate(patch, place - start):
                if 0 <= i < len(content):
                    content[i] = byte
        buffer[: len(content)] = content
        return len(content)


@dataclass(frozen=True)
class Container:
    """How a file is decoded."""

    problem: str | None = None
    """Why it is shorter than it states."""
    states_length: bool = True
    """Whether the length that libsndfile gives is one that the file states; otherwise its end is the end."""
    parts: tuple[PatchedFile | io.BytesIO, ...] = ()
    """What is decoded one after another instead of the file as it is; none where the file itself is."""
    least_frames: int = 0
    """Samples a channel that were counted, less what decoders may drop; 0 where none were counted."""


AS_IT_IS = Container()


def examine(file: BinaryIO) -> Container:
    """What a file states of its length.

    Args:
        file: open for as long as the parts are read.

    Raises:
        OSError: if it cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    start = tags_end(file)
    file.seek(start)
    head = file.read(16)
    for magic, check in _CHECKS.items():
        if head.startswith(magic):
            return check(file, size)
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


def _states(length: int) -> bool:
    return 0 < length < _HUGE and not any(low <= length <= high for low, high in _BANDS_32)


def _sized(file: BinaryIO, length: int, there: int, what: str, patches: Mapping[int, bytes]) -> Container:
    """A container whose audio is one chunk: of the length it states, or of all that is there.

    Args:
        file: of the container.
        length: stated, bytes.
        there: bytes.
        what: states it.
        patches: sizes for a decoder that would not read all that is there.
    """
    if there > 0 and not _states(length):
        return Container(states_length=False, parts=(PatchedFile(file, patches),) if patches else ())
    if length > there > 0 or (_states(length) and there <= 0):
        return Container(f"truncated: its {what} promises {length:,} bytes, {max(there, 0):,} are there")
    return AS_IT_IS


def _riff(file: BinaryIO, size: int) -> Container:
    file.seek(0)
    order = ">" if file.read(4) == b"RIFX" else "<"
    position, long_at = 12, 0
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        body = position + 8
        if name == b"ds64" and length >= 24:
            long_at = body
        if name == b"data":
            return _riff_data(file, size, order, body, length, long_at)
        position = body + length + length % 2
    return Container("truncated: no data chunk")


def _riff_data(file: BinaryIO, size: int, order: str, body: int, length: int, long_at: int) -> Container:
    there = size - body
    patches = {body - 4: struct.pack(f"{order}I", min(max(there, 0), 0xFFFF_FFFE))}
    if length == 0 and _is_chunks(file, body, size, order):
        return AS_IT_IS  # no samples, and chunks behind them
    if long_at and length == 0xFFFF_FFFF:
        file.seek(long_at + 8)
        (length,) = struct.unpack("<Q", file.read(8))
        patches = {long_at: struct.pack("<QQQ", size - 8, max(there, 0), 0)}
    return _sized(file, length, there, "data chunk", patches)


def _is_chunks(file: BinaryIO, position: int, size: int, order: str) -> bool:
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if not name.isascii() or not name.decode("ascii").isprintable():
            return False
        position += 8 + length + length % 2
    return position == size


def _w64(file: BinaryIO, size: int) -> Container:
    position = 40
    while position + 24 <= size:
        file.seek(position)
        guid, length = struct.unpack("<16sQ", file.read(24))
        if guid.startswith(b"data"):
            there = size - position - 24
            patches = {16: struct.pack("<Q", size), position + 16: struct.pack("<Q", there + 24)}
            return _sized(file, max(0, length - 24), there, "data chunk", patches)
        position += max(24, -(-length // 8) * 8)
    return Container("truncated: no data chunk")


def _au(file: BinaryIO, size: int) -> Container:
    file.seek(0)
    head = file.read(12)
    if len(head) < 12:
        return Container("truncated: its header is not whole")
    order = ">" if head.startswith(b".snd") else "<"
    offset, length = struct.unpack_from(f"{order}II", head, 4)
    patched = {8: b"\xff" * 4}  # what the format itself has for an unknown length
    return _sized(file, length, size - offset, "header", patched)


def _iff(file: BinaryIO, size: int) -> Container:
    """AIFF and SVX: libsndfile reads on to the end whatever stands there, so no size is replaced."""
    position, expected = 12, 0
    file.seek(8)
    form = file.read(4)
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(">4sI", file.read(8))
        if name == b"COMM" and form == b"AIFF" and length >= 8:
            channels, frames, bits = struct.unpack(">HIH", file.read(8))
            expected = frames * channels * (-(-bits // 8)) if _states(frames) else 0
        if name in (b"SSND", b"BODY"):
            there = size - position - 8
            if not _states(length) and expected:
                return _sized(file, expected, there - 8, "COMM chunk", {})
            return _sized(file, length, there, "sound chunk", {})
        position += 8 + length + length % 2
    return Container("truncated: no sound chunk")


def _caf(file: BinaryIO, size: int) -> Container:
    position = 8
    while position + 12 <= size:
        file.seek(position)
        name, length = struct.unpack(">4sQ", file.read(12))
        if name == b"data":
            there = size - position - 12
            patches = {position + 4: struct.pack(">Q", there)}
            return _sized(file, length, there, "data chunk", patches)
        position += 12 + length
    return Container("truncated: no data chunk")


def _nist(file: BinaryIO, size: int) -> Container:
    file.seek(0)
    head = file.read(1_024)
    numbers = {name: int(value) for name, value in re.findall(rb"(?m)^(\w+) -i (\d+)", head)}
    length = numbers.get(b"sample_count", 0) * numbers.get(b"channel_count", 1) * numbers.get(b"sample_n_bytes", 1)
    return _sized(file, length, size - 1_024, "header", {})


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
    return Container(found.problem, found.states_length, found.links)


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
        if stated.name != "VBRI" and not appended:  # libsndfile knows no VBRI
            if len(found.audio) == 1 and found.start == start and data.startswith((b"ID3", b"\xff")):
                return AS_IT_IS
            header = data[found.start : found.audio[0][0]]
            return Container(parts=(io.BytesIO(header + frames_of(data, found)),))
    least = max(0, found.num_frames - 2) * found.frame_samples
    return Container(states_length=False, parts=(unknown_length_stream(data, found),), least_frames=least)


_CHECKS: dict[bytes, Callable[[BinaryIO, int], Container]] = {
    b"RIFF": _riff,
    b"RIFX": _riff,
    b"RF64": _riff,
    b"BW64": _riff,
    b"riff": _w64,
    b".snd": _au,
    b"dns.": _au,
    b"FORM": _iff,
    b"caff": _caf,
    b"NIST_1A": _nist,
    b"OggS": _ogg,
}
