import numpy as np
import pytest

from evaluation.metrics.crossmodal import first_right


@pytest.mark.parametrize("k", [1, 5, 50])
def test_ranks_and_hits_without_ties_are_those_of_a_plain_loop(k: int) -> None:
    rng = np.random.default_rng(0)
    score = rng.normal(size=(30, 40))
    right = rng.random((30, 40)) < 0.1
    right[np.arange(30), rng.integers(40, size=30)] = True
    ranks = first_right(score, right, np.zeros_like(right))
    for query, (row, of_query) in enumerate(zip(score.tolist(), right.tolist(), strict=True)):
        order = sorted(range(40), key=lambda d: -row[d])
        first = [of_query[d] for d in order].index(True) + 1
        assert ranks.rank[query] == first
        assert ranks.hits(k)[query] == (first <= k)


def test_perfect_scores_have_rank_one_and_a_constant_is_at_chance_in_both_directions() -> None:
    same, none = np.eye(200, dtype=bool), np.zeros((200, 200), bool)
    assert first_right(same.astype(float), same, none).rank.tolist() == [1.0] * 200
    chance = first_right(np.zeros((200, 200)), same, none)
    assert chance.hits(10).mean() == pytest.approx(10 / 200)
    assert np.median(chance.rank) == 100.5
    captions = np.repeat(np.eye(3, dtype=bool), 2, axis=0)  # two of each track
    for right in (captions, captions.T):
        assert first_right(right.astype(float), right, np.zeros_like(right)).hits(1).tolist() == [1.0] * len(right)


@pytest.mark.parametrize(
    ("score", "right", "words"),
    [
        (np.full((2, 2), np.nan), np.eye(2, dtype=bool), "not finite"),
        (np.zeros((2, 2)), np.array([[True, True], [False, False]]), "query 1 has no right answer"),
    ],
)
def test_what_has_no_rank_is_refused(score: np.ndarray, right: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        first_right(score, right, np.zeros_like(right))
