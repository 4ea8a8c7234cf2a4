import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.confidence import draw_resamples, holm, interval, two_sided_p


def test_clips_of_one_cluster_are_drawn_together() -> None:
    clusters = ["a", "b", "a", "c", "b", "a"]
    drawn = draw_resamples(clusters, resamples=200, seeds=1, rng=np.random.default_rng(0))
    weights = drawn.weights_RK
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[1:, [0, 1, 3]].sum(1) == 3).all()  # as many clusters as there are
    assert drawn.clusters == 3


def test_every_seed_counts_once_in_the_reported_value() -> None:
    drawn = draw_resamples(["a", "b"], resamples=100, seeds=3, rng=np.random.default_rng(0))
    values = np.broadcast_to(np.array([[1.0], [2.0], [6.0]]), (3, 101))
    means = drawn.over_seeds(values)
    assert means[0] == 3.0
    assert means[1:].std() > 0.5  # seeds are drawn with replacement


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        effect = np.repeat(rng.normal(size=40), 5)  # 40 clusters of 5 equal clips
        drawn = draw_resamples([str(i // 5) for i in range(200)], resamples=300, seeds=1, rng=rng)
        _, low, high = interval(drawn.weights_RK @ effect / drawn.weights_RK.sum(1), 0.9)
        covered += low <= 0 <= high
    assert binomtest(covered, 200, 0.88).pvalue > 0.01


def test_ignoring_the_clusters_would_make_the_interval_too_narrow() -> None:
    rng = np.random.default_rng(3)
    effect = np.repeat(rng.normal(size=40), 5)
    width = {}
    for name, clusters in (("clustered", [str(i // 5) for i in range(200)]), ("rows", [str(i) for i in range(200)])):
        drawn = draw_resamples(clusters, resamples=1000, seeds=1, rng=np.random.default_rng(0))
        _, low, high = interval(drawn.weights_RK @ effect / drawn.weights_RK.sum(1), 0.95)
        width[name] = high - low
    assert width["clustered"] > 1.8 * width["rows"]


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(4)
    one = rng.random(100)
    other = one + 0.01 * rng.normal(size=100) - 0.02
    drawn = draw_resamples([str(i) for i in range(100)], resamples=500, seeds=1, rng=rng)
    mean = [drawn.weights_RK @ values / drawn.weights_RK.sum(1) for values in (one, other)]
    _, low, high = interval(mean[0] - mean[1], 0.95)
    assert 0 < low < 0.02 < high
    assert high - low < 0.1 * (interval(mean[0], 0.95)[2] - interval(mean[0], 0.95)[1])
    assert two_sided_p(mean[0] - mean[1]) == pytest.approx(2 / 501)


def test_a_resample_without_a_positive_is_left_out_of_the_interval() -> None:
    assert interval(np.array([0.5, np.nan, 0.4, 0.6]), 0.5)[1:] == pytest.approx((0.45, 0.55))
    assert np.isnan(interval(np.array([np.nan, np.nan]), 0.5)).all()


def test_no_difference_has_p_one_and_holm_multiplies_the_smallest_most() -> None:
    assert two_sided_p(np.array([0.0, 0.0, 0.0])) == 1.0
    # Worked example: .005·4, .01·3, .03·2, then never falling.
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_nothing_to_resample_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to resample"):
        draw_resamples([], resamples=100, seeds=1, rng=np.random.default_rng(0))
