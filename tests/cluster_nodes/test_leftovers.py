"""A test run that was killed leaves nothing for good."""

import signal
import subprocess
from collections.abc import Callable


def test_the_next_run_clears_the_nodes_of_a_killed_one(clear: Callable[[], list[str]]) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    space = f"counterpoint-test-{dead.pid}-one"
    subprocess.run(["ip", "netns", "add", space], check=True)
    node = subprocess.Popen(
        ["ip", "netns", "exec", space, "sh", "-c", "echo up; exec sleep 600"], stdout=subprocess.PIPE
    )
    assert node.stdout is not None
    node.stdout.readline()

    assert space not in clear()
    assert node.wait(10) == -signal.SIGKILL
    node.stdout.close()
