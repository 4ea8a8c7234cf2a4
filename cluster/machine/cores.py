"""How many cores this process may use."""

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def num_cores(quota: Path = _QUOTA) -> int:
    """Cores of the container's or the scheduler's share, not the machine's count; at least one.

    Args:
        quota: the control group's "microseconds-or-max period" (cgroup v2).
    """
    allowed = len(os.sched_getaffinity(0))
    try:
        most, period = quota.read_text(encoding="ascii").split()
        return allowed if most == "max" else max(1, min(allowed, int(most) // int(period)))
    except (OSError, ValueError):
        return allowed
