"""Run a command whose whole family ends with it, and with whoever started it, however that ends.

Started by its path with the standard library alone (``python -S supervise.py PARENT COMMAND…``): it stands between a
command of ours and a server whose own children would otherwise outlive both. What the server leaves behind becomes a
child of this process (Linux calls it a subreaper), so that nothing is missed, whatever session it has moved to.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

GRACE_S = 5.0
"""Time to end in order after SIGTERM; then SIGKILL."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True)


def supervised(command: list[str]) -> list[str]:
    """The command line that runs ``command`` under supervision of a child of this process."""
    return [sys.executable, "-S", __file__, str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> int:
    """Run ``command`` until it ends, SIGTERM or SIGINT asks for its end, or process ``parent`` is gone.
    Returns its exit code; 143 where it was asked to end.
    """
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:  # it was gone before the line above
        return 143
    child = subprocess.Popen(command, close_fds=False)  # what was handed to this process is for the command
    while not asked and child.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.2)
    code = 143 if asked else child.returncode
    _end_family()
    return code


def _end_family() -> None:
    """SIGTERM to all descendants, and SIGKILL to those that are left after a while."""
    for number in _family():
        _send(number, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while _collected():
        if time.monotonic() > deadline:
            for number in _family():
                _send(number, signal.SIGKILL)
        time.sleep(0.05)


def _collected() -> bool:
    """Take note of children that ended; whether there are any left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _family() -> list[int]:
    """Process numbers of all descendants."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            text = place.read_text(encoding="utf-8", errors="replace")
            parent = int(text.rpartition(")")[2].split()[1])  # the name before it may hold anything
            children.setdefault(parent, []).append(int(place.parent.name))
    family = children.get(os.getpid(), [])
    for number in family:  # it grows during the loop
        family += children.get(number, [])
    return family


def _send(number: int, what: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, what)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
