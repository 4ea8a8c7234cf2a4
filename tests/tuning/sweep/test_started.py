"""What Ray a sweep starts for its trials."""

from collections.abc import Callable
from typing import Any

import pytest

from tuning.sweep import sweep
from tuning.sweep.plan import SweepPlan


class NotStartedError(Exception):
    """Instead of a session."""


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_only_trials_with_workers_of_their_own_start_rays_dashboard(
    make_plan: Callable[..., SweepPlan], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    asked: dict[str, Any] = {}

    def session(**options: Any) -> Any:
        asked.update(options)
        raise NotStartedError

    monkeypatch.setattr(sweep, "ray_session", session)
    plan = make_plan(f"resources.num_workers={workers}")
    with pytest.raises(NotStartedError), sweep._started(plan, plan.config.tracking):
        pass
    assert asked["dashboard"] == (workers > 1)  # one worker trains in the trial's own process
