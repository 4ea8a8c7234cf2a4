import numpy as np
import pytest

from cluster.settings import UserError
from evaluation.metrics import neighbours as retrieval
from evaluation.metrics.neighbours import neighbours, search, unit_rows


def naive(h: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Every pair, one by one, in float64."""
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    rows = []
    for q in range(len(h)):
        others = [d for d in range(len(h)) if groups[d] != groups[q]]
        best = sorted(others, key=lambda d: -float(unit[q] @ unit[d]))[:k]
        rows.append(best + [-1] * (k - len(best)))
    return np.array(rows)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_neighbours_are_those_of_every_pair_compared(k: int) -> None:
    rng = np.random.default_rng(0)
    h, groups = rng.normal(size=(60, 8)).astype(np.float32), rng.integers(20, size=60)
    np.testing.assert_array_equal(neighbours(h, groups, k), naive(h.astype(np.float64), groups, k))


def test_a_duplicate_does_not_push_the_query_in_among_its_own_neighbours() -> None:
    """Excluding by rank would drop the duplicate of another track and keep the query itself."""
    h = np.repeat(np.random.default_rng(1).normal(size=(5, 4)), 4, axis=0).astype(np.float32)
    groups = np.arange(20)
    near = neighbours(h, groups, 3)
    assert (near != groups[:, None]).all()
    assert (near // 4 == groups[:, None] // 4).all()


def test_a_large_group_of_the_query_hides_nobody_else() -> None:
    h = np.ones((50, 3), np.float32)
    h[40:] = [-1, 0, 0]
    groups = np.array([0] * 40 + list(range(1, 11)))
    assert sorted(neighbours(h, groups, 10)[0]) == list(range(40, 50))


def test_missing_neighbours_are_marked() -> None:
    near = neighbours(np.eye(3, dtype=np.float32), np.array([0, 1, 1]), 5)
    assert near[0].tolist()[2:] == [-1, -1, -1]
    assert near[1].tolist() == [0, -1, -1, -1, -1]


def test_a_set_of_one_track_is_refused() -> None:
    with pytest.raises(UserError, match="at least two tracks"):
        neighbours(np.eye(3, dtype=np.float32), np.zeros(3, np.int64), 1)


def test_scale_does_not_matter_and_a_zero_row_stays_zero() -> None:
    h = np.random.default_rng(2).normal(size=(30, 6)).astype(np.float32)
    scaled = h * np.random.default_rng(3).uniform(0.1, 100, (30, 1)).astype(np.float32)
    np.testing.assert_array_equal(neighbours(h, np.arange(30), 4), neighbours(scaled, np.arange(30), 4))
    assert not unit_rows(np.zeros((2, 3), np.float32)).any()


@pytest.mark.parametrize("parts", [1, 2, 7, 50])
def test_merging_shards_equals_one_search_of_everything(parts: int) -> None:
    rng = np.random.default_rng(4)
    base, query = (unit_rows(rng.normal(size=(n, 16)).astype(np.float32)) for n in (200, 30))
    cosines, rows = search(query, np.array_split(base, parts), 10)
    every = query.astype(np.float64) @ base.T.astype(np.float64)
    np.testing.assert_array_equal(rows, np.argsort(-every, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(cosines, -np.sort(-every, axis=1)[:, :10], atol=1e-6)


def test_a_base_smaller_than_k_gives_all_of_it() -> None:
    cosines, rows = search(np.eye(3, dtype=np.float32)[:2], [np.eye(3, dtype=np.float32)], 10)
    assert rows.shape == cosines.shape == (2, 3)
    assert rows[:, 0].tolist() == [0, 1]


def test_the_product_that_a_gpu_runs_finds_what_faiss_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "QUERIES_A_BLOCK", 7)
    rng = np.random.default_rng(9)
    base, query = (unit_rows(rng.normal(size=(count, 16)).astype(np.float32)) for count in (300, 20))
    parts = [retrieval.Product(part, "cpu") for part in np.array_split(base, 4)]
    cosines, rows = retrieval.search_parts(query, parts, 5)
    expected, places = search(query, [base], 5)
    np.testing.assert_array_equal(rows, places)
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
