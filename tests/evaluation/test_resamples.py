"""Resamples kept beside a report: nothing is lost, and a missing file is named."""

from pathlib import Path

import numpy as np
import pytest

from cluster.settings import UserError
from evaluation.resamples import by_condition, load_resamples, save_resamples


def test_what_is_saved_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    values_R = np.array([0.5, np.nan, 1 / 3])
    saved = {"tags/ap": {"trained": values_R, "constant": values_R * 0}, "key/weighted@10": {"trained": values_R + 1}}
    save_resamples(saved, tmp_path / "resamples.parquet")
    found = load_resamples(tmp_path / "resamples.parquet")
    assert {metric: list(row) for metric, row in found.items()} == {m: list(row) for m, row in saved.items()}
    for metric, row in saved.items():
        for model, expected_R in row.items():
            np.testing.assert_array_equal(found[metric][model], expected_R)


def test_conditions_become_metrics_of_their_own() -> None:
    one_R = np.arange(3.0)
    curves = {"tags/ap": {"trained": {"clean": one_R, "reverb": one_R + 1}}}
    assert [*by_condition(curves)] == ["tags/ap under clean", "tags/ap under reverb"]
    np.testing.assert_array_equal(by_condition(curves)["tags/ap under reverb"]["trained"], one_R + 1)


def test_a_report_without_resamples_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluate again"):
        load_resamples(tmp_path / "resamples.parquet")
