"""Summary of a build: counts, rejected clips, and duplicates that inflate scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_shards.build.checks import RECORD_NAME
from data_shards.build.writer import Rejected
from data_shards.format.index import read_index
from data_shards.format.records import Clip
from data_shards.inspect.duplicates import find_same_audio
from data_shards.inspect.show import label_counts, labels_alike, leaking_tracks


@dataclass(frozen=True, kw_only=True)
class SameClip:
    """A clip that holds the same audio as another."""

    key: str
    name: str
    """The path of the file, for messages."""
    track: str
    split: str


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """Counts and warnings of a finished build."""

    out: Path
    clips: int
    hours: float
    shards: int
    resumed_shards: int
    splits: Mapping[str, int]
    labels: Mapping[str, Mapping[str, int]]
    """Clips per tag or class, by column, most frequent first."""
    rejected: tuple[Rejected, ...]
    silent: tuple[str, ...]
    """Keys of clips that hold zeros only; they are in the set."""
    leaking_tracks: tuple[str, ...]
    """Tracks with clips in more than one split: they inflate scores."""
    same_audio: tuple[tuple[SameClip, ...], ...]
    """Groups of clips with the same samples in more than one split: they inflate scores."""
    same_audio_in_one_split: int
    """Groups of clips with the same samples that lie in one split."""
    labels_alike: Mapping[str, Sequence[tuple[str, ...]]]
    """By column, labels that look the same and are different, such as "Rock" and "rock"."""
    seconds: float
    manifest_hash: str


def summarise_build(out: Path, clips: Sequence[Clip], *, resumed_shards: int, seconds: float) -> BuildSummary:
    """Summarise the finished set in `out`."""
    index = read_index(out)
    record = json.loads((out / RECORD_NAME).read_text(encoding="utf-8"))
    same = find_same_audio(index)
    keys = {index.key[row] for group in same.across for row in group}
    names = {clip.key: clip.audio.name for clip in clips if clip.key in keys} if keys else {}

    def same_clip(row: int) -> SameClip:
        key = index.key[row]
        return SameClip(key=key, name=names[key], track=index.track[row], split=index.split[row])

    return BuildSummary(
        out=out,
        clips=len(index),
        hours=int(index.frames.sum()) / index.manifest["rate"] / 3600,
        shards=len(index.shards),
        resumed_shards=resumed_shards,
        splits=index.manifest["splits"],
        labels=label_counts(index),
        rejected=tuple(Rejected(*one) for one in record["rejected"]),
        silent=tuple(index.manifest["silent"]),
        leaking_tracks=tuple(leaking_tracks(index)),
        same_audio=tuple(tuple(map(same_clip, group)) for group in same.across),
        same_audio_in_one_split=len(same.within),
        labels_alike=labels_alike(index),
        seconds=seconds,
        manifest_hash=index.manifest_hash,
    )
