"""A strict reader of tar headers: everything unexpected is an error with its byte (docs/faults.md, 1–5, 8, 14–17).

tarfile and webdataset end silently at the first header they cannot read; here every byte outside the payloads is
accounted for: headers by their checksum, padding and the end of the archive by being zero.
"""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from data_shards.format.problems import Problem, ShardError

BLOCK = 512
MAX_END_BYTES = 2 * BLOCK + 10_240
"""Two zero blocks end an archive; writers then fill up a record of 10,240 bytes. More zeros are a hole."""
MAX_PAX_BYTES = 1 << 16
MAX_NAME_BYTES = 255
_ZEROS = bytes(BLOCK)
_OCTAL = re.compile(rb" *([0-7]{1,11})[ \0]+\Z")
_CHECKSUM = re.compile(rb"([0-7]{6})\0 \Z")
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([A-Za-z][A-Za-z0-9_.:-]*)=")
_PAX_HARMLESS = re.compile(
    rb"[acm]time|[ug]name|[ug]id|comment|hdrcharset|(SCHILY|LIBARCHIVE|RHT|POSIX)\..*|GNU\.volume\..*"
)
"""Times, owners, attributes: fields that affect neither the name nor the bytes of a file."""
_PLAIN, _FOLDER, _LONG_NAME, _PAX, _PAX_FOR_ALL = (b"0", b"\0"), b"5", b"L", b"x", b"g"
_KINDS = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe",
    b"S": "a sparse file", b"K": "a GNU long link", b"D": "a GNU list of a folder", b"M": "a part of a file",
}  # fmt: skip
_OTHER_MAGIC = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip",
    b"<": "HTML or XML",
}  # fmt: skip


class Member(NamedTuple):
    """One file inside a shard."""

    key: str
    """The name up to the first dot of its last part: webdataset's rule for the members of one sample."""
    extension: str
    header: int
    """Byte of its (first) header block."""
    offset: int
    """Byte where its payload begins."""
    size: int


def iter_members(fd: int, shard: str) -> Iterator[Member]:
    """Members of an uncompressed tar, in order; the position of the open file is not used.
    Raises ShardError, with ``shard`` as its name, at the first thing that is not as it must be.
    """
    size = os.fstat(fd).st_size
    _refuse_other_files(fd, size, shard)
    position, first, name = 0, 0, None
    while True:
        header = os.pread(fd, BLOCK, position)
        if len(header) < BLOCK:
            what = "cut within a header" if header else "ends without the end of the archive: cut between two members"
            raise ShardError(Problem(shard, None, position, what))
        if header == _ZEROS:
            _check_end(fd, position, size, shard)
            return
        kind, length = _read_header(header, position, shard)
        payload = position + BLOCK
        after = payload + -(-length // BLOCK) * BLOCK
        if after > size:
            title = name or _header_name(header, position, shard)
            what = (
                f"member {title!r} promises {length:,} bytes, {max(0, size - payload):,} are left: cut, or a wrong size"
            )
            raise ShardError(Problem(shard, _split_name(title)[0], position, what))
        if kind in (_PAX, _PAX_FOR_ALL, _LONG_NAME):
            found = _read_extension(
                kind, os.pread(fd, length, payload) if length <= MAX_PAX_BYTES else b"", payload, shard
            )
            name = found or name
        else:
            title = name or _header_name(header, position, shard)
            if kind == _FOLDER:
                _check_folder(title, length, position, shard)
            else:
                yield Member(*_checked_name(title, position, shard), first, payload, length)
            name, first = None, after
        if os.pread(fd, after - payload - length, payload + length).strip(b"\0"):
            raise ShardError(Problem(shard, None, payload + length, "padding between two members is not zero"))
        position = after


def _refuse_other_files(fd: int, size: int, shard: str) -> None:
    if size == 0:
        raise ShardError(Problem(shard, None, 0, "the file is empty"))
    head = os.pread(fd, 8, 0)
    for magic, kind in _OTHER_MAGIC.items():
        if head.lstrip().startswith(magic):
            raise ShardError(Problem(shard, None, 0, f"this is {kind}, not an uncompressed tar"))
    if size < 2 * BLOCK:
        raise ShardError(Problem(shard, None, 0, f"{size} bytes are no tar archive"))


def _read_header(header: bytes, position: int, shard: str) -> tuple[bytes, int]:
    def fail(what: str) -> ShardError:
        return ShardError(Problem(shard, None, position, what))

    stored = _CHECKSUM.match(header[148:156])
    actual = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
    if not stored or int(stored[1], 8) != actual:
        raise fail("not a tar header, or one that was damaged: its checksum does not fit")
    if header[257:263] not in (b"ustar\0", b"ustar "):
        raise fail("a header without the ustar magic")
    kind = header[156:157]
    if kind not in (*_PLAIN, _FOLDER, _LONG_NAME, _PAX, _PAX_FOR_ALL):
        raise fail(f"a member that is {_KINDS.get(kind, f'of kind {kind!r}')}; shards hold plain files")
    if header[157:257].strip(b"\0"):
        raise fail("a plain file or folder with a link target; shards hold plain files")
    length = _OCTAL.match(header[124:136])
    if not length:
        raise fail(f"a member of size {header[124:136]!r}: negative, absurd or damaged")
    return kind, int(length[1], 8)


def _header_name(header: bytes, position: int, shard: str) -> str:
    prefix = header[345:500].rstrip(b"\0") if header[257:263] == b"ustar\0" else b""
    return _decode(b"/".join(part for part in (prefix, header[:100].rstrip(b"\0")) if part), position, shard)


def _decode(name: bytes, position: int, shard: str) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise ShardError(Problem(shard, None, position, f"member name {name!r} is not UTF-8")) from None


def _split_name(name: str) -> tuple[str, str]:
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension


def _checked_name(name: str, position: int, shard: str) -> tuple[str, str]:
    key, extension = _split_name(_inside(name))
    if not (_is_safe(name) and extension) or any(part in ("", ".", "..") for part in key.split("/")):
        raise ShardError(Problem(shard, None, position, f"member name {name!r} is not of the form KEY.EXTENSION"))
    return key, extension


def _check_folder(name: str, length: int, position: int, shard: str) -> None:
    """Accept an entry of a folder: `tar` writes one for each, without content."""
    path = _inside(name).removesuffix("/")
    inside = path in ("", ".") or not any(part in ("", ".", "..") for part in path.split("/"))
    if not (_is_safe(name) and inside and not name.startswith("/")):
        raise ShardError(Problem(shard, None, position, f"folder name {name!r} is not of the form FOLDER/"))
    if length:
        raise ShardError(Problem(shard, None, position, f"a folder of {length:,} bytes; shards hold plain files"))


def _inside(name: str) -> str:
    """A name without the ``./`` of ``tar -cf shard.tar .``."""
    return name.removeprefix("./")


def _is_safe(name: str) -> bool:
    return name.isprintable() and "\\" not in name and len(name.encode()) <= MAX_NAME_BYTES


def _read_extension(kind: bytes, payload: bytes, position: int, shard: str) -> str | None:
    """The name that a header gives to the next one, if it gives one."""
    if kind != _LONG_NAME:
        name = _read_pax(payload, position, shard)
        if name is not None and kind == _PAX_FOR_ALL:
            raise ShardError(Problem(shard, None, position, "a global header that sets b'path'"))
        return name
    if not payload.endswith(b"\0") or b"\0" in payload[:-1]:
        raise ShardError(Problem(shard, None, position, f"a long name that is damaged or over {MAX_PAX_BYTES:,} bytes"))
    return _decode(payload[:-1], position, shard)


def _read_pax(records: bytes, position: int, shard: str) -> str | None:
    """The path of an extended header, if it gives one; times and owners are ignored, sizes and sparse maps refused."""
    name, start = None, 0
    while start < len(records):
        record = _PAX_RECORD.match(records, start)
        end = start + int(record[1]) if record else 0
        if not record or not record.end() < end <= len(records) or records[end - 1 : end] != b"\n":
            raise ShardError(Problem(shard, None, position + start, "a damaged or unknown extended header"))
        if record[2] == b"path":
            name = _decode(records[record.end() : end - 1], position, shard)
        elif not _PAX_HARMLESS.fullmatch(record[2]):
            raise ShardError(Problem(shard, None, position + start, f"an extended header that sets {record[2]!r}"))
        start = end
    if not records:
        raise ShardError(
            Problem(shard, None, position, f"an extended header that is empty or over {MAX_PAX_BYTES:,} bytes")
        )
    return name


def _check_end(fd: int, position: int, size: int, shard: str) -> None:
    length = size - position
    if length < 2 * BLOCK:
        raise ShardError(Problem(shard, None, position, "ends within the end of the archive: cut"))
    tail = os.pread(fd, MAX_END_BYTES + BLOCK, position)
    rest = tail.lstrip(b"\0")
    if rest:
        where = position + len(tail) - len(rest)
        raise ShardError(Problem(shard, None, where, f"a hole of zeros from byte {position:,} and then more data"))
    if length > MAX_END_BYTES:
        raise ShardError(Problem(shard, None, position, f"a hole: the last {length:,} bytes begin with zeros"))
    if position == 0:
        raise ShardError(Problem(shard, None, 0, "an archive without members"))
