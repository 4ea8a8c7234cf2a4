"""The pages of an Ogg file: whether the last one is there, and the streams that follow each other in one file.

Source: RFC 3533.
"""

import io
import struct
import zlib
from typing import NamedTuple

MAX_PACKET_SAMPLES = 8_192
"""Of Vorbis, for each segment at most; of Opus fewer."""
_BEGINS, _ENDS = 2, 4
_UNKNOWN = 0xFFFFFFFFFFFFFFFF
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Page(NamedTuple):
    """One page."""

    start: int
    end: int
    """The end that its header states; the end of the header where that is cut."""
    flags: int
    granule: int
    segments: int
    stream: int
    number: int


class OggAudio(NamedTuple):
    """What is to be decoded of an Ogg file."""

    problem: str | None
    """Why the file is shorter than it states."""
    links: tuple[io.BytesIO, ...]
    """The streams of a chained file, in order, for a decoder that reads the first alone; none where it reads all."""
    states_length: bool
    slack: int = 0
    """Samples that the last granule position may count beyond what is decoded: writers round it up to a whole packet.
    0 where pages are missing, for then fewer samples mean a loss."""


def read_ogg(data: bytes) -> OggAudio:
    """The length that an Ogg file states."""
    pages = _pages(data)
    problem = _problem(data, pages[-1] if pages else None)
    if problem:
        return OggAudio(problem, (), True)
    begins = [i for i, page in enumerate(pages) if page.flags & _BEGINS and not (i and pages[i - 1].flags & _BEGINS)]
    links = [pages[begin:end] for begin, end in zip(begins, [*begins[1:], None], strict=True)]
    streams = [(data[link[0].start : link[-1].end], _bound(link)) for link in links]
    if len(streams) < 2 and all(bound is None for _, bound in streams):
        return OggAudio(None, (), True, MAX_PACKET_SAMPLES if _unbroken(data, pages) else 0)
    parts = (content if bound is None else _with_granule(content, bound) for content, bound in streams)
    return OggAudio(None, tuple(map(io.BytesIO, parts)), all(bound is None for _, bound in streams))


def _pages(data: bytes) -> list[Page]:
    pages, place = [], data.find(b"OggS")
    while place >= 0:
        if len(data) < place + 27 or len(data) < place + 27 + data[place + 26]:
            pages.append(Page(place, len(data) + 1, 0, 0, 0, 0, 0))
            break
        granule, stream, number = struct.unpack_from("<QII", data, place + 6)
        segments = data[place + 26]
        end = place + 27 + segments + sum(data[place + 27 : place + 27 + segments])
        pages.append(Page(place, end, data[place + 5], granule, segments, stream, number))
        place = end if data[end : end + 4] == b"OggS" else data.find(b"OggS", place + 4)
    return pages


def _problem(data: bytes, last: Page | None) -> str | None:
    if last is None or (not last.segments and last.end > len(data)):
        return "truncated: the last Ogg page is not whole"
    if last.end > len(data):
        there = len(data) - last.start
        return f"truncated: the last Ogg page promises {last.end - last.start:,} bytes, {there:,} are there"
    return None if last.flags & _ENDS else "truncated: the last Ogg page does not end the stream"


def _unbroken(data: bytes, pages: list[Page]) -> bool:
    """Whether the pages of every stream follow each other without a gap, each with the checksum that it states."""
    latest: dict[int, int] = {}
    for page in pages:
        content = data[page.start : page.end]
        if page.number != latest.get(page.stream, page.number - 1) + 1 or _checksum(content) != content[22:26]:
            return False
        latest[page.stream] = page.number
    return True


def _checksum(page: bytes) -> bytes:
    """Polynomial 04c11db7, highest bit first, of a page with four zeros in its place."""
    blank = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF  # zlib's is the mirror of Ogg's, from ones
    return int(f"{crc:032b}"[::-1], 2).to_bytes(4, "little")


def _bound(link: list[Page]) -> int | None:
    """More samples than a stream can hold whose last page has no final granule position; None where it has one."""
    known = [page.granule for page in link[:-1] if page.granule != _UNKNOWN]
    latest = max(known, default=0)
    if link[-1].granule != _UNKNOWN and link[-1].granule >= latest:
        return None
    return latest + MAX_PACKET_SAMPLES * sum(page.segments for page in link)


def _with_granule(content: bytes, granule: int) -> bytes:
    """A stream whose last page ends at a sample."""
    last = content.rfind(b"OggS")
    page = content[last : last + 6] + struct.pack("<Q", granule) + content[last + 14 :]
    return content[:last] + page[:22] + _checksum(page) + page[26:]
