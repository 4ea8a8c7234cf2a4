"""Entries of the index, scanned from a shard with their checksums.

Building, indexing foreign shards and verifying all call `scan_shard`, so an index describes only bytes that were read.
"""

import dataclasses
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from data_shards.format.pcm import EXTENSIONS, WAV_HEAD_BYTES, Codec, read_form
from data_shards.format.problems import Problem, ShardError
from data_shards.format.records import SPLITS
from data_shards.format.tar import Member, iter_members
from data_shards.format.text import tidy

CRC_BLOCK_BYTES = 1 << 16
MAX_LABEL_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One clip of a shard, as a row of the index describes it. Labels are text until a whole set gives them codes."""

    key: str
    shard: str
    offset: int
    size: int
    frames: int
    rate: int
    codec: Codec
    pcm_offset: int
    crc: tuple[int, ...]
    """CRC32 of each block of `CRC_BLOCK_BYTES` of the audio member."""
    label_offset: int
    label_size: int
    label_crc: int
    track: str
    artist: str | None
    split: str
    licence: str | None
    multilabel: Mapping[str, tuple[str, ...]]
    categorical: Mapping[str, str | None]
    numeric: Mapping[str, float]
    captions: tuple[str, ...]
    caption_tags: tuple[tuple[str, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, without unknown numbers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Entry":
        """The inverse of `to_json`."""
        multilabel = {column: tuple(tags) for column, tags in tree["multilabel"].items()}
        ragged = {name: tuple(tree[name]) for name in ("crc", "captions")}
        shown = tuple(tuple(tags) for tags in tree.get("caption_tags", ()))
        return cls(**{**tree, **ragged, "multilabel": multilabel, "caption_tags": shown})


def scan_shard(path: Path) -> list[Entry]:
    """Read a shard from its first byte to its last. The ShardError names shard, key and byte of the first problem."""
    fd = os.open(path, os.O_RDONLY)
    try:
        entries: list[Entry] = []
        first_byte: dict[str, int] = {}
        for key, members in groupby(iter_members(fd, path.name), key=lambda member: member.key):
            entry = _scan_clip(fd, path.name, key, list(members))
            if key in first_byte:
                what = f"duplicate key in this shard, first at byte {first_byte[key]:,}"
                raise ShardError(Problem(path.name, key, entry.offset, what))
            first_byte[key] = entry.offset
            entries.append(entry)
        return entries
    finally:
        os.close(fd)


def block_checksums(fd: int, offset: int, size: int) -> Iterator[int]:
    """CRC32 of each block of a member."""
    for start in range(0, size, CRC_BLOCK_BYTES):
        yield zlib.crc32(os.pread(fd, min(CRC_BLOCK_BYTES, size - start), offset + start))


def _scan_clip(fd: int, shard: str, key: str, members: list[Member]) -> Entry:
    by_extension = {member.extension: member for member in members}
    first = members[0]
    if len(by_extension) < len(members):
        raise ShardError(Problem(shard, key, first.header, "duplicate member or duplicate key"))
    unknown = sorted(set(by_extension) - {*EXTENSIONS, "json"})
    audio = [by_extension[extension] for extension in EXTENSIONS if extension in by_extension]
    if unknown or len(audio) != 1 or "json" not in by_extension:
        found = ", ".join(f".{extension}" for extension in by_extension)
        what = f"a clip is one .wav or .flac and one .json; here are {found}"
        raise ShardError(Problem(shard, key, first.header, what))
    (sound,), label = audio, by_extension["json"]
    head_bytes = min(sound.size, WAV_HEAD_BYTES if sound.extension == "wav" else sound.size)
    try:
        form = read_form(sound.extension, os.pread(fd, head_bytes, sound.offset), sound.size)
    except ValueError as error:
        raise ShardError(Problem(shard, key, sound.offset, f".{sound.extension}: {error}")) from None
    if label.size > MAX_LABEL_BYTES:
        raise ShardError(
            Problem(shard, key, label.header, f".json of {label.size:,} bytes; at most {MAX_LABEL_BYTES:,}")
        )
    text = os.pread(fd, label.size, label.offset)
    try:
        labels = parse_labels(key, text)
    except ValueError as error:
        raise ShardError(Problem(shard, key, label.offset, f".json: {error}")) from None
    return Entry(
        key=key,
        shard=shard,
        offset=sound.offset,
        size=sound.size,
        frames=form.frames,
        rate=form.rate,
        codec=EXTENSIONS[sound.extension],
        pcm_offset=form.pcm_offset,
        crc=tuple(block_checksums(fd, sound.offset, sound.size)),
        label_offset=label.offset,
        label_size=label.size,
        label_crc=zlib.crc32(text),
        **labels,
    )


def parse_labels(key: str, text: bytes) -> dict[str, Any]:
    """A sample's JSON as keyword arguments of `Entry`, all text tidy; unknown fields are ignored.
    Raises ValueError if it is not an object, or a field of ours has the wrong type.

    >>> parse_labels("a", b'{"multilabel": {"tags": ["calm"]}}')["multilabel"]
    {'tags': ('calm',)}
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"a {type(tree).__name__}, not an object")
    split = tree.get("split", "train")
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; known are {', '.join(SPLITS)}")
    return {
        "track": _text(tree, "track") or key,
        "artist": _text(tree, "artist"),
        "split": split,
        "licence": _text(tree, "licence"),
        "multilabel": {column: _tags(column, tags) for column, tags in _columns(tree, "multilabel")},
        "categorical": {column: _class(column, value) for column, value in _columns(tree, "categorical")},
        "numeric": {column: _number(column, value) for column, value in _columns(tree, "numeric") if value is not None},
        "captions": (captions := _captions(tree.get("captions", []))),
        "caption_tags": _caption_tags(tree.get("caption_tags", []), len(captions)),
    }


def _columns(tree: Mapping[str, Any], kind: str) -> list[tuple[str, Any]]:
    columns = tree.get(kind, {})
    if not isinstance(columns, dict):
        raise ValueError(f"{kind} is a {type(columns).__name__}, not an object of columns")
    return sorted((tidy(column), value) for column, value in columns.items())


def _text(tree: Mapping[str, Any], field: str) -> str | None:
    value = tree.get(field)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{field} is {value!r}, not text")
    return (tidy(value) or None) if value else None


def _tags(column: str, tags: Any) -> tuple[str, ...]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tidy(tag) for tag in tags):
        raise ValueError(f"{column} is {tags!r}, not a list of tags")
    return tuple(sorted(set(map(tidy, tags))))


def _captions(texts: Any) -> tuple[str, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"captions is {texts!r}, not a list of texts")
    return tuple(map(tidy, texts))


def _caption_tags(tags: Any, num_captions: int) -> tuple[tuple[str, ...], ...]:
    if not isinstance(tags, list) or len(tags) not in (0, num_captions):
        raise ValueError(f"caption_tags is {tags!r}, not one list of tags for each of {num_captions} captions")
    return tuple(_tags("caption_tags", one) for one in tags)


def _class(column: str, value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and tidy(value)):
        raise ValueError(f"{column} is {value!r}, not text")
    return value if value is None else tidy(value)


def _number(column: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{column} is {value!r}, not a number")
    return float(value)
