"""Containers whose header or chunks state a length in bytes: WAV and its kin, AIFF, SVX, AU, CAF, NIST, VOC."""

import io
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

_BANDS_32 = ((0x7FFF_0000, 0x8000_1000), (0xFFFF_0000, 0xFFFF_FFFF))
"""Sizes that streaming writers leave: the largest number, signed or not, rounded to blocks or less a header."""
_HUGE = 1 << 48
_MPEG_TAGS = (0x50, 0x55)
"""Codecs of a WAV whose data chunk is a stream of MPEG frames."""
MAX_JUNK = 1 << 16
"""Bytes behind the audio that need not be chunks."""
_SOUND = re.compile(
    rb"(?s)(?:RIFF|RIFX|RF64|BW64)....WAVE|FORM....(?:AIF[FC]|8SVX|16SV)|caff\x00\x01\x00\x00|riff\x2e\x91\xcf\x11|"
    rb"\.snd\x00\x00..|dns\...\x00\x00|NIST_1A\n|Creative Voice File|fLaC[\x00\x80]\x00\x00\x22|OggS\x00[\x02\x06]"
)
"""How files of audio begin; a picture in a tag may begin with RIFF as well."""


class PatchedFile(io.RawIOBase):
    """A file with some bytes replaced, for a decoder that would take a placeholder for a size; or one that ends before
    its end, for a decoder that would read what follows the audio as audio.
    """

    def __init__(self, file: BinaryIO, patches: Mapping[int, bytes], end: int | None = None) -> None:
        self._file, self._patches, self._end = file, patches, end
        file.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As the file's."""
        if whence == io.SEEK_END and self._end is not None:
            return self._file.seek(self._end + offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As the file's."""
        return self._file.tell()

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """As the file's, with the replaced bytes."""
        start = self._file.tell()
        length = len(buffer) if self._end is None else max(0, min(len(buffer), self._end - start))
        content = bytearray(self._file.read(length))
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
    """Streams that are decoded one after another instead of the file; empty where the file itself is decoded."""
    least_frames: int = 0
    """Samples a channel that were counted, less what decoders may drop; 0 where none were counted."""
    slack: int = 0
    """Samples a channel that the stated length may exceed what a whole file decodes to."""
    mpeg_at: int = 0
    """Where a chunk's MPEG frames begin, whose number no chunk states; 0 where it holds none."""


AS_IT_IS = Container()


def _states(length: int) -> bool:
    return 0 < length < _HUGE and not any(low <= length <= high for low, high in _BANDS_32)


def _sized(
    file: BinaryIO, begin: int, length: int, size: int, what: str, patches: Mapping[int, bytes], *, chunks: bool = True
) -> Container:
    """A container whose audio is one chunk: of the length it states, or of all that is there.

    Args:
        file: of the container.
        begin: byte where the audio begins.
        length: stated, bytes.
        size: of the file.
        what: states the length.
        patches: sizes for a decoder that would not read all that is there.
        chunks: whether others may follow, which the decoder reads as such.
    """
    there = size - begin
    if there > 0 and not _states(length):
        return Container(states_length=False, parts=(PatchedFile(file, patches),) if patches else ())
    if length > there > 0 or (_states(length) and there <= 0):
        return Container(f"truncated: its {what} promises {length:,} bytes, {max(there, 0):,} are there")
    return _ended(file, begin + length, size, chunks=chunks) if length < there else AS_IT_IS


def _ended(file: BinaryIO, end: int, size: int, *, chunks: bool) -> Container:
    """A container whose audio ends before the file does: libsndfile passes over what follows, or takes it for audio."""
    file.seek(end)
    behind = file.read(MAX_JUNK)
    if second := _SOUND.search(behind):
        return Container(_second_sound(end + second.start()))
    if not chunks and size - end > MAX_JUNK and any(behind):
        return Container(
            f"its audio ends at byte {end:,}, and {size - end:,} bytes follow that are no part of it; where they are "
            "audio its header is wrong, otherwise: ffmpeg -i FILE FILE.flac"
        )
    return AS_IT_IS if chunks else Container(parts=(PatchedFile(file, {}, end),))


def _second_sound(byte: int) -> str:
    return f"holds a second sound at byte {byte:,}, which no decoder would read; split it, one sound a file"


def _chunks(file: BinaryIO, position: int, size: int, head: str) -> Iterator[tuple[int, bytes, int]]:
    """Where the body of each chunk begins, where the file then stands, its name and its length."""
    count = struct.calcsize(head)
    while position + count <= size:
        file.seek(position)
        name, length = struct.unpack(head, file.read(count))
        yield position + count, name, length
        position += count + length + (length % 2 if count == 8 else 0)  # those with a length of 32 bits are even


def _riff(file: BinaryIO, size: int) -> Container:
    file.seek(0)
    order = ">" if file.read(4) == b"RIFX" else "<"
    long_at = tag = 0
    for body, name, length in _chunks(file, 12, size, f"{order}4sI"):
        if name == b"ds64" and length >= 24:
            long_at = body
        if name == b"fmt " and length >= 16:
            (tag,) = struct.unpack(f"{order}H", file.read(2).ljust(2, b"\0"))
        if name == b"data":
            found = _riff_data(file, size, order, body, length, long_at)
            return Container(found.problem, mpeg_at=body) if tag in _MPEG_TAGS else found
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
    if _states(length) and length < there:
        return Container(_behind(file, body + length + length % 2, size, order))
    return _sized(file, body, length, size, "data chunk", patches)


def _behind(file: BinaryIO, position: int, size: int, order: str) -> str | None:
    """What is wrong with what follows the audio, which a decoder passes over."""
    file.seek(position)
    if second := _SOUND.search(file.read(MAX_JUNK)):
        return _second_sound(position + second.start())
    for body, name, _ in _chunks(file, position, size, f"{order}4sI"):
        position = body - 8
        if name in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"data"):
            return _second_sound(position)
        if not _is_name(name):
            rest = size - position
            file.seek(position)
            if rest <= MAX_JUNK or not any(file.read(MAX_JUNK)):
                return None
            return (
                f"its data chunk ends at byte {position:,}, and {rest:,} bytes that are no chunk follow; where they "
                "are audio: ffmpeg -ignore_length 1 -i FILE FILE.flac, otherwise: ffmpeg -i FILE FILE.flac"
            )
    return None


def _is_chunks(file: BinaryIO, position: int, size: int, order: str) -> bool:
    for body, name, length in _chunks(file, position, size, f"{order}4sI"):
        if not _is_name(name):
            return False
        position = body + length + length % 2
    return position == size


def _is_name(name: bytes) -> bool:
    return name.isascii() and name.decode("ascii").isprintable()


def _w64(file: BinaryIO, size: int) -> Container:
    position = 40
    while position + 24 <= size:
        file.seek(position)
        guid, length = struct.unpack("<16sQ", file.read(24))
        if guid.startswith(b"data"):
            there = size - position - 24
            patches = {16: struct.pack("<Q", size), position + 16: struct.pack("<Q", there + 24)}
            return _sized(file, position + 24, max(0, length - 24), size, "data chunk", patches, chunks=False)
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
    return _sized(file, offset, length, size, "header", patched, chunks=False)


def _iff(file: BinaryIO, size: int) -> Container:
    """AIFF and SVX: libsndfile reads on to the end of the file, so no size is replaced."""
    expected = 0
    file.seek(8)
    form = file.read(4)
    for body, name, length in _chunks(file, 12, size, ">4sI"):
        if name == b"COMM" and form == b"AIFF" and length >= 8:
            channels, frames, bits = struct.unpack(">HIH", file.read(8))
            expected = frames * channels * (-(-bits // 8)) if _states(frames) else 0
        if name in (b"SSND", b"BODY"):
            if not _states(length) and expected:
                return _sized(file, body + 8, expected, size, "COMM chunk", {})
            return _sized(file, body, length, size, "sound chunk", {}, chunks=name == b"SSND")
    return Container("truncated: no sound chunk")


def _caf(file: BinaryIO, size: int) -> Container:
    for body, name, length in _chunks(file, 8, size, ">4sQ"):
        if name == b"data":
            patches = {body - 8: struct.pack(">Q", size - body)}
            return _sized(file, body, length, size, "data chunk", patches)
    return Container("truncated: no data chunk")


def _voc(file: BinaryIO, size: int) -> Container:
    """Creative Voice: blocks of a type, a length of three bytes, and content; type 0 ends the file."""
    position = 26
    while position + 4 <= size:
        file.seek(position)
        kind, *length = file.read(4)
        body, there = int.from_bytes(length, "little"), size - position - 4
        if kind == 0:
            return _ended(file, position + 1, size, chunks=False) if position + 1 < size else AS_IT_IS
        if body > there:
            return Container(f"truncated: its block promises {body:,} bytes, {there:,} are there")
        position += 4 + body
    return AS_IT_IS


def _nist(file: BinaryIO, size: int) -> Container:
    file.seek(0)
    head = file.read(1_024)
    numbers = {name: int(value) for name, value in re.findall(rb"(?m)^(\w+) -i (\d+)", head)}
    length = numbers.get(b"sample_count", 0) * numbers.get(b"channel_count", 1) * numbers.get(b"sample_n_bytes", 1)
    return _sized(file, 1_024, length, size, "header", {}, chunks=False)


LENGTH_CHECKS: dict[bytes, Callable[[BinaryIO, int], Container]] = {
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64", b"BW64"), _riff),
    b"riff": _w64,
    b".snd": _au,
    b"dns.": _au,
    b"FORM": _iff,
    b"caff": _caf,
    b"NIST_1A": _nist,
    b"Creative Voice F": _voc,
}
"""By the bytes that a file begins with."""
