"""MPEG audio frame by frame: the length of a file that states none, with tags or damage between the frames.

mpg123 multiplies the first frame's bitrate by the file's size where no Xing, Info or VBRI header states a length, and
gives up after 1,024 bytes that are no frame. So frames are found here by their headers, and tags and junk left out.

Source: ISO 11172-3, ISO 13818-3; the Xing and VBRI headers as LAME and Fraunhofer write them.
"""

import io
import struct
from functools import lru_cache
from typing import NamedTuple

SYNC_FRAMES = 3
"""As many frames must follow each other where audio is looked for: one header alone occurs in any data."""
MAX_FREE_BYTES = 8_192
TAIL_BYTES = 1_024
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KBPS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # by whether it is MPEG-1, and the layer
_SIDE_INFO = {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}  # by MPEG-1, mono
_VBRI_BYTE = 4 + 32


class Header(NamedTuple):
    """The header of a frame, its first four bytes."""

    version: int
    layer: int
    rate: int
    """Hz."""
    mono: bool
    length: int
    """Bytes of the frame; of a free-format one those of its padding alone."""
    free: bool


class Stated(NamedTuple):
    """Fields of a Xing, Info or VBRI header; None where one is left out."""

    name: str
    frames: int | None
    size: int | None
    """Bytes from this header to the end of the last frame."""


class MpegAudio(NamedTuple):
    """The frames of a file."""

    start: int
    """Byte of the first frame, or of the header that states the length."""
    num_frames: int
    """Those that hold audio."""
    frame_samples: int
    """Samples a channel of each."""
    longest: int
    """Bytes of the longest frame."""
    audio: tuple[tuple[int, int], ...]
    """Where the frames that hold audio lie: first byte and end, neighbours joined."""
    stated: Stated | None


class UnknownLengthStream(io.BytesIO):
    """Frames in a file that claims to be longer than it is: mpg123's estimate then ends no reading early."""

    def __init__(self, frames: bytes, claimed: int) -> None:
        super().__init__(frames)
        self._claimed = claimed

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As BytesIO, but from the claimed end."""
        return super().seek(self._claimed + offset) if whence == io.SEEK_END else super().seek(offset, whence)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """As BytesIO; the claimed end, where mpg123 looks for an ID3v1 tag, is zeros."""
        place = self.tell()
        if place < self._claimed - TAIL_BYTES:
            return super().readinto(buffer)
        count = max(0, min(len(buffer), self._claimed - place))
        buffer[:count] = bytes(count)
        super().seek(place + count)
        return count


def find_mpeg(data: bytes, start: int = 0) -> MpegAudio | None:
    """The MPEG audio of a file, None where there is none."""
    first = _sync(data, start, None)
    if first < 0:
        return None
    header = _header(data, first)
    assert header is not None
    stated = _stated(data, first, header)
    runs: list[list[int]] = []
    count = longest = 0
    for place, length in _frames(data, first, header):
        if _stated(data, place, header) is not None:
            continue  # of this file, or of one that was appended to it
        count, longest = count + 1, max(longest, length)
        if runs and runs[-1][1] == place:
            runs[-1][1] += length
        else:
            runs.append([place, place + length])
    samples = 384 if header.layer == 1 else 576 if header.layer == 3 and header.version != 3 else 1_152
    return MpegAudio(first, count, samples, longest, tuple((begin, end) for begin, end in runs), stated)


def frames_of(data: bytes, found: MpegAudio) -> bytes:
    """The frames that hold audio, without header frames."""
    return b"".join(data[begin:end] for begin, end in found.audio)


def unknown_length_stream(data: bytes, found: MpegAudio) -> UnknownLengthStream:
    """The frames that hold audio, to be decoded to the end."""
    return UnknownLengthStream(frames_of(data, found), 2 * (found.num_frames + 64) * found.longest + TAIL_BYTES)


def _frames(data: bytes, first: int, like: Header) -> list[tuple[int, int]]:
    """First byte and length of every whole frame; what lies between them is passed over."""
    free = _free_length(data, first, like) if like.free else 0
    found, place = [], first
    while 0 <= place <= len(data) - 4:
        header = _header(data, place)
        if header is not None and _kin(header, like):
            length = header.length + (free if header.free else 0)
            if place + length > len(data):
                break
            found.append((place, length))
            place += length
        else:
            place = _sync(data, place + 1, like)
    return found


def _sync(data: bytes, start: int, like: Header | None) -> int:
    """Where the next frames follow each other, −1 where none do."""
    place = data.find(b"\xff", start)
    while place >= 0:
        header = _header(data, place)
        if header is not None and (like is None or _kin(header, like)) and _followed(data, place, header):
            return place
        place = data.find(b"\xff", place + 1)
    return -1


def _followed(data: bytes, place: int, header: Header) -> bool:
    free = _free_length(data, place, header) if header.free else 0
    if header.free and not free:
        return False
    here: Header | None = header
    for _ in range(SYNC_FRAMES - 1):
        if here is None or not _kin(here, header):
            return False
        place += here.length + (free if here.free else 0)
        if place == len(data):
            return True  # the last frame of the file
        here = _header(data, place)
    return here is not None and _kin(here, header)


def _free_length(data: bytes, place: int, like: Header) -> int:
    """Bytes of a free-format frame without its padding: those to the next header of its kind; 0 where none is near."""
    end = min(len(data), place + MAX_FREE_BYTES)
    at = data.find(b"\xff", place + 32, end)
    while at >= 0:
        header = _header(data, at)
        if header is not None and header.free and _kin(header, like):
            return at - place - like.length
        at = data.find(b"\xff", at + 1, end)
    return 0


def _kin(one: Header, other: Header) -> bool:
    return one[:3] == other[:3] and one.free == other.free


def _header(data: bytes, place: int) -> Header | None:
    return _parsed(data[place : place + 4])


@lru_cache(maxsize=4096)
def _parsed(four: bytes) -> Header | None:
    if len(four) < 4 or four[0] != 0xFF or four[1] & 0xE0 != 0xE0:
        return None
    version, layer = four[1] >> 3 & 3, 4 - (four[1] >> 1 & 3)
    bitrate, rate, padding = four[2] >> 4, four[2] >> 2 & 3, four[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate == 15 or rate == 3 or four[3] & 3 == 2:
        return None
    hz = _RATES[version][rate]
    mono, slot = four[3] >> 6 == 3, 4 if layer == 1 else 1
    length = padding * slot
    if bitrate:
        kbps = _KBPS[version == 3, layer][bitrate - 1]
        eighths = 48 if layer == 1 else 72 if layer == 3 and version != 3 else 144
        length += eighths * kbps * 1_000 // hz // slot * slot
    return Header(version, layer, hz, mono, length, bitrate == 0)


def _stated(data: bytes, place: int, header: Header) -> Stated | None:
    if header.layer != 3:
        return None
    at = place + 4 + _SIDE_INFO[header.version == 3, header.mono]
    if data[at : at + 4] in (b"Xing", b"Info") and len(data) >= at + 16:
        flags, one, two = struct.unpack_from(">III", data, at + 4)
        size = two if flags & 1 else one
        return Stated(data[at : at + 4].decode(), one if flags & 1 else None, size if flags & 2 else None)
    at = place + _VBRI_BYTE
    if data[at : at + 4] == b"VBRI" and len(data) >= at + 18:
        size, frames = struct.unpack_from(">II", data, at + 10)
        return Stated("VBRI", frames, size)
    return None
