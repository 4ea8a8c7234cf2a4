"""What a person wants to know about a set of shards."""

from textwrap import shorten
from typing import Any

import numpy as np

from data_shards.format.index import ShardIndex

MAX_QUOTE = 80
"""Characters of a caption that is quoted."""


def label_counts(index: ShardIndex) -> dict[str, dict[str, int]]:
    """Clips per tag or class, by column, most frequent first; a numeric column counts its known values."""
    counts: dict[str, dict[str, int]] = {}
    for column, names in index.vocabularies.items():
        counts[column] = _ranked(names, index.labels(column).sum(axis=0))
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
        manifest_hash.
    """
    seconds = index.frames / index.manifest["rate"]
    licences = [str(licence) for licence in index.licence if licence is not None]
    return {
        "clips": len(index),
        "hours": float(seconds.sum() / 3600),
        "rate_hz": index.manifest["rate"],
        "splits": index.manifest["splits"],
        "tracks": len(set(index.track)),
        "artists": len({artist for artist in index.artist if artist is not None}),
        "codecs": sorted(set(index.codec)),
        "shards": len(index.shards),
        "bytes": sum(shard.size for shard in index.shards),
        "seconds": {
            "shortest": float(seconds.min()),
            "median": float(np.median(seconds)),
            "longest": float(seconds.max()),
        },
        "licences": {licence: licences.count(licence) for licence in sorted(set(licences))},
        "labelled": {column: int(index.labels(column).any(axis=1).sum()) for column in index.vocabularies},
        "labels": label_counts(index),
        "captions": {"texts": sum(map(len, index.captions)), "clips": sum(map(bool, index.captions))},
        "notes": index.manifest.get("notes", []),
        "rejected": index.manifest.get("rejected", {}),
        "silent": index.manifest.get("silent", []),
        "manifest_hash": index.manifest_hash,
    }


def describe(index: ShardIndex, *, top: int = 10) -> str:
    """`summarise` as lines of text, with the `top` most frequent labels of each column."""
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
    lines.append(f"manifest  {facts['manifest_hash']}")
    return "\n".join(lines)


def _ranked(names: tuple[str, ...], counts: Any) -> dict[str, int]:
    pairs = zip(names, counts.tolist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
