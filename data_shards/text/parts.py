"""Parts of a clip's tags that a partial text shows: Augmented View Dropout of arXiv:2409.11498."""

from collections.abc import Sequence

from data_shards.text.draws import Draws
from data_shards.text.lexicon import Lexicon


def partial_tags(
    lexicon: Lexicon, codes: Sequence[int], draws: Draws, *, least: int, balanced: bool
) -> tuple[int, ...]:
    """Some of a clip's tags, in their order: at least `least` and not all, or all where it has no more.

    Args:
        lexicon: the words.
        codes: of the clip's tags.
        draws: choose.
        least: tags at least.
        balanced: go over the categories in random order, one tag of each in turn, so that every category is as likely
            as another; else any tag is as likely as another.
    """
    if len(codes) <= least:
        return tuple(codes)
    count = least + draws.below(len(codes) - least)
    order = balanced_order(lexicon, codes, draws) if balanced else draws.shuffled(codes)
    chosen = set(order[:count])
    return tuple(code for code in codes if code in chosen)


def balanced_order(lexicon: Lexicon, codes: Sequence[int], draws: Draws) -> list[int]:
    """The tags of a clip in turns over their categories, which stand in random order, as do the tags of one."""
    categories: dict[str, list[int]] = {}
    for code in codes:
        categories.setdefault(lexicon.words[code].category, []).append(code)
    queues = [draws.shuffled(of) for of in draws.shuffled(list(categories.values()))]
    return [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
