"""Which text a place reads: by (seed, step, slot) alone, every view equally often, only what the clip has."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_shards.format.index import ShardIndex
from data_shards.format.records import TextRows
from data_shards.read.loader import BatchLoader
from data_shards.sampling.config import DataConfig
from data_shards.text.config import SwapConfig, TextViewsConfig
from data_shards.text.draws import Draws
from data_shards.text.lexicon import Lexicon, partial_tags
from data_shards.text.text_views import TextViews

SURE = SwapConfig(ramp=0.0)


def make_views(index: ShardIndex, *, seed: int = 0, steps: int = 10, **how: Any) -> TextViews:
    return TextViews(TextViewsConfig(**how), (index, None), (index.rows("train"), None), seed=seed, steps=steps)


def rows_of(shards: Path, *, rank: int = 0, world: int = 1, threads: int = 2, start: int = 0) -> list[TextRows]:
    data = DataConfig(labelled=str(shards), b_s=1.0, batch=12)
    text = TextViewsConfig(captions="both", views="mixed", swap=SwapConfig(each=2))
    with BatchLoader(
        data, frames=2_000, seed=3, rank=rank, world=world, num_threads=threads, text=text, steps=6
    ) as loader:
        return [batch.texts for batch in loader.batches(start, 6) if batch.texts]


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_read_the_texts_of_the_global_batch(captioned: Path, world: int) -> None:
    whole = rows_of(captioned)
    for rank in range(world):
        for part, batch in zip(rows_of(captioned, rank=rank, world=world), whole, strict=True):
            assert part.text == batch.text[rank::world]
            hard = [batch.hard[2 * slot + number] for slot in range(rank, 12, world) for number in range(2)]
            assert list(part.hard) == hard
            assert torch.equal(part.tags_BC, batch.tags_BC[rank::world])


@pytest.mark.usefixtures("untraced")
def test_threads_and_a_resume_change_no_text(captioned: Path) -> None:
    whole = rows_of(captioned)
    assert [rows.text for rows in rows_of(captioned, threads=1)] == [rows.text for rows in whole]
    assert [rows.hard for rows in rows_of(captioned, start=4)] == [rows.hard for rows in whole[4:]]
    assert len({rows.text for rows in whole}) == 6


def test_the_rows_agree_with_each_other(captioned: Path) -> None:
    for step, rows in enumerate(rows_of(captioned)):
        present = [text is not None for text in (*rows.text, *rows.hard)]
        assert rows.present_R.tolist() == present
        assert len(rows.hard) == 24
        assert rows.tags_text_RC.any(dim=1).tolist() == present
        own, hard = rows.tags_text_RC[:12], rows.tags_text_RC[12:]
        assert not (own & ~rows.tags_BC).any()
        wrong = (hard & ~rows.tags_BC.repeat_interleave(2, 0)).sum(1)
        assert wrong.tolist() == rows.present_R[12:].int().tolist()
        if step == 0:
            assert not rows.present_R[12:].any()
    assert rows.present_R[12:].sum() > 12


def test_equal_texts_have_equal_hashes_and_others_other_ones(captioned: Path) -> None:
    by_hash: dict[int, set[str]] = {}
    for rows in rows_of(captioned):
        for text, number in zip((*rows.text, *rows.hard), rows.hash_R.tolist(), strict=True):
            if text is not None:
                by_hash.setdefault(number, set()).add(text)
    assert all(len(texts) == 1 for texts in by_hash.values())
    assert len({text for texts in by_hash.values() for text in texts}) == len(by_hash)


def test_each_view_is_drawn_equally_often(index: ShardIndex) -> None:
    views = make_views(index, p_cap=1.0)
    steps = 4000
    row = next(row for row, texts in enumerate(index.captions) if len(set(texts)) == 11)
    counts = Counter(views.read(step, 5, 0, row).text.text for step in range(steps))
    share = 1 / 10
    width = 3 * (share * (1 - share) / steps) ** 0.5
    assert len(counts) == 10
    assert all(abs(count / steps - share) < width for count in counts.values())


@pytest.mark.parametrize("p_cap", [0.0, 0.3, 1.0])
def test_captions_are_drawn_with_probability_p_cap(index: ShardIndex, p_cap: float) -> None:
    views = make_views(index, p_cap=p_cap, swap=SwapConfig(each=0))
    captions = set(index.captions[7])
    share = np.mean([views.read(step, 5, 0, 7).text.text in captions for step in range(4000)])
    assert share == p_cap if p_cap in (0, 1) else abs(share - p_cap) < 3 * (p_cap * (1 - p_cap) / 4000) ** 0.5


def test_the_slots_of_a_step_draw_independently(index: ShardIndex) -> None:
    views = make_views(index, p_cap=0.5, swap=SwapConfig(start=0.5, share=0.5))
    captions = set(index.captions[7])
    for step in range(5):
        read = [views.read(step, slot, 0, 7) for slot in range(400)]
        shares = [np.mean([one.text.text in captions for one in read]), np.mean([bool(one.hard[0]) for one in read])]
        assert 0.35 < shares[0] < 0.65
        assert 0.3 < shares[1] < 0.65
        assert len({one.text.text for one in read}) > 10


@pytest.mark.parametrize("captions", ["stored", "templates"])
def test_a_partial_text_shows_some_of_the_clips_tags_and_nothing_else(index: ShardIndex, captions: str) -> None:
    views = make_views(index, captions=captions)
    for slot, row in enumerate(index.rows("train").tolist()):
        text = views.read(slot, slot, 0, row).text
        tags = set(views.sets[0].tags(row)) if views.sets[0] else set()
        assert set(views.lexicon.says(text.text)) == set(text.shown)
        assert 2 <= len(text.shown) < len(tags)
        assert set(text.shown) < tags


def test_full_views_show_all_tags_and_mixed_ones_both(index: ShardIndex) -> None:
    words = make_views(index).sets[0]
    assert words is not None
    full, mixed = make_views(index, views="full"), make_views(index, views="mixed", captions="both")
    sizes: Counter[bool] = Counter()
    for step in range(400):
        assert set(full.read(step, 0, 0, 3).text.shown) == set(words.tags(3))
        sizes[set(mixed.read(step, 0, 0, 3).text.shown) == set(words.tags(3))] += 1
    assert min(sizes.values()) > 100


def test_balanced_parts_show_every_category_equally_often(lexicon: Lexicon) -> None:
    codes = lexicon.codes(["calm", "dark", "organ", "guitar", "flute", "drums", "shaker", "rock", "slow", "minor"])
    shown: Counter[str] = Counter()
    any_tag: Counter[str] = Counter()
    draws = 6000
    for number in range(draws):
        part = partial_tags(lexicon, codes, Draws(number), least=2, balanced=True)
        shown.update({lexicon.words[code].category for code in part})
        any_tag.update(
            lexicon.words[code].category
            for code in partial_tags(lexicon, codes, Draws(number), least=2, balanced=False)
        )
    shares = np.array(list(shown.values())) / draws
    assert len(shares) == 5
    assert np.ptp(shares) < 6 * (0.25 / draws) ** 0.5
    assert any_tag["instrument"] > 4 * any_tag["genre"]


def test_a_clip_with_few_tags_shows_them_all(lexicon: Lexicon) -> None:
    codes = lexicon.codes(["calm", "rock"])
    assert partial_tags(lexicon, codes, Draws(0), least=2, balanced=True) == codes
    assert len(partial_tags(lexicon, codes, Draws(0), least=1, balanced=True)) == 1


def test_the_share_of_swaps_follows_the_curriculum(index: ShardIndex) -> None:
    views = make_views(index, steps=100, views="full", swap=SwapConfig(start=0.0, share=1.0, ramp=1.0))
    rows = index.rows("train").tolist()
    shares = [np.mean([bool(views.read(step, s, 0, r).hard[0]) for s, r in enumerate(rows)]) for step in (0, 50, 99)]
    assert shares[0] == 0
    assert abs(shares[1] - 0.5) < 3 * (0.25 / len(rows)) ** 0.5
    assert shares[2] > 0.95


def test_a_loader_without_texts_has_none(captioned: Path) -> None:
    with BatchLoader(DataConfig(labelled=str(captioned), b_s=1.0, batch=4), frames=2_000, seed=0) as loader:
        batch = next(loader.batches(0, 1))
    assert batch.texts is None
    assert len(batch) == 5
