"""Faults 34: a rank that is frozen or gone is named by those that are left."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.distributed import collectives
from trainers.distributed.failures import absent_named

pytestmark = pytest.mark.dist
TIMEOUT_S = 3.0
RESPONSE_TIMEOUT_S = 4.0
Ranks = Callable[..., list[Any]]


def wait_for_all(folder: str, absent: int, kind: int) -> None:
    collectives.all_reduce(torch.ones(1))
    if collectives.rank() == absent:
        os.kill(os.getpid(), kind)
    began = time.monotonic()
    noticed_s = named_s = 0.0
    try:
        with absent_named(timeout_s=RESPONSE_TIMEOUT_S):
            try:
                for _ in range(3):
                    collectives.all_reduce(torch.ones(1))
            finally:
                noticed_s = time.monotonic() - began
    except RuntimeError as error:
        named_s = time.monotonic() - began
        found = {"error": f"{type(error).__name__}: {error}", "noticed_s": noticed_s, "named_s": named_s}
        Path(folder, str(collectives.rank())).write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("absent", "kind", "within_s"),
    [(1, signal.SIGSTOP, TIMEOUT_S + 1), (0, signal.SIGKILL, 5)],
    ids=["frozen", "killed"],
)
def test_the_ranks_that_are_left_name_the_one_that_is_not(
    ranks: Ranks, tmp_path: Path, absent: int, kind: signal.Signals, within_s: float
) -> None:
    """A killed rank is noticed within 5 s, a frozen one within the time-out and a second."""
    with pytest.raises(AssertionError, match=rf"rank {absent} of 3: di"):  # died, or did not answer
        ranks(3, wait_for_all, str(tmp_path), absent, kind, timeout_s=TIMEOUT_S)

    for rank in {0, 1, 2} - {absent}:
        found = json.loads((tmp_path / str(rank)).read_text())
        assert found["error"].startswith(f"RunError: rank {absent} of 3 did not answer")
        assert found["noticed_s"] < within_s
        assert found["named_s"] < found["noticed_s"] + RESPONSE_TIMEOUT_S + 1


def test_an_error_of_another_kind_goes_on_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), absent_named():
        raise RuntimeError("size mismatch")
