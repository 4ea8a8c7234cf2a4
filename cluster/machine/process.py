"""This process: how many cores it may use, the memory that it keeps, and what it sets in its environment."""

import ctypes
import os
from pathlib import Path

from cluster.machine.scratch import cache_variables, replace_tmpdir

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
WAIT_POLICY = "OMP_WAIT_POLICY"
"""Threads that have done their part of a product sleep instead of spinning: beside one busy process two threads that
spin make a step ten times slower. torch's OpenMP (GNU's, or Intel's and LLVM's) reads it when it is loaded;
GOMP_SPINCOUNT and KMP_BLOCKTIME of a user's own still win."""
PASSIVE = "PASSIVE"
BLOCK_BYTES = 128 << 20
"""Larger blocks go back to the kernel as before: SampleCNN's step would need half as much again with them."""
KEPT_BYTES = 256 << 20
"""Free memory at the end of the heap above this goes back."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def num_cores(quota: Path = _QUOTA) -> int:
    """Cores of the container's or the scheduler's share (``quota`` of cgroup v2), not the machine's count; at least
    one.
    """
    allowed = len(os.sched_getaffinity(0))
    try:
        most, period = quota.read_text(encoding="ascii").split()
        return allowed if most == "max" else max(1, min(allowed, int(most) // int(period)))
    except (OSError, ValueError):
        return allowed


def prepare() -> None:
    """Set the environment of this process and those that it starts before torch reads it; what a user has set stays."""
    os.environ.setdefault(WAIT_POLICY, PASSIVE)
    os.environ.update(cache_variables(os.environ))
    replace_tmpdir()


def keep_freed_memory() -> None:
    """Let glibc keep the blocks that this process frees, for the next of their size.

    It gives back what is larger than 32 MiB, and whatever lies free at the end of its heap, and the kernel then clears
    every page anew: on a CPU a fifth to a third of a small network's training went into that. Other allocators are left
    alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # An older glibc takes no more than 32 MiB; a trim threshold by itself would end its own adapting and leave 128 KiB.
    if mallopt is not None and (mallopt(_MMAP_THRESHOLD, BLOCK_BYTES) or mallopt(_MMAP_THRESHOLD, BLOCK_BYTES // 4)):
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
