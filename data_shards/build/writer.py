"""One shard from its clips: decode, resample, validate, write with the webdataset library, read back.

`build_shard` is a pure function of its job but for the files it leaves, so it runs in a process pool, under Ray, or
in line.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import data_shards.audio
from cluster.files.storage import atomic_file, write_atomic
from cluster.imports import import_alone
from cluster.settings import Config, RunError
from data_shards.audio.decode import AudioError, FileAudio, read_mono
from data_shards.format.entries import Entry, scan_shard
from data_shards.format.pcm import Codec, encode
from data_shards.format.records import SAMPLE_RATE, Clip
from data_shards.format.shard_file import ShardFile, describe_shard
from data_shards.format.text import as_text


@dataclass(frozen=True, kw_only=True)
class BuildConfig(Config):
    """How clips become shards."""

    rate: int = SAMPLE_RATE
    """Sample rate of the shards, Hz."""
    codec: Codec = "pcm16"
    """pcm16: a window is one read without decoding; flac: about half the space, about ten times the work."""
    clips_per_shard: int = 256
    """Clips a tar; also the grain of parallel work and of resuming."""
    shortest_s: float = 0.1
    """Clips shorter than this are rejected, seconds."""
    max_rejected: float = 0.01
    """Share of the clips that may be rejected before the build fails, in [0, 1]."""
    workers: int = 0
    """Processes that decode; 0 takes one a core."""

    def __post_init__(self) -> None:
        if not 4_000 <= self.rate <= 192_000:
            raise ValueError(f"rate must be 4000 to 192000 Hz, got {self.rate}")
        self.require("> 0", "clips_per_shard")
        self.require("in [0, inf)", "shortest_s")
        self.require("in [0, 1]", "max_rejected")
        self.require(">= 0", "workers")

    def content(self) -> dict[str, Any]:
        """The fields that determine the bytes of a shard."""
        return {name: getattr(self, name) for name in ("rate", "codec", "clips_per_shard", "shortest_s")}


class Rejected(NamedTuple):
    """A clip that was left out, and why."""

    key: str
    name: str
    """The path of the file, for messages."""
    why: str


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """The work of one shard. Picklable."""

    number: int
    clips: Sequence[Clip]
    folder: str
    config: BuildConfig

    @property
    def name(self) -> str:
        """File name of the shard."""
        return f"shard-{self.number:05d}.tar"


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """The shard of a job, its entries and its rejected clips."""

    number: int
    shard: ShardFile | None
    """None where every clip was rejected."""
    entries: tuple[Entry, ...]
    rejected: tuple[Rejected, ...]
    silent: tuple[str, ...]
    """Keys of clips in which every sample is zero."""
    resumed: bool


def build_shard(job: BuildJob) -> ShardResult:
    """Write one shard and its record, or keep those that an earlier run finished for the same job.
    Raises RunError if the disk is full, or the written shard does not read back.
    """
    path = Path(job.folder) / job.name
    record, recipe = path.with_suffix(".tar.json"), recipe_of(job)
    kept = _finished(path, record, recipe, job.number)
    if kept:
        return kept
    with atomic_file(path) as part:
        keys, rejected, silent = _write_tar(part, job)
    if not keys:
        path.unlink()
        return ShardResult(number=job.number, shard=None, entries=(), rejected=rejected, silent=(), resumed=False)
    entries = tuple(scan_shard(path))
    if [entry.key for entry in entries] != keys:
        raise RunError(f"{path}: the written shard does not read back; is the disk full or failing?")
    result = ShardResult(
        number=job.number,
        shard=describe_shard(path, len(entries)),
        entries=entries,
        rejected=rejected,
        silent=silent,
        resumed=False,
    )
    write_atomic(record, json.dumps({"recipe": recipe, "program": program(), "result": _to_json(result)}))
    return result


def recipe_of(job: BuildJob) -> str:
    """SHA-256 of what determines a shard's bytes, as far as it is known without decoding."""
    digest = hashlib.sha256(json.dumps([1, job.number, job.config.content()]).encode())
    for clip in job.clips:
        described = clip
        if isinstance(clip.audio, FileAudio):
            # The folder's own path is left out: a build is resumed after a move and on other machines.
            described = dataclasses.replace(clip, audio=FileAudio("", clip.audio.path))
            with suppress(OSError, ValueError):  # a file without status is rejected when it is read
                status = os.stat(clip.audio.name)  # noqa: PTH116 half the time of Path
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
        digest.update(repr(described).encode("utf-8", "surrogateescape"))
        if clip.caption_tags:  # no part of the repr, so that sets built without them keep their recipe
            digest.update(repr(clip.caption_tags).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@lru_cache
def program() -> str:
    """SHA-256 of what decides whether a clip is rejected: the modules that decode, and their libraries' versions."""
    modules = (Path(__file__), *sorted(Path(data_shards.audio.__file__).parent.glob("*.py")))
    digest = hashlib.sha256(b"".join(module.read_bytes() for module in modules))
    for library in ("soundfile", "soxr", "av"):
        with suppress(PackageNotFoundError):  # av is an extra
            digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()


def _write_tar(part: Path, job: BuildJob) -> tuple[list[str], tuple[Rejected, ...], tuple[str, ...]]:
    writer = import_alone("webdataset.writer")  # the package imports torch, seconds of each process that builds

    keys: list[str] = []
    rejected: list[Rejected] = []
    silent: list[str] = []
    # A fixed mtime: the same clips give the same bytes, and no extended headers.
    with part.open("wb") as file, writer.TarWriter(file, encoder=False, compress=False, mtime=0) as tar:
        for clip in job.clips:
            try:
                wave_T = _load(clip, job.config)
            except AudioError as error:
                rejected.append(Rejected(clip.key, as_text(clip.audio.name), str(error)))
                continue
            extension, payload = encode(wave_T, job.config.rate, job.config.codec)
            tar.write({"__key__": clip.key, extension: payload, "json": _labels(clip)})
            keys.append(clip.key)
            if not wave_T.any():
                silent.append(clip.key)
    return keys, tuple(rejected), tuple(silent)


def _load(clip: Clip, config: BuildConfig) -> NDArray[np.int16]:
    wave_T = read_mono(clip.audio, config.rate)
    if len(wave_T) < config.shortest_s * config.rate:
        seconds = len(wave_T) / config.rate
        raise AudioError(f"{seconds:.3g} s long, shorter than build.shortest_s = {config.shortest_s:g} s")
    return wave_T


def _labels(clip: Clip) -> bytes:
    tree: dict[str, Any] = {
        "track": clip.track,
        "artist": clip.artist,
        "split": clip.split,
        "licence": clip.licence,
        "multilabel": {column: list(tags) for column, tags in clip.multilabel.items()},
        "categorical": dict(clip.categorical),
        "numeric": {column: None if math.isnan(value) else value for column, value in clip.numeric.items()},
    }
    if clip.captions:  # most sets have none, and keep the bytes they had before there were captions
        tree["captions"] = list(clip.captions)
    if any(clip.caption_tags):
        tree["caption_tags"] = [list(tags) for tags in clip.caption_tags]
    return json.dumps(tree, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _to_json(result: ShardResult) -> dict[str, Any]:
    return {
        "shard": result.shard and result.shard.to_json(),
        "entries": [entry.to_json() for entry in result.entries],
        "rejected": [list(one) for one in result.rejected],
        "silent": list(result.silent),
    }


def read_entries(folder: Path, shard: ShardFile) -> tuple[Entry, ...]:
    """The entries of a shard that `build_shard` wrote, from the record beside it."""
    saved = json.loads((folder / f"{shard.name}.json").read_text(encoding="utf-8"))
    return tuple(Entry.from_json(entry) for entry in saved["result"]["entries"])


def _finished(path: Path, record: Path, recipe: str, number: int) -> ShardResult | None:
    if not (path.is_file() and record.is_file()):
        return None
    saved: Mapping[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    if saved["recipe"] != recipe:
        return None
    if saved["result"]["rejected"] and saved.get("program") != program():
        return None  # another program may read what that one rejected
    shard = ShardFile.from_json(saved["result"]["shard"])
    if describe_shard(path, shard.clips) != shard:
        return None  # damaged since: written again
    return ShardResult(
        number=number,
        shard=shard,
        entries=tuple(Entry.from_json(entry) for entry in saved["result"]["entries"]),
        rejected=tuple(Rejected(*one) for one in saved["result"]["rejected"]),
        silent=tuple(saved["result"]["silent"]),
        resumed=True,
    )
