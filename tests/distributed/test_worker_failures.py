"""FAULTS 34: a rank that is frozen or gone is named by those that are left."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import collectives
from trainers.worker_failures import absent_named

pytestmark = pytest.mark.dist
TIMEOUT_S = 3.0
ROLL_CALL_S = 2.0
Ranks = Callable[..., list[Any]]


def wait_for_all(folder: str, absent: int, kind: int) -> None:
    collectives.all_reduce(torch.ones(1))
    if collectives.rank() == absent:
        os.kill(os.getpid(), kind)
    began = time.monotonic()
    try:
        with absent_named(roll_call_s=ROLL_CALL_S):
            for _ in range(3):
                collectives.all_reduce(torch.ones(1))
    except RuntimeError as error:
        text = f"{type(error).__name__}: {error}\n{time.monotonic() - began}"
        Path(folder, str(collectives.rank())).write_text(text)


@pytest.mark.parametrize(("absent", "kind"), [(1, signal.SIGSTOP), (0, signal.SIGKILL)], ids=["frozen", "killed"])
def test_the_ranks_that_are_left_name_the_one_that_is_not(
    ranks: Ranks, tmp_path: Path, absent: int, kind: signal.Signals
) -> None:
    with pytest.raises(AssertionError, match=rf"rank {absent} of 3: di"):  # died, or did not answer
        ranks(3, wait_for_all, str(tmp_path), absent, kind, timeout_s=TIMEOUT_S)

    for rank in {0, 1, 2} - {absent}:
        told, waited_s = (tmp_path / str(rank)).read_text().rsplit("\n", 1)
        assert told.startswith(f"RunError: rank {absent} of 3 did not answer")
        assert float(waited_s) < TIMEOUT_S + ROLL_CALL_S + 2


def test_an_error_of_another_kind_goes_on_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), absent_named():
        raise RuntimeError("size mismatch")
