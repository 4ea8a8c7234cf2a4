"""Freed memory that stays: looked at in a process of its own, for the setting is the whole process's."""

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import numpy as np
from cluster.memory import keep_freed_memory

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
