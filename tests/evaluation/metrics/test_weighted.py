import json
from itertools import product
from pathlib import Path

import mir_eval.key
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from evaluation.metrics.weighted import (
    auroc_and_ap,
    key_scores,
    macro,
    pair_mean,
    r_squared,
    tag_precision,
    tempo_hits,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "evaluation_metrics.json"


def repeated(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Each row as often as its weight says: what a resample literally is."""
    return np.repeat(rows, weights.astype(int), axis=0)


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_a_weight_equals_scikit_learn_on_rows_that_stand_so_often(seed: int, clips: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((clips, 2)) < 0.4
    scores = rng.integers(levels, size=(clips, 2)).astype(np.float64)  # few levels: many ties
    weights = rng.integers(0, 4, size=(5, clips)).astype(np.float64)
    auroc, ap = auroc_and_ap(scores, truth, weights)
    for r, c in product(range(5), range(2)):
        y, s = repeated(truth[:, c], weights[r]), repeated(scores[:, c], weights[r])
        assert np.isnan(ap[r, c]) == (not y.any())
        assert np.isnan(auroc[r, c]) == (y.all() or not y.any())
        if y.any():
            assert ap[r, c] == pytest.approx(average_precision_score(y, s), abs=1e-12)
        if y.any() and not y.all():
            assert auroc[r, c] == pytest.approx(roc_auc_score(y, s), abs=1e-12)


def test_macro_leaves_out_undefined_tags_instead_of_averaging_in_a_zero() -> None:
    assert macro(np.array([[0.5, np.nan], [np.nan, np.nan]])).tolist()[0] == 0.5
    assert np.isnan(macro(np.array([[np.nan, np.nan]]))[0])


def test_float32_sigmoids_would_tie_and_raw_logits_do_not() -> None:
    logits = np.array([[40.0], [60.0]])
    saturated = (1 / (1 + np.exp(-logits.astype(np.float32)))).astype(np.float64)
    truth, weights = np.array([[False], [True]]), np.ones((1, 2))
    assert auroc_and_ap(logits, truth, weights)[0][0, 0] == 1.0
    assert auroc_and_ap(saturated, truth, weights)[0][0, 0] == 0.5


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        auroc_and_ap(np.array([[np.nan], [1.0]]), np.array([[True], [False]]), np.ones((1, 2)))


def test_r_squared_equals_scikit_learn_on_repeated_rows() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(1e4, 3.0, 40)
    predicted = truth + rng.normal(0, 1.0, 40)
    weights = rng.integers(0, 3, (6, 40)).astype(np.float64)
    got = r_squared(predicted, truth, weights)
    for row, value in zip(weights, got, strict=True):
        assert value == pytest.approx(r2_score(repeated(truth, row), repeated(predicted, row)), abs=1e-9)


def test_r_squared_of_a_constant_truth_is_undefined() -> None:
    assert np.isnan(r_squared(np.array([1.0, 2.0]), np.array([3.0, 3.0]), np.ones((1, 2)))[0])


def test_key_scores_are_those_of_mir_eval_in_its_order_of_arguments(keys: tuple[str, ...]) -> None:
    table = key_scores(keys, keys)
    for (i, reference), (j, estimate) in product(enumerate(keys), enumerate(keys)):
        assert table[i, j] == mir_eval.key.weighted_score(reference, estimate)
    assert (table != table.T).any()  # a fifth above is right by half, a fifth below is wrong


@pytest.mark.parametrize(
    ("truth", "estimate", "acc1", "acc2"),
    [
        (100.0, 104.0, True, True),
        (100.0, 96.0, True, True),
        (100.0, 104.01, False, False),
        (100.0, 192.0, False, True),
        (100.0, 208.1, False, False),
        (120.0, 40.0, False, True),
        (120.0, 60.0, False, True),
        (60.0, 180.0, False, True),
        (60.0, 240.0, False, False),
    ],
)
def test_tempo_tolerance_is_relative_to_factor_times_truth(
    truth: float, estimate: float, acc1: bool, acc2: bool
) -> None:
    one, other = np.array([truth]), np.array([estimate])
    assert (tempo_hits(one, other, octaves=False)[0], tempo_hits(one, other, octaves=True)[0]) == (acc1, acc2)


def test_pairs_weigh_equally_however_many_neighbours_a_query_has() -> None:
    sums, counts = np.array([3.0, 0.0]), np.array([3.0, 1.0])
    assert pair_mean(sums, counts, np.array([[1.0, 1.0], [0.0, 2.0]])).tolist() == [0.75, 0.0]


def test_precision_counts_the_neighbours_tags_not_the_querys() -> None:
    query, found = np.array([[True, True, True]]), np.array([[True, False, False]])
    assert tag_precision(query, found)[0] == 1.0
    assert tag_precision(found, query)[0] == pytest.approx(1 / 3)


def test_golden_values_of_scikit_learn_and_mir_eval() -> None:
    """Written by tests/golden/evaluation_regenerate.py with the libraries themselves."""
    golden = json.loads(GOLDEN.read_text())
    truth, scores = np.array(golden["truth"], np.bool_), np.array(golden["scores"], np.float64)
    auroc, ap = auroc_and_ap(scores, truth, np.ones((1, len(truth))))
    np.testing.assert_allclose(auroc[0], golden["auroc"], atol=1e-12)
    np.testing.assert_allclose(ap[0], golden["ap"], atol=1e-12)
    assert macro(auroc)[0] == pytest.approx(golden["macro_auroc"], abs=1e-12)
    table = key_scores(golden["keys"], golden["keys"])
    np.testing.assert_array_equal(table, golden["key_scores"])
    got = r_squared(np.array(golden["predicted"]), np.array(golden["target"]), np.ones((1, len(golden["target"]))))
    assert got[0] == pytest.approx(golden["r2"], abs=1e-12)
