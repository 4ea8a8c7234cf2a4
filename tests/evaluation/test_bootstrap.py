"""The bootstrap in blocks against the same written down plainly: equal numbers, in little memory."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import evaluation.metrics.confidence
import evaluation.tasks.tags
from benchmarks.bootstrap import make_work, plain_auroc_and_ap, plain_weights
from evaluation.metrics.confidence import draw_resamples, interval, two_sided_p
from evaluation.metrics.weighted import macro, r_squared
from evaluation.targets.target import Target
from evaluation.tasks.classes import Classes
from evaluation.tasks.number import Number
from evaluation.tasks.tags import Tags

CLUSTERS = {
    "each alone": [f"c{i}" for i in range(150)],
    "two by two": [f"c{i // 2}" for i in range(150)],
    "one large": ["c0"] * 70 + [f"c{i}" for i in range(80)],
    "two": ["a"] * 100 + ["b"] * 50,
}


@pytest.fixture(params=[1 << 20, 1000, 1], ids=["one block", "some blocks", "a row a block"])
def blocks(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.metrics.confidence, "BLOCK_WEIGHTS", request.param)
    monkeypatch.setattr(evaluation.tasks.tags, "RANKED_CLIPS", request.param)


def target(values: NDArray[Any], classes: tuple[str, ...] = ()) -> Target:
    count = len(values)
    names = np.array([f"t{i}" for i in range(count)])
    return Target(np.arange(count), np.full(count, "test"), names, names, values, classes)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("clusters", CLUSTERS.values(), ids=CLUSTERS)
@pytest.mark.parametrize("levels", [0, 4, 1], ids=["no ties", "ties", "all tied"])
def test_tags_have_the_values_of_a_bootstrap_written_plainly(clusters: list[str], levels: int) -> None:
    rng = np.random.default_rng(levels)
    truth = rng.random((150, 3)) < [0.02, 0.4, 0.97]
    truth[:2] = [[True], [False]]
    scores = rng.integers(levels, size=(2, 150, 3)) * 1.0 if levels else rng.normal(size=(2, 150, 3))
    weights, seeds, left_out = plain_weights(clusters, 120, 2, np.random.default_rng(7))
    drawn = draw_resamples(clusters, resamples=120, seeds=2, rng=np.random.default_rng(7))
    got = Tags().score_probe(scores, target(truth, ("a", "b", "c")), drawn)
    np.testing.assert_array_equal(np.concatenate(list(drawn.blocks())), weights)
    every = np.concatenate([weights, left_out])
    for place, metric in enumerate(("auroc", "ap")):
        plain = [macro(np.stack([plain_auroc_and_ap(s[:, c], truth[:, c], every)[place] for c in range(3)], 1))
                 for s in scores]  # fmt: skip
        picked = np.stack(plain)[seeds, np.arange(121)[:, None]].mean(1)
        np.testing.assert_allclose(got[metric].values_R, picked, atol=1e-12, rtol=0)
        if metric == "ap":
            found = np.asarray(got[metric].left_out_G)
            np.testing.assert_allclose(found, np.stack(plain)[:, 121:].mean(0), atol=1e-12, rtol=0)


@pytest.mark.usefixtures("blocks")
def test_other_kinds_have_the_values_of_a_bootstrap_written_plainly() -> None:
    rng, clusters = np.random.default_rng(1), CLUSTERS["one large"]
    weights, seeds, _ = plain_weights(clusters, 120, 3, np.random.default_rng(7))
    drawn = draw_resamples(clusters, resamples=120, seeds=3, rng=np.random.default_rng(7))
    codes, answers = rng.integers(4, size=150), rng.integers(4, size=(3, 150))
    right = weights @ (codes == answers).T / weights.sum(1)[:, None]
    accuracy = Classes().score_probe(answers, target(codes, tuple("abcd")), drawn)["accuracy"].values_R
    np.testing.assert_allclose(accuracy, right.T[seeds, np.arange(121)[:, None]].mean(1), atol=1e-12)
    numbers = rng.normal(1e3, 1.0, size=(3, 150))
    r2 = Number().score_probe(numbers, target(numbers[0] + rng.normal(size=150)), drawn)["r2"].values_R
    assert r2.shape == (121,)
    near, there = rng.integers(4, size=(150, 2)), rng.random((150, 2)) < 0.8
    there[:, 0] = True
    found = Classes().score_neighbours(near, there, target(codes, tuple("abcd")), drawn, (2,))["p@2"].values_R
    hits = ((near == codes[:, None]) & there).sum(1)
    np.testing.assert_allclose(found, (weights @ hits) / (weights @ there.sum(1)), atol=1e-12)


@pytest.mark.usefixtures("blocks")
def test_r_squared_is_that_of_all_weights_at_once() -> None:
    rng, clusters = np.random.default_rng(2), CLUSTERS["two by two"]
    weights, _, _ = plain_weights(clusters, 120, 1, np.random.default_rng(7))
    drawn = draw_resamples(clusters, resamples=120, seeds=1, rng=np.random.default_rng(7))
    truth, answer = rng.normal(1e3, 1.0, 150), rng.normal(1e3, 1.0, 150)
    got = Number().score_probe(answer[None], target(truth), drawn)["r2"].values_R
    np.testing.assert_allclose(got, r_squared(answer, truth, weights), atol=1e-9)


def test_the_bootstrap_of_100_000_clips_holds_less_than_100_mb() -> None:
    """The weights of its 200 resamples alone would be 160 MB."""
    scores, test = make_work(100_000)
    tracemalloc.start()
    try:
        drawn = draw_resamples(test.artist_K.tolist(), resamples=200, seeds=1, rng=np.random.default_rng(0))
        Tags().score_probe(scores, test, drawn)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6


def test_one_cluster_has_no_interval_and_shows_no_difference() -> None:
    """Each resample would be the set itself: an interval of no width, and the smallest p that there is."""
    drawn = draw_resamples(["one"] * 20, resamples=100, seeds=2, rng=np.random.default_rng(0))
    codes = np.arange(20) % 2
    samples = Classes().score_probe(np.stack([codes, codes]), target(codes, ("a", "b")), drawn)["accuracy"]
    value, low, high = interval(samples.values_R, 0.95)
    assert value == 1.0
    assert np.isnan([low, high]).all()
    assert two_sided_p(samples.values_R) == 1.0
    assert samples.row(0.95)["low"] is None
