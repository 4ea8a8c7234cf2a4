"""A program that saves snapshots on a file system of 900 KiB of its own, and fills it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.settings import ROOT


def check_full_disk(program: str, folder: Path) -> None:
    """Run a program that saves steps 1 and 2: the second is refused by name, and the first stands."""
    mount = f"mount -t tmpfs -o size=900k none {folder}"
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*apart, mount], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts in a namespace")
    command = f"{mount} && exec {sys.executable} -c '{program}' {folder}/snapshots"
    done = subprocess.run([*apart, command], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert "step-2: the disk is full, nothing was replaced; free some space" in message
    assert left == "1 ['last', 'step-1']"
