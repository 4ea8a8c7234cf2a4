"""The code of release 0.1 beside this one, and all CPU-seconds of a command: what later code is measured against.

0.1 was never tagged; its last commit is `BASE`. It is checked out as a git worktree in a temporary folder, and runs in
this environment.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cluster.processes.cpu_time import LOOK_EVERY_S, CpuTime

BASE = "7657548"
"""The last commit of 0.1."""
ROOT = Path(__file__).resolve().parents[1]
MAIN = "import sys; sys.argv[0] = 'counterpoint'; from counterpoint import main; sys.exit(main())"
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of linux/prctl.h."""


class Cost(NamedTuple):
    """Of a command with everything that it started."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    """Of its largest process."""
    output: str


@contextmanager
def base_tree() -> Iterator[Path]:
    """0.1's checkout, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="counterpoint-0.1-") as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), BASE], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def counterpoint(tree: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run the command line of a checkout to its end.

    Raises:
        RuntimeError: if it fails, with the end of what it printed.
    """
    return run([sys.executable, "-c", MAIN, *arguments], tree, environment)


def measured(call: str, module: str, tree: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """What ``measure`` of a benchmark prints as JSON, in a process of its own on a checkout's code.

    Args:
        call: such as ``measure("0.1")``.
        module: the benchmark, of this code; all other modules are the checkout's.
        tree: the checkout.
        environment: beside this process's.
    """
    script = f"import sys; sys.path.append({str(ROOT)!r}); from {module} import measure; {call}"
    found: dict[str, float] = json.loads(run([sys.executable, "-c", script], tree, environment).output.splitlines()[-1])
    return found


def run(command: Sequence[str], tree: Path, environment: Mapping[str, str], *, may_fail: bool = False) -> Cost:
    """Run Python on a checkout's code, and count whatever it starts, whoever waits for it.

    Raises:
        RuntimeError: if it fails, unless it may.
    """
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree), **environment}, stdout=output, stderr=output
        )
        times = CpuTime(os.getpid())
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            times.look()
            time.sleep(min(LOOK_EVERY_S, 0.02 + (time.perf_counter() - began) / 20))
        wall_s = time.perf_counter() - began
        times.look()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        _wait_for_orphans(times)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode and not may_fail:
        raise RuntimeError(f"{command} in {tree} ended with {process.returncode}: {text[-3000:]}")
    return Cost(wall_s, sum(times.by_kind().values()), usage.ru_maxrss / 1024, text)


def _wait_for_orphans(times: CpuTime, seconds: float = 30) -> None:
    """Those of a service end a moment after it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        times.look()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(LOOK_EVERY_S)
