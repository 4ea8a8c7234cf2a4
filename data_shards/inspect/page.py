"""A set of shards as one HTML file to look at and listen to, without scripts or external files.

Every word that comes from a set (tags, names, captions) is escaped.
"""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from cluster.files.storage import write_atomic
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
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --soft: #5d6473; --line: #e1e4ea; --paper: #fff; --card: #f6f7f9;
  --bar: #5b7fd6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ee; --soft: #a2a9b8; --line: #333949; --paper: #14171e;
  --card: #1c2029; --bar: #7d9df0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem; }
h2 small, p.lead { color: var(--soft); font-weight: 400; margin: 0; }
dl { display: grid; grid-template-columns: 7rem 1fr; gap: .3rem 1rem; margin: 1.5rem 0 0; }
dt { color: var(--soft); }
dd { margin: 0; }
.bars { display: grid; grid-template-columns: minmax(6rem, 14rem) 1fr; gap: .2rem .8rem; font-size: .9rem; }
.bars span { display: flex; align-items: center; gap: .5rem; font-variant-numeric: tabular-nums; color: var(--soft); }
.bars i, .bins i { background: var(--bar); border-radius: .15rem; }
.bars i { height: .75rem; min-width: 2px; }
.bins { display: flex; align-items: flex-end; gap: 2px; height: 6rem; border-bottom: 1px solid var(--line); }
.bins i { flex: 1; }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: .85rem; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; }
article { background: var(--card); border-radius: .6rem; padding: .9rem; font-size: .88rem; }
article img { width: 100%; height: 8rem; display: block; border-radius: .3rem; image-rendering: auto; }
article audio { width: 100%; margin: .5rem 0; display: block; }
article p { margin: .2rem 0; }
article p.lead { font-size: .82rem; }
"""


def write_page(shards: ShardSet, file: Path, *, previews: int = 9) -> None:
    """Write the page of a set. Raises ValueError if previews is out of range, RunError if a shard cannot be read."""
    if not 0 <= previews <= MAX_PREVIEWS:
        raise ValueError(f"previews must be 0 to {MAX_PREVIEWS}, got {previews}")
    name = escape(Path(shards.uri).name or shards.uri)
    index = shards.index
    facts = summarise(index)
    rows = np.argsort(index.id_hash)[:previews].tolist()
    parts = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f'<meta name="viewport" content="width=device-width"><title>{name}</title><style>{STYLE}</style>',
        f'<h1>{name}</h1><p class="lead">{facts["clips"]:,} clips, {facts["hours"]:,.2f} hours</p>',
        _facts(facts),
        *(_bars(column, counts, facts) for column, counts in facts["labels"].items() if column not in index.numeric),
        *(_histogram(column, index) for column in index.numeric),
        f"<h2>{len(rows)} clips <small>chosen by a hash; the first {PREVIEW_S:g} s</small></h2>" if rows else "",
        '<section class="clips">',
        *(_clip(shards, row) for row in rows),
        "</section></html>",
    ]
    write_atomic(file, "\n".join(parts))


def _facts(facts: Mapping[str, Any]) -> str:
    lengths = facts["seconds"]
    pairs = [
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
    lines = (f"<dt>{term}</dt><dd>{escape(text).replace(chr(10), '<br>')}</dd>" for term, text in pairs if text)
    return f"<dl>{''.join(lines)}</dl>"


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_LISTED
    return "\n".join(names[:MAX_LISTED] + ([f"and {more:,} more"] if more > 0 else []))


def _bars(column: str, counts: Mapping[str, int], facts: Mapping[str, Any]) -> str:
    most = max([1, *counts.values()])
    shown = list(counts.items())[:MAX_BARS]
    bars = "".join(
        f'<b>{escape(name)}</b><span><i style="width:{75 * count / most:.1f}%"></i>{count:,}</span>'
        for name, count in shown
    )
    kind = "tags" if column in facts["labelled"] else "classes"
    known = facts["labelled"].get(column, sum(counts.values()))  # a clip has one class and any number of tags
    about = f"{len(counts):,} {kind}, {known:,} clips with any"
    about += f"; the {MAX_BARS} most frequent" if len(counts) > MAX_BARS else ""
    return f'<h2>{escape(column)} <small>{about}</small></h2><div class="bars">{bars}</div>'


def _histogram(column: str, index: ShardIndex) -> str:
    values = index.target(column).astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return f"<h2>{escape(column)} <small>not known of any clip</small></h2>"
    counts, edges = np.histogram(values, bins=BINS)
    bars = "".join(f'<i style="height:{100 * count / counts.max():.1f}%" title="{count}"></i>' for count in counts)
    about = f"known of {len(values):,} clips, median {np.median(values):g}"
    ends = f"<span>{edges[0]:g}</span><span>{edges[-1]:g}</span>"
    return (
        f'<h2>{escape(column)} <small>{about}</small></h2><div class="bins">{bars}</div><div class="ends">{ends}</div>'
    )


def _clip(shards: ShardSet, row: int) -> str:
    index, rate = shards.index, shards.rate
    key, frames = str(index.key[row]), int(index.frames[row])
    about = f"{index.split[row]}, {frames / rate:.2f} s, track {index.track[row]}"
    head = f'<article><p><b>{escape(key)}</b></p><p class="lead">{escape(about)}</p>'
    labels = "".join(f"<p>{escape(line)}</p>" for line in _label_lines(index, row))
    try:
        wave_T = shards.read_window(row, 0, min(frames, round(PREVIEW_S * rate)))
    except ClipError as error:
        return f"{head}<p>cannot be read: {escape(str(error))}</p>{labels}</article>"
    picture = f'<img src="{spectrogram_uri(wave_T, rate)}" alt="spectrogram of {escape(key)}, 40 Hz to {rate // 2} Hz">'
    return f'{head}{picture}<audio controls preload="none" src="{mp3_uri(wave_T, rate)}"></audio>{labels}</article>'


def _label_lines(index: ShardIndex, row: int) -> Iterator[str]:
    for name, value in index.labels_of(row).items():
        column = name.partition(".")[2]
        yield f"{column}: {', '.join(value) if isinstance(value, tuple) else value}"
    yield from (f"“{text}”" for text in index.captions[row])
