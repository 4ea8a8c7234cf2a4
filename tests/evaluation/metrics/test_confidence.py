import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest
from scipy.stats import t as student

from evaluation.metrics.confidence import (
    Resamples,
    data_needed,
    draw_resamples,
    holm,
    interval,
    jackknife_interval,
    two_sided_p,
)
from evaluation.metrics.weighted import auroc_and_ap, macro


def weights_of(drawn: Resamples) -> NDArray[np.float64]:
    return np.concatenate(list(drawn.blocks()))


def left_out_of(drawn: Resamples) -> NDArray[np.float64]:
    return np.concatenate(list(drawn.left_out_blocks()))


def means(drawn: Resamples, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return drawn.measure(lambda weights: weights @ values / weights.sum(1))


def test_clips_of_one_cluster_are_drawn_together() -> None:
    clusters = ["a", "b", "a", "c", "b", "a"]
    drawn = draw_resamples(clusters, resamples=200, seeds=1, rng=np.random.default_rng(0))
    weights = weights_of(drawn)
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
        _, low, high = interval(means(drawn, effect), 0.9)
        covered += low <= 0 <= high
    assert binomtest(covered, 200, 0.88).pvalue > 0.01


def test_ignoring_the_clusters_would_make_the_interval_too_narrow() -> None:
    rng = np.random.default_rng(3)
    effect = np.repeat(rng.normal(size=40), 5)
    width = {}
    for name, clusters in (("clustered", [str(i // 5) for i in range(200)]), ("rows", [str(i) for i in range(200)])):
        drawn = draw_resamples(clusters, resamples=1000, seeds=1, rng=np.random.default_rng(0))
        _, low, high = interval(means(drawn, effect), 0.95)
        width[name] = high - low
    assert width["clustered"] > 1.8 * width["rows"]


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(4)
    one = rng.random(100)
    other = one + 0.01 * rng.normal(size=100) - 0.02
    drawn = draw_resamples([str(i) for i in range(100)], resamples=500, seeds=1, rng=rng)
    mean = [means(drawn, values) for values in (one, other)]
    _, low, high = interval(mean[0] - mean[1], 0.95)
    assert 0 < low < 0.02 < high
    assert high - low < 0.1 * (interval(mean[0], 0.95)[2] - interval(mean[0], 0.95)[1])
    assert two_sided_p(mean[0] - mean[1]) == pytest.approx(2 / 501)


def test_a_resample_without_a_positive_is_left_out_of_the_interval() -> None:
    assert interval(np.array([0.5, np.nan, 0.4, 0.6]), 0.5)[1:] == pytest.approx((0.45, 0.55))
    assert np.isnan(interval(np.array([np.nan, np.nan]), 0.5)).all()


def test_the_jackknife_of_a_mean_is_the_textbook_interval_and_holds_its_value() -> None:
    rng = np.random.default_rng(0)
    x = rng.random(30)
    drawn = draw_resamples([str(i) for i in range(30)], resamples=100, seeds=1, rng=rng)
    left_out = left_out_of(drawn) @ x / left_out_of(drawn).sum(1)
    value, low, high = jackknife_interval(float(x.mean()), left_out, 0.0, 0.95)
    reach = float(student.ppf(0.975, 29)) * x.std(ddof=1) / 30**0.5
    assert (value, low, high) == pytest.approx((x.mean(), x.mean() - reach, x.mean() + reach))
    biased = jackknife_interval(0.5, np.full(10, 0.55) + 0.001 * np.arange(10), 0.0, 0.95)
    assert biased[1] < biased[2] == 0.5  # the bias lies below; the interval is stretched to the value


def test_whole_clusters_are_left_out() -> None:
    clusters = [str(i // 3) for i in range(600)]
    left_out = left_out_of(draw_resamples(clusters, resamples=100, seeds=1, rng=np.random.default_rng(0)))
    assert left_out.shape == (100, 600)
    assert ((left_out == 0).sum(0) == 1).all()  # every clip once
    assert (left_out.reshape(100, 200, 3).std(2) == 0).all()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("clips", "at_most", "at_least"), [(80, 0.20, 0.84), (200, 0.40, 0.86)])
def test_average_precision_on_a_small_set_is_covered_where_percentiles_miss(
    clips: int, at_most: float, at_least: float
) -> None:
    """24 tags of 1.5% to 35%; the truth is the macro AP of 60,000 clips. Percentiles are the interval before."""
    share = np.geomspace(0.015, 0.35, 24)

    def draw(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        truth = rng.random((count, 24)) < share
        return 1.2 * truth + rng.normal(size=(count, 24)), truth

    scores, truth = draw(60_000, np.random.default_rng(0))
    goal = float(auroc_and_ap(scores, truth, np.ones((1, 60_000)))[1].mean())
    before = after = 0
    for trial in range(100):
        rng = np.random.default_rng(trial + 1)
        scores, truth = draw(clips, rng)
        kept = truth.any(0)
        drawn = draw_resamples([str(i) for i in range(clips)], resamples=200, seeds=1, rng=rng)
        weights = np.concatenate([weights_of(drawn), left_out_of(drawn)])
        values = macro(auroc_and_ap(scores[:, kept], truth[:, kept], weights)[1])
        _, low, high = interval(values[:201], 0.95)
        before += low <= goal <= high
        _, low, high = jackknife_interval(float(values[0]), values[201:], 0.0, 0.95)
        after += low <= goal <= high
    print(f"{clips} clips: percentiles cover {before}%, the jackknife {after}%")
    assert before / 100 <= at_most
    assert after / 100 >= at_least


def test_no_difference_has_p_one_and_holm_multiplies_the_smallest_most() -> None:
    assert two_sided_p(np.array([0.0, 0.0, 0.0])) == 1.0
    # Worked example: .005·4, .01·3, .03·2, then never falling.
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_nothing_to_resample_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to resample"):
        draw_resamples([], resamples=100, seeds=1, rng=np.random.default_rng(0))


def test_so_many_times_the_data_find_the_difference_in_four_of_five_studies() -> None:
    rng = np.random.default_rng(0)
    tracks, error = 100, 1.0
    effect = 0.1  # z = 1: far from shown
    delta_R = np.concatenate([[effect], effect + rng.normal(0, error / np.sqrt(tracks), 200_000)])
    times = data_needed(delta_R)
    assert times == pytest.approx(2.8016**2, rel=0.02)
    means = rng.normal(effect, error / np.sqrt(tracks * times), 20_000)
    shown = np.abs(means) > 1.96 * error / np.sqrt(tracks * times)
    assert shown.mean() == pytest.approx(0.8, abs=0.01)


def test_no_data_show_a_difference_of_zero_and_an_undefined_spread_says_nothing() -> None:
    assert data_needed(np.array([0.0, -1.0, 1.0])) == np.inf
    assert np.isnan(data_needed(np.array([0.5])))
    assert np.isnan(data_needed(np.array([0.5, np.nan, 0.5])))
