"""Everything that wants a GPU, once: its tests and its benchmarks, each in a process of its own within its time.

    python -m benchmarks.gpu [--out DIR] [--only tests augment] [--dry-run]

What a part printed and the tables that it wrote are kept in DIR ($OUT, else outputs/gpu) whatever comes after it. The
whole takes less than nine minutes. Nothing but torch, numpy, pytest, scikit-learn and Triton is needed.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.apart import ROOT, run_apart

RESULTS = ROOT / "benchmarks" / "results"
SECONDS = 530.0
TAIL = 30
"""Lines of a part that did not end well, on stdout."""


@dataclass(frozen=True)
class Part:
    """A command and the most that it may take."""

    name: str
    command: tuple[str, ...]
    seconds: float


def gpu_tests() -> list[str]:
    """Files with tests for a GPU; others would want libraries that such a machine may lack."""
    return [
        str(path.relative_to(ROOT))
        for path in sorted(ROOT.glob("tests/**/test_*.py"))
        if "mark.gpu" in path.read_text()
    ]


def parts() -> list[Part]:
    """In the order of what is missed most; benchmarks without a GPU's way are left out."""
    python = sys.executable
    # The project's own options want plugins that such a machine may lack.
    options = ("-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=", "-p", "no:cacheprovider", "-q", "-ra")
    every = [
        Part("tests", (python, "-m", "pytest", *options, "-m", "gpu", "--durations=8", *gpu_tests()), 130),
        Part("augment", (python, "-m", "benchmarks.augment", "--gpu", "--seconds", "100"), 115),
        Part("step", (python, "-m", "benchmarks.step", "--gpu", "--seconds", "150"), 165),
        Part("loss", (python, "-m", "benchmarks.loss", "--gpu"), 60),
        Part("knn", (python, "-m", "benchmarks.knn", "--device", "cuda"), 45),
        Part("probes", (python, "-m", "benchmarks.probes", "--device", "cuda"), 60),
    ]
    return [part for part in every if "--device" not in part.command or _knows_device(part.name)]


def _knows_device(name: str) -> bool:
    return '"--device"' in (ROOT / "benchmarks" / f"{name}.py").read_text()


def run_parts(todo: Sequence[Part], folder: Path, results: Path, seconds: float) -> list[tuple[str, str, float]]:
    """Run one after the other and keep what each left.

    Args:
        todo: the parts.
        folder: for ``NAME.log`` and copies of the tables that a part wrote.
        results: where tables are written.
        seconds: of all; what is not begun by then is left out.

    Returns:
        Name, how it ended ("ok" if well) and seconds of each part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + seconds
    summary = []
    for part in todo:
        began, left = time.monotonic(), ends - time.monotonic()
        if left < 1:
            summary.append((part.name, "not begun: out of time", 0.0))
            continue
        before = _written(results)
        log = folder / f"{part.name}.log"
        _, ended = run_apart(list(part.command), min(part.seconds, left), log)
        for path, written in _written(results).items():
            if before.get(path) != written:
                shutil.copy2(path, folder)
        if ended:
            print(f"{part.name}: {ended}", *log.read_text(errors="replace").splitlines()[-TAIL:], sep="\n", flush=True)
        summary.append((part.name, ended or "ok", time.monotonic() - began))
        (folder / "summary.md").write_text(as_markdown(summary))
    return summary


def _written(folder: Path) -> dict[Path, int]:
    """When each table was written, nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.*")}


def as_markdown(summary: Sequence[tuple[str, str, float]]) -> str:
    """A line a part."""
    lines = ["| part | ended | s |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {ended} | {seconds:.0f} |" for name, ended, seconds in summary]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ROOT / "outputs" / "gpu")))
    parser.add_argument("--only", nargs="+", help="names of parts")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    asked = parser.parse_args()
    todo = [part for part in parts() if not asked.only or part.name in asked.only]
    if asked.dry_run:
        print(*(f"{part.seconds:4.0f} s  {' '.join(part.command)}" for part in todo), sep="\n")
        return 0
    summary = run_parts(todo, asked.out, RESULTS, asked.seconds)
    for path in sorted(asked.out.glob("*.md")):
        if path.name != "summary.md":
            print(path.read_text())
    print(as_markdown(summary))
    return int(any(ended != "ok" for _, ended, _ in summary))


if __name__ == "__main__":
    sys.exit(main())
