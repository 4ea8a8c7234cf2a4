"""Refusals of texts before a run starts: sets that lack captions or tags, views that do not exist, nothing to swap."""

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.text.clip_words import ClipWords, evenly
from data_shards.text.text_views import TextViews

SAMPLED_CLIPS = 500
"""Clips, evenly spaced, of which captions are counted and texts are drawn."""
LEAST_SWAPPABLE = 0.01
"""Share of the texts with something to swap below which swaps are refused."""
NAMED = 3
"""Clips or texts that a message names."""


def check_texts(views: TextViews) -> None:
    """Refuse what the sets of a run cannot give: p_cap > 0 and no captions, a clip without any text, fewer partial
    captions than ``partial.each``, or nothing to swap.
    """
    for stream, (words, rows) in enumerate(zip(views.sets, views.rows, strict=True)):
        if words is None or rows is None:
            continue
        _check_captions(views, words, rows)
        _check_every_clip(views, stream, words, rows)
        _check_views(views, stream, words, rows)
    if views.config.swap.each:
        _check_swaps(views)


def _check_captions(views: TextViews, words: ClipWords, rows: NDArray[np.int64]) -> None:
    config = views.config
    if not config.p_cap or config.captions != "stored" or any(len(words.index.captions[row]) for row in rows.tolist()):
        return
    raise UserError(
        f"text.p_cap={config.p_cap:g} draws captions and no training clip of the set has one; write them from the tags "
        "by text.captions=templates, add your own (counterpoint shards build folder --captions FILE.jsonl), or set "
        "text.p_cap=0"
    )


def _check_every_clip(views: TextViews, stream: int, words: ClipWords, rows: NDArray[np.int64]) -> None:
    without = rows[~words.has_tags()[rows]]
    mute = [row for row in without.tolist() if not views.captions(stream, row)]
    if mute:
        named = ", ".join(str(words.index.key[row]) for row in mute[:NAMED])
        raise UserError(
            f"{len(mute):,} of {len(rows):,} training clips have no tags and no captions that text.views="
            f"{views.config.views} admits ({named}{', …' if len(mute) > NAMED else ''}); leave them out of the set, or "
            "set text.views=mixed, or data.b_s=1 to draw labelled clips alone"
        )


def _check_views(views: TextViews, stream: int, words: ClipWords, rows: NDArray[np.int64]) -> None:
    config = views.config
    if config.captions != "stored" or config.views != "partial" or not config.p_cap:
        return
    captioned = [row for row in evenly(rows, SAMPLED_CLIPS).tolist() if len(words.index.captions[row])]
    fewest = min(captioned, key=lambda row: len(views.captions(stream, row)), default=None)
    if fewest is None or (count := len(views.captions(stream, fewest))) >= config.partial.each:
        return
    lower = f"text.partial.each={count}, " if count else ""
    raise UserError(
        f"text.views=partial draws one of text.partial.each={config.partial.each} captions that show some of a clip's "
        f"tags, and {words.index.key[fewest]} has {count}; set {lower}text.captions=templates, or text.views=full"
    )


def _check_swaps(views: TextViews) -> None:
    texts, swappable = [], 0
    for stream, rows in enumerate(views.rows):
        for slot, row in enumerate(evenly(rows, SAMPLED_CLIPS).tolist() if rows is not None else ()):
            text = views.read(0, slot, stream, row).text
            texts.append(text.text)
            swappable += views.can_swap(stream, row, text)
    if swappable >= LEAST_SWAPPABLE * len(texts):
        return
    named = "; ".join(repr(text[:60]) for text in texts[:NAMED])
    raise UserError(
        f"text.swap.each={views.config.swap.each} swaps attributes, and of {len(texts):,} texts {swappable} have one "
        f"that text.swap.dictionary={views.config.swap.dictionary} can swap, for example {named}; give a dictionary of "
        "your words, or set text.swap.each=0"
    )
