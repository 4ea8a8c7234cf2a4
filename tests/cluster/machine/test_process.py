"""Freed memory that stays: looked at in a process of its own, for the setting is the whole process's."""

import ctypes
import subprocess
import sys

import pytest

from cluster.machine.process import keep_freed_memory

SCRIPT = """
import resource
import numpy as np
from cluster.machine.process import keep_freed_memory

def faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(megabytes << 17)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = [faults(64) for _ in range(3)]
keep_freed_memory()
faults(64)
print(min(first), max(faults(64) for _ in range(3)), faults(256))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's setting")
def test_a_block_that_was_freed_costs_no_page_the_next_time_but_a_huge_one_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, after, huge = map(int, done.stdout.split())
    assert after < before / 10
    assert huge >= before


@pytest.mark.parametrize(
    ("most", "limits"),
    [(1 << 40, [(-3, 128), (-1, 256)]), (32 << 20, [(-3, 128), (-3, 32), (-1, 256)]), (0, [(-3, 128), (-3, 32)])],
)
def test_a_glibc_that_takes_less_gets_less_and_one_that_takes_nothing_is_left_alone(
    most: int, limits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            calls.append((parameter, value >> 20))
            return int(value <= most or parameter == -1)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    keep_freed_memory()
    assert calls == limits
