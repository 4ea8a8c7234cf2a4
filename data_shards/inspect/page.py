"""A set of shards as one HTML file to look at and listen to, without scripts or external files.

Every word that comes from a set (tags, names, captions) is escaped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.files.storage import write_atomic
from cluster.files.templates import render
from data_shards.format.index import ShardIndex
from data_shards.format.problems import ClipError
from data_shards.inspect.data_uris import mp3_uri, spectrogram_uri
from data_shards.inspect.show import summarise
from data_shards.read.reader import ShardSet

PREVIEW_S = 8.0
MAX_PREVIEWS = 24
"""Clips on a page; with its sound and picture each takes about 150 kB."""
MAX_BARS = 40
"""Tags of a column; the others are counted."""
BINS = 24
"""Bars of a numeric column."""
MAX_LISTED = 20
"""Licences, rejected and silent clips that are listed."""
ASSETS = Path(__file__).parent / "assets"


def write_page(shards: ShardSet, file: Path, *, previews: int = 9) -> None:
    """Write the page of a set. Raises ValueError if previews is out of range, RunError if a shard cannot be read."""
    if not 0 <= previews <= MAX_PREVIEWS:
        raise ValueError(f"previews must be 0 to {MAX_PREVIEWS}, got {previews}")
    index = shards.index
    facts = summarise(index)
    page = render(
        ASSETS / "set.html",
        title=Path(shards.uri).name or shards.uri,
        lead=f"{facts['clips']:,} clips, {facts['hours']:,.2f} hours",
        facts=_facts(facts),
        bars=[_bars(column, facts) for column in facts["labels"] if column not in index.numeric],
        histograms=[_histogram(column, index) for column in index.numeric],
        clips=[_clip(shards, row) for row in np.argsort(index.id_hash)[:previews].tolist()],
        preview_s=f"{PREVIEW_S:g}",
    )
    write_atomic(file, page)


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    lengths = facts["seconds"]
    return [
        ("audio", f"{facts['rate_hz']:,} Hz mono, {', '.join(facts['codecs'])}"),
        ("lengths", ", ".join(f"{which} {lengths[which]:.2f} s" for which in ("shortest", "median", "longest"))),
        ("splits", ", ".join(f"{split} {count:,}" for split, count in facts["splits"].items())),
        ("groups", f"{facts['tracks']:,} tracks, {facts['artists']:,} named artists"),
        ("captions", "{texts:,}, of {clips:,} clips".format(**facts["captions"]) if facts["captions"]["texts"] else ""),
        ("licences", _listed([f"{licence}: {count:,}" for licence, count in facts["licences"].items()])),
        ("notes", "\n".join(facts["notes"])),
        ("rejected", _listed([f"{key}: {why}" for key, why in facts["rejected"].items()])),
        ("silent", _listed(facts["silent"])),
        ("size", f"{facts['bytes'] / 1e6:,.1f} MB, shards: {facts['shards']:,}"),
        ("manifest", facts["manifest_hash"]),
    ]


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_LISTED
    return "\n".join(names[:MAX_LISTED] + ([f"and {more:,} more"] if more > 0 else []))


def _bars(column: str, facts: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, str, str]]]:
    """A column, a line about it, and its tags or classes: name, count, width in percent."""
    counts = facts["labels"][column]
    most = max([1, *counts.values()])
    bars = [(name, f"{count:,}", f"{75 * count / most:.1f}") for name, count in counts.items()]
    kind = "tags" if column in facts["labelled"] else "classes"
    known = facts["labelled"].get(column, sum(counts.values()))  # a clip has one class and any number of tags
    about = f"{len(counts):,} {kind}, {known:,} clips with any"
    about += f"; the {MAX_BARS} most frequent" if len(counts) > MAX_BARS else ""
    return column, about, bars[:MAX_BARS]


def _histogram(column: str, index: ShardIndex) -> tuple[str, str, list[tuple[int, str]], tuple[str, ...]]:
    """A column, a line about it, its bins (count, height in percent), and its least and greatest value."""
    values = index.target(column).astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return column, "not known of any clip", [], ()
    counts, edges = np.histogram(values, bins=BINS)
    bins = [(count, f"{100 * count / counts.max():.1f}") for count in counts.tolist()]
    about = f"known of {len(values):,} clips, median {np.median(values):g}"
    return column, about, bins, (f"{edges[0]:g}", f"{edges[-1]:g}")


def _clip(shards: ShardSet, row: int) -> dict[str, Any]:
    index, rate = shards.index, shards.rate
    frames = int(index.frames[row])
    lines = label_lines(index, row) + [f"“{text}”" for text in index.captions[row]]
    about = f"{index.split[row]}, {frames / rate:.2f} s, track {index.track[row]}"
    clip = {"key": index.key[row], "rate": rate, "about": about, "labels": lines}
    try:
        wave_T = shards.read_window(row, 0, min(frames, round(PREVIEW_S * rate)))
    except ClipError as error:
        return {**clip, "problem": str(error)}
    return {**clip, "picture": spectrogram_uri(wave_T, rate), "sound": mp3_uri(wave_T, rate)}


def label_lines(index: ShardIndex, row: int) -> list[str]:
    """The labels of a clip as text, a column each."""
    labels = {name.partition(".")[2]: value for name, value in index.labels_of(row).items()}
    return [f"{name}: {', '.join(one) if isinstance(one, tuple) else one}" for name, one in labels.items()]
