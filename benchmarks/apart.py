"""Measuring in a process of its own that is given so much time; what it printed until then is kept."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run_apart(command: list[str], seconds: float, output: Path | None = None) -> tuple[str, str]:
    """Run a command with all its children until it ends or its time is up.

    Args:
        command: without a shell.
        seconds: until it and everything that it started is killed.
        output: file for stdout and stderr together; None to return them.

    Returns:
        What it printed, and how it ended: "" if well.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    target = subprocess.PIPE if output is None else output.open("w")
    error = subprocess.PIPE if output is None else subprocess.STDOUT
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=target, stderr=error, text=True, start_new_session=True
        )
        try:
            out, wrong = process.communicate(timeout=max(1.0, seconds))
            code = process.returncode
            ended = "" if code == 0 else f"exit code {code}" + (f": {wrong[-1500:]}" if wrong else "")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            ended = f"stopped after {seconds:.0f} s"
    finally:
        if output is not None:
            target.close()  # type: ignore[union-attr]  # the file
    return out or "", ended


def rows_apart(module: str, arguments: list[str], seconds: float) -> tuple[list[dict[str, Any]], str]:
    """The lines of JSON that ``python -m module`` printed, and how it ended."""
    out, ended = run_apart([sys.executable, "-m", module, *arguments], seconds)
    return [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")], ended
