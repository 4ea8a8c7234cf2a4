import os
import subprocess
import sys
import threading
import time

import pytest

from cluster.processes import cpu_time
from cluster.processes.cpu_time import HERE, OTHERS, RAY, TRAINING, CpuTime, cpu_watch

BURN = """
import sys, time
while time.process_time() < 0.3: pass
print("done", flush=True)
sys.stdin.read()
"""


def test_the_time_of_a_grandchild_that_nobody_waits_for_is_counted() -> None:
    nested = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}]); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"done"
        times = CpuTime(os.getpid())
        times.look()
        assert times.by_kind()[OTHERS] >= 0.3
        before = times.by_kind()[OTHERS]
    finally:
        child.communicate(b"")
    times.look()
    assert times.by_kind()[OTHERS] >= before  # one that has ended keeps what it took


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (["ray::RayTrainWorker.execute"], TRAINING),
        (["ray::IDLE"], RAY),
        (["/x/site-packages/ray/core/src/ray/raylet/raylet", "--a"], RAY),
        (["python", "-c", "pass"], OTHERS),
    ],
)
def test_ray_s_processes_are_named_by_their_titles(line: list[str], kind: str) -> None:
    assert cpu_time.kind_of(line) == kind


def test_a_watch_counts_this_process_and_ends_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_time, "LOOK_EVERY_S", 0.01)
    with cpu_watch() as seconds:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
    assert seconds()[HERE] >= 0.05
    assert "cpu-time" not in {thread.name for thread in threading.enumerate()}
