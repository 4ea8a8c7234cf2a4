"""Keys of the texts that a step reads."""

import itertools

import pytest

from cluster.settings import UserError, load_config
from data_shards.text.config import SwapConfig, TextViewsConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("p_cap", 1.5),
        ("p_cap", -0.1),
        ("views", "half"),
        ("captions", "none"),
        ("partial.each", 0),
        ("partial.least", 0),
        ("swap.each", -1),
        ("swap.share", 2.0),
        ("swap.start", -1.0),
        ("swap.ramp", 1.01),
        ("swap.dictionary", " "),
        ("swap.scope", "mine"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(UserError, match=key.split(".")[-1]):
        load_config(TextViewsConfig, None, {key: value})


def test_the_share_of_swaps_rises_in_a_line_and_then_stays() -> None:
    swap = SwapConfig(start=0.1, share=0.5, ramp=0.5)
    shares = [swap.share_at(step, 200) for step in range(200)]
    assert shares[0] == 0.1
    assert shares[50] == pytest.approx(0.3)
    assert set(shares[100:]) == {0.5}
    assert all(a <= b for a, b in itertools.pairwise(shares))


def test_without_a_rise_the_share_is_whole_at_once_and_without_swaps_it_is_none() -> None:
    assert SwapConfig(ramp=0.0, share=0.7).share_at(0, 100) == 0.7
    assert SwapConfig(each=0).share_at(99, 100) == 0.0
