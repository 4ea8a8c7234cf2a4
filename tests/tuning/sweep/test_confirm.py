"""Best and preset are compared in pairs: what both share cancels."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.metrics.samples import RESAMPLES, MetricSamples, save_resamples
from tuning.sweep.confirm import compare, verdict


def run_dirs(folder: Path, name: str, values_SR: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[Path]:
    """Folders of evaluated runs, one a seed."""
    made = []
    for seed, values_R in enumerate(values_SR):
        run = folder / f"{name}-{seed}"
        (run / "evaluation").mkdir(parents=True)
        save_resamples({"tags/ap": {"trained": MetricSamples(values_R, {})}}, run / "evaluation" / RESAMPLES)
        made.append(run)
    return made


def test_a_constant_gain_has_an_interval_of_no_width_however_noisy_the_test_set_is(tmp_path: Path) -> None:
    noise_SR = np.random.default_rng(0).normal(0.5, 0.2, (3, 201))
    sides = {"best": run_dirs(tmp_path, "best", noise_SR + 0.05), "preset": run_dirs(tmp_path, "preset", noise_SR)}
    found = compare(sides, ["tags/ap"])["tags/ap"]
    assert found["difference"]["value"] == pytest.approx(0.05)
    assert found["difference"]["low"] == pytest.approx(found["difference"]["high"])
    assert found["best"]["high"] - found["best"]["low"] > 0.1
    assert verdict("tags/ap", found).endswith("the best is better")


def test_a_gain_that_seeds_do_not_share_is_not_shown(tmp_path: Path) -> None:
    noise_SR = np.random.default_rng(0).normal(0.5, 0.001, (3, 201))
    gains_S1 = np.array([[0.2], [-0.1], [0.0]])
    sides = {"best": run_dirs(tmp_path, "best", noise_SR + gains_S1), "preset": run_dirs(tmp_path, "preset", noise_SR)}
    found = compare(sides, ["tags/ap"])["tags/ap"]
    assert found["difference"]["low"] < 0 < found["difference"]["value"] < found["difference"]["high"]
    assert verdict("tags/ap", found).endswith("no difference is shown")
    worse = compare({"best": sides["preset"], "preset": run_dirs(tmp_path, "p2", noise_SR + 0.1)}, ["tags/ap"])
    assert verdict("tags/ap", worse["tags/ap"]).endswith("the best is worse")


def test_what_is_undefined_is_reported_as_undefined(tmp_path: Path) -> None:
    """A metric of one class, a bootstrap without a spread."""
    noise_SR = np.random.default_rng(0).normal(0.5, 0.2, (2, 201))
    preset = run_dirs(tmp_path, "preset", noise_SR)
    nothing = compare({"best": run_dirs(tmp_path, "best", noise_SR * np.nan), "preset": preset}, ["tags/ap"])
    assert verdict("tags/ap", nothing["tags/ap"]).endswith("undefined for the best or the preset, nothing is confirmed")
    alone_SR = noise_SR + 0.1
    alone_SR[:, 1:] = np.nan
    alone = compare({"best": run_dirs(tmp_path, "alone", alone_SR), "preset": preset}, ["tags/ap"])["tags/ap"]
    assert alone["difference"]["low"] is None
    assert verdict("tags/ap", alone).endswith("difference +0.100 without an interval: no difference is shown")
