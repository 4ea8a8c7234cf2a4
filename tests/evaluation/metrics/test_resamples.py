"""Resamples kept beside a report: nothing is lost, and a missing file is named."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.settings import UserError
from evaluation.analyses.robustness import by_condition
from evaluation.metrics.samples import MetricSamples, load_resamples, save_resamples


def test_what_is_saved_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    values_R = np.array([0.5, np.nan, 1 / 3])
    jackknifed = MetricSamples(values_R, {}, np.array([0.4, 1 / 7]), 1 / 3)
    saved = {
        "tags/ap": {"trained": jackknifed, "constant": MetricSamples(values_R * 0, {})},
        "key/weighted@10": {"trained": MetricSamples(values_R + 1, {})},
    }
    save_resamples(saved, tmp_path / "resamples.parquet")
    found = load_resamples(tmp_path / "resamples.parquet")
    assert {metric: list(row) for metric, row in found.items()} == {m: list(row) for m, row in saved.items()}
    for metric, row in saved.items():
        for model, expected in row.items():
            np.testing.assert_array_equal(found[metric][model].values_R, expected.values_R)
    np.testing.assert_array_equal(found["tags/ap"]["trained"].left_out_G, jackknifed.left_out_G)
    assert found["tags/ap"]["trained"].seed_variance == 1 / 3
    assert found["tags/ap"]["constant"].left_out_G is None


def test_what_an_earlier_release_kept_is_read(tmp_path: Path) -> None:
    table = pa.table({"metric": ["tags/ap"], "model": ["trained"], "values": [[0.5, 0.25]]})
    pq.write_table(table, tmp_path / "resamples.parquet")
    found = load_resamples(tmp_path / "resamples.parquet")["tags/ap"]["trained"]
    assert found.values_R.tolist() == [0.5, 0.25]
    assert found.left_out_G is None


def test_conditions_become_metrics_of_their_own() -> None:
    clean, reverb = (MetricSamples(np.arange(3.0) + at, {}) for at in (0, 1))
    curves = {"tags/ap": {"trained": {"clean": clean, "reverb": reverb}}}
    assert [*by_condition(curves)] == ["tags/ap under clean", "tags/ap under reverb"]
    assert by_condition(curves)["tags/ap under reverb"]["trained"] is reverb


def test_a_report_without_resamples_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluate again"):
        load_resamples(tmp_path / "resamples.parquet")
