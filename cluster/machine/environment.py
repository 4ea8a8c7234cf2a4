"""What a process of ours sets in its environment before torch and others read it; what a user has set stays."""

import os

from cluster.machine.scratch import cache_variables, replace_tmpdir

WAIT_POLICY = "OMP_WAIT_POLICY"
"""Threads that have done their part of a product sleep instead of spinning: beside one busy process two threads that
spin make a step ten times slower. torch's OpenMP (GNU's, or Intel's and LLVM's) reads it when it is loaded;
GOMP_SPINCOUNT and KMP_BLOCKTIME of a user's own still win."""
PASSIVE = "PASSIVE"


def prepare() -> None:
    """Set them for this process and those that it starts."""
    os.environ.setdefault(WAIT_POLICY, PASSIVE)
    os.environ.update(cache_variables(os.environ))
    replace_tmpdir()
