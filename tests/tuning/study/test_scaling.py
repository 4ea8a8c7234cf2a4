"""The cost model: prices that are there are found, and what the machine cannot hold is not fitted."""

import numpy as np
import pytest

from tuning.study.scaling import CostModel, Step, fit, project, sent_bytes

PRICES = np.array([2e-3, 3e-9, 1e-9, 5e-2])


def step(world: int, batch: int, seconds: float | None = None) -> Step:
    bare = Step(world=world, batch=batch, views=2, width=128, parameters=2_400_000)
    true = CostModel(prices=PRICES, worst=0, fitted=0).seconds(bare)
    return Step(world=world, batch=batch, views=2, width=128, parameters=2_400_000, seconds=seconds or true)


GRID = [step(world, batch) for world in (1, 2, 4) for batch in (32, 256, 4096)]


def test_prices_that_made_the_steps_are_found() -> None:
    model = fit(GRID, places=4)
    np.testing.assert_allclose(model.prices, PRICES, rtol=1e-6)
    assert model.worst < 1e-9
    assert model.seconds(step(64, 6144)) == pytest.approx(step(64, 6144).seconds)


def test_no_price_is_negative_whatever_was_measured() -> None:
    noisy = [step(world, batch, seconds=0.1) for world in (1, 2) for batch in (32, 64)]
    assert (fit(noisy, places=2).prices >= 0).all()


def test_workers_that_share_a_place_are_shown_and_not_fitted() -> None:
    crowded = [*GRID, step(8, 256, seconds=99.0)]
    np.testing.assert_allclose(fit(crowded, places=4).prices, PRICES, rtol=1e-6)
    assert "more workers than places: not fitted" in str(project(crowded, places=4)["markdown"])
    with pytest.raises(ValueError, match="no measured step has at most 1 workers"):
        fit([step(2, 32)], places=1)


def test_bytes_are_those_of_the_formulas() -> None:
    assert sent_bytes(step(1, 32)) == 0
    two = sent_bytes(step(2, 32))  # 32 rows to the other, and the gradients once around
    assert two == 32 * 128 * 4 + 2_400_000 * 4


def test_a_projection_adds_up_and_weak_scaling_keeps_a_workers_clips() -> None:
    tree = project(GRID, places=4)
    rows = tree["projected"]
    assert isinstance(rows, list)
    for row in rows:
        assert row["seconds"] == pytest.approx(sum(row[term] for term in ("views", "pairs", "bytes", "fixed")))
    weak = [row for row in rows if row["scaling"] == "weak"]
    assert len({row["batch"] // row["world"] for row in weak}) == 1
    assert [row["seconds"] for row in weak] == sorted(row["seconds"] for row in weak)
