"""What a sweep leaves stays cheap to look at: importances are computed once, and from no more than so many trials."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tuning.sweep import outcome
from tuning.sweep.config import SettingsConfig
from tuning.sweep.journal import SweepJournal
from tuning.sweep.outcome import IMPORTANCES, importances
from tuning.sweep.space import read_space

SPACE = read_space({"x": {"uniform": [0.0, 1.0]}, "y": {"uniform": [0.0, 1.0]}}, "test")


def evaluated(folder: Path, trials: int) -> SweepJournal:
    """Trials whose score depends on x alone."""
    journal = SweepJournal(folder, SettingsConfig(trials=trials, sampler="random"), SPACE, objectives=1)
    while (trial := journal.next()) is not None:
        journal.done(trial.number, [trial.params["x"]])
    return journal


def test_importances_are_computed_once_for_the_trials_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(_study: object, found: Sequence[object], _seed: int) -> dict[str, float]:
        calls.append(len(found))
        return {"x": 1.0}

    monkeypatch.setattr(outcome, "_fanova", counted)
    journal = evaluated(tmp_path, 5)
    assert importances(journal, 0, tmp_path) == importances(journal, 0, tmp_path) == {"x": 1.0}
    assert calls == [5]
    importances(evaluated(tmp_path, 6), 0, tmp_path)
    assert calls == [5, 6]
    for damaged in ("", "[]", "{}"):
        (tmp_path / IMPORTANCES).write_text(damaged)
        assert importances(journal, 0, tmp_path) == {"x": 1.0}
    importances(journal, 1, tmp_path)
    assert calls == [5, 6, 6, 6, 6, 6]


def test_more_trials_than_the_limit_are_drawn_from_and_show_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = evaluated(tmp_path, 40)
    monkeypatch.setattr(outcome, "MOST", 20)
    shares = importances(journal, 0, tmp_path)
    assert list(shares) == ["x", "y"]
    assert shares["x"] > 0.9
    assert sum(shares.values()) == pytest.approx(1.0)
    assert len(journal.trials) == 40
