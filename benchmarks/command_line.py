"""What a person waits for before anything is computed: help, refusals, `doctor`, `import counterpoint`; 0.1 beside it.

    python -m benchmarks.command_line [--rounds 3]

CPU-seconds of the command with everything that it starts, by turns, the smallest of the rounds; byte code is cached,
and the first run of each is shown beside them. `import counterpoint` is what it adds to starting Python.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

from benchmarks.base import MAIN, ROOT, base_tree, run

RESULTS = Path(__file__).parent / "results"
PYTHON = {"python, nothing imported": "pass", "import counterpoint": "import counterpoint"}
COMMANDS: dict[str, list[str]] = {
    "--help": ["--help"],
    **{
        f"{name} --help": [*name.split(), "--help"]
        for name in ("pretrain", "evaluate", "embed", "shards build", "sweep")
    },
    "a misspelt key of pretrain": ["pretrain", "conf/pretrain/quickstart.yaml", "loss.temprature=1"],
    "a misspelt key of sweep": ["sweep", "conf/sweep/quickstart.yaml", "sweep.trails=4"],
    "a preset that is not there": ["pretrain", "conf/pretrain/quickstat.yaml"],
    "doctor": ["doctor"],
}
GOALS = {"--help": 0.3, "a misspelt key of pretrain": 1.0, "a misspelt key of sweep": 1.0} | {
    "a preset that is not there": 1.0,
    "import counterpoint": 0.05,
}


def cpu_s(tree: Path, script: str, arguments: list[str]) -> float:
    """Of one run; a refusal is what some of them are about."""
    return run([sys.executable, "-c", script, *arguments], tree, {"PYTHONDONTWRITEBYTECODE": ""}, may_fail=True).cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with base_tree() as base:
        for _ in range(asked.rounds + 1):  # the first compiles, and is shown apart
            for name, script in PYTHON.items():
                for way, tree in (("0.1", base), ("now", ROOT)):
                    found.setdefault(name, {}).setdefault(way, []).append(cpu_s(tree, script, []))
            for name, words in COMMANDS.items():
                for way, tree in (("0.1", base), ("now", ROOT)):
                    found.setdefault(name, {}).setdefault(way, []).append(cpu_s(tree, MAIN, words))
    bare = {way: min(times[1:]) for way, times in found["python, nothing imported"].items()}
    lines = [
        "# CPU-seconds of the command line, 2 shared cores",
        "",
        "`python -m benchmarks.command_line`; smallest of the rounds by turns, the first run in brackets.",
        "",
        "| command | 0.1 | now | goal |",
        "|---|---:|---:|---:|",
    ]
    for name, ways in found.items():
        less = bare if name == "import counterpoint" else {"0.1": 0.0, "now": 0.0}
        cells = [f"{max(0.0, min(ways[w][1:]) - less[w]):.2f} ({ways[w][0]:.2f})" for w in ("0.1", "now")]
        goal = GOALS.get(name, 0.5 if name.endswith("--help") else None)
        lines.append(f"| {name} | {' | '.join(cells)} | {'–' if goal is None else goal} |")
    place = RESULTS / f"command_line-{platform.machine()}"
    place.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    place.with_suffix(".md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
