import numpy as np
import pytest

from evaluation.metrics.crossmodal import both_directions, retrieval_metrics


def naive(score: np.ndarray, relevant: np.ndarray, k: int) -> tuple[float, float, float]:
    """Loops over queries and sorted lists."""
    recalls, hits, ranks = [], [], []
    for row, right in zip(score.tolist(), relevant.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda d: (-row[d], d))
        found = [right[d] for d in order]
        recalls.append(sum(found[:k]) / sum(found))
        hits.append(any(found[:k]))
        ranks.append(found.index(True) + 1)
    return float(np.mean(recalls)), float(np.mean(hits)), float(np.median(ranks))


@pytest.mark.parametrize("k", [1, 5, 50])
def test_metrics_are_those_of_a_plain_loop(k: int) -> None:
    rng = np.random.default_rng(0)
    score = np.round(rng.normal(size=(30, 40)), 1)  # with ties
    relevant = rng.random((30, 40)) < 0.1
    relevant[np.arange(30), rng.integers(40, size=30)] = True
    found = retrieval_metrics(score, relevant, [k])
    assert (found[f"recall@{k}"], found[f"hit_rate@{k}"], found["median_rank"]) == pytest.approx(
        naive(score, relevant, k)
    )


def test_perfect_scores_have_rank_one_in_both_directions_and_chance_is_k_of_n() -> None:
    same = np.eye(200)
    perfect = both_directions(same, same > 0, [1])
    assert perfect["text_to_music"] == perfect["music_to_text"] == {"recall@1": 1, "hit_rate@1": 1, "median_rank": 1}
    chance = retrieval_metrics(np.zeros((200, 200)), same > 0, [10])
    assert chance["recall@10"] == pytest.approx(10 / 200)
    assert chance["median_rank"] == 100.5


def test_several_captions_of_a_track_count_each_and_transposing_swaps_the_directions() -> None:
    score = np.random.default_rng(1).normal(size=(6, 3))
    relevant = np.repeat(np.eye(3, dtype=bool), 2, axis=0)
    found, swapped = both_directions(score, relevant, [1, 2]), both_directions(score.T, relevant.T, [1, 2])
    assert found["text_to_music"] == swapped["music_to_text"]
    assert retrieval_metrics(relevant.T.astype(float), relevant.T, [1])["recall@1"] == 0.5


@pytest.mark.parametrize(
    ("score", "relevant", "words"),
    [
        (np.zeros((2, 3)), np.ones((3, 2), bool), "shapes disagree"),
        (np.full((2, 2), np.nan), np.eye(2, dtype=bool), "not finite"),
        (np.zeros((2, 2)), np.array([[True, True], [False, False]]), "query 1 has no right answer"),
    ],
)
def test_what_has_no_metric_is_refused(score: np.ndarray, relevant: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        retrieval_metrics(score, relevant, [1])
