"""Summary of a set of shards: counts, labels, licences and warnings."""

from collections.abc import Mapping
from textwrap import shorten
from typing import Any

import numpy as np

from data_shards.format.index import ShardIndex
from data_shards.format.text import alike
from data_shards.inspect.duplicates import find_same_audio

MAX_QUOTE = 80
"""Characters of a caption that is quoted."""
MAX_GROUPS = 10
"""As many groups of clips, tracks or labels are named in text; all of them in JSON."""


def label_counts(index: ShardIndex) -> dict[str, dict[str, int]]:
    """Clips per tag or class, by column, most frequent first; a numeric column counts its known values."""
    counts: dict[str, dict[str, int]] = {}
    for column, names in index.vocabularies.items():
        flat, _ = index.targets[f"multilabel.{column}"]
        counts[column] = _ranked(names, np.bincount(flat, minlength=len(names)))
    for column, names in index.classes.items():
        codes = index.target(column)
        counts[column] = _ranked(names, np.bincount(codes[codes >= 0].astype(np.int64), minlength=len(names)))
    for column in index.numeric:
        counts[column] = {"known": int(np.isfinite(index.target(column)).sum())}
    return counts


def summarise(index: ShardIndex) -> dict[str, Any]:
    """A set in a few numbers, as JSON types.

    Returns:
        clips, hours, rate_hz, splits, tracks, artists, codecs, shards, bytes, seconds (shortest, median, longest),
        licences, labels, labelled (clips with at least one tag, by column), captions, notes, rejected, silent,
        same_audio (groups of clips with the same samples in more than one split), same_audio_in_one_split (their
        number), leaking_tracks (with clips in more than one split), labels_alike (by column, labels that look the
        same), manifest_hash.
    """
    same = find_same_audio(index)
    seconds = index.frames / index.manifest["rate"]
    licences = {name: count for name, count in index.licence.counts().items() if name is not None}
    ends = index.captions.ends()
    return {
        "clips": len(index),
        "hours": float(seconds.sum() / 3600),
        "rate_hz": index.manifest["rate"],
        "splits": index.manifest["splits"],
        "tracks": len(index.track.counts()),
        "artists": len(index.artist.counts().keys() - {None}),
        "codecs": list(index.codec.counts()),
        "shards": len(index.shards),
        "bytes": sum(shard.size for shard in index.shards),
        "seconds": {
            "shortest": float(seconds.min()),
            "median": float(np.median(seconds)),
            "longest": float(seconds.max()),
        },
        "licences": licences,
        "labelled": {column: int(index.is_labelled(column).sum()) for column in index.vocabularies},
        "labels": label_counts(index),
        "captions": {"texts": index.captions.num_texts, "clips": int((ends[1:] > ends[:-1]).sum())},
        "notes": index.manifest.get("notes", []),
        "rejected": index.manifest.get("rejected", {}),
        "silent": index.manifest.get("silent", []),
        "same_audio": [[_place(index, row) for row in group] for group in same.across],
        "same_audio_in_one_split": len(same.within),
        "leaking_tracks": leaking_tracks(index),
        "labels_alike": labels_alike(index),
        "manifest_hash": index.manifest_hash,
    }


def leaking_tracks(index: ShardIndex) -> list[str]:
    """Tracks with clips in more than one split: scores on such splits flatter."""
    track_K, split_K = index.track.codes(), index.split.codes()
    first = np.zeros(track_K.max() + 1, np.int32)
    first[track_K[::-1]] = split_K[::-1]
    rows = np.flatnonzero(split_K != first[track_K])
    _, one_of_each = np.unique(track_K[rows], return_index=True)
    return sorted(index.track[rows[one_of_each]].tolist())


def labels_alike(index: ShardIndex) -> dict[str, list[tuple[str, ...]]]:
    """Tags, classes and artists that look the same and are not, by column: probably one label in two spellings."""
    names = {**index.vocabularies, **index.classes, "artist": [one for one in index.artist.counts() if one is not None]}
    groups = {column: alike(values) for column, values in names.items()}
    return {column: found for column, found in groups.items() if found}


def describe(index: ShardIndex, *, top: int = 10, names: Mapping[str, str] | None = None) -> str:
    """`summarise` as lines of text: the ``top`` most frequent labels of each column are named, clips by their key or as
    ``names`` has them.
    """
    facts = summarise(index)
    shards = f"{facts['shards']:,} shard{'' if facts['shards'] == 1 else 's'}"
    size = f"{facts['hours']:.2f} h, {facts['bytes'] / 1e6:,.1f} MB"
    lengths = ", ".join(f"{which} {seconds:.2f} s" for which, seconds in facts["seconds"].items())
    lines = [
        f"clips     {facts['clips']:,} in {shards}, {size}",
        f"audio     {facts['rate_hz']:,} Hz mono {', '.join(facts['codecs'])}; {lengths}",
        f"splits    {', '.join(f'{split} {count:,}' for split, count in facts['splits'].items())}",
        f"groups    {facts['tracks']:,} tracks, {facts['artists']:,} named artists",
    ]
    for column, counts in facts["labels"].items():
        first = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:top])
        more = f", and {len(counts) - top:,} more" if len(counts) > top else ""
        lines.append(f"{column:9} {first}{more}")
    if facts["captions"]["texts"]:
        first = shorten(next(texts[0] for texts in index.captions if texts), MAX_QUOTE, placeholder=" …")
        num_texts, num_clips = facts["captions"].values()
        lines.append(f"captions  {num_texts:,}, of {num_clips:,} clips, e.g. “{first}”")
    lines += [f"licence   {licence}: {count:,}" for licence, count in facts["licences"].items()]
    lines += [f"note      {note}" for note in facts["notes"]]
    lines += [f"rejected  {key}: {why}" for key, why in facts["rejected"].items()]
    if facts["silent"]:
        lines.append(f"silent    {len(facts['silent'])} clips hold zeros only: {', '.join(facts['silent'][:top])}")
    lines += _warnings(facts, names or {})
    lines.append(f"manifest  {facts['manifest_hash']}")
    return "\n".join(lines)


def _ranked(names: tuple[str, ...], counts: Any) -> dict[str, int]:
    pairs = zip(names, counts.tolist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _place(index: ShardIndex, row: int) -> dict[str, str]:
    return {"key": index.key[row], "track": index.track[row], "split": index.split[row]}


def _warnings(facts: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """What flatters scores, and labels that are probably one."""
    groups = facts["same_audio"]
    lines = []
    for group in groups[:MAX_GROUPS]:
        clips = ", ".join(f"{names.get(clip['key'], clip['key'])} ({clip['split']})" for clip in group)
        lines.append(f"warning   the same audio in more than one split: {clips}")
    if len(groups) > MAX_GROUPS:
        lines.append(
            f"warning   the same audio in more than one split: {len(groups) - MAX_GROUPS:,} more groups of clips"
        )
    if groups:
        lines.append("          scores on such splits flatter; leave all but one clip of each group out of the table")
    if facts["same_audio_in_one_split"]:
        lines.append(f"note      the same audio in one split: {facts['same_audio_in_one_split']:,} groups of clips")
    tracks = facts["leaking_tracks"]
    if tracks:
        more = f", and {len(tracks) - MAX_GROUPS:,} more" if len(tracks) > MAX_GROUPS else ""
        lines.append(f"warning   tracks with clips in more than one split: {', '.join(tracks[:MAX_GROUPS])}{more}")
    for column, alike_groups in facts["labels_alike"].items():
        named = "; ".join(", ".join(map(repr, group)) for group in alike_groups[:MAX_GROUPS])
        more = f"; and {len(alike_groups) - MAX_GROUPS:,} more" if len(alike_groups) > MAX_GROUPS else ""
        lines.append(f"hint      {column}: these look the same and are different labels: {named}{more}")
    return lines
