"""The quickstart from the command to its end, 0.1 beside it: CPU-seconds of all processes, and the clock.

    python -m benchmarks.quickstart [--rounds 1]

By turns, each in a fresh folder. CPU-seconds decide, as machines are shared; the clock is the smallest of the rounds.
Byte code is cached, as `make quickstart` has it.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.base import ROOT, base_tree, counterpoint

RESULTS = Path(__file__).parent / "results"
SHOWN = ("tags/auroc", "tags/ap", "key/weighted@10", "tempo/acc1@10")


def measure(tree: Path) -> dict[str, Any]:
    """One quickstart: what it cost, and the table's claim."""
    with tempfile.TemporaryDirectory(prefix="counterpoint-quickstart-") as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        words = ["quickstart", "--out", f"{folder}/out"]
        cost = counterpoint(tree, words, {"PYTHONDONTWRITEBYTECODE": "", "MLFLOW_TRACKING_URI": store})
        report = json.loads((Path(folder) / "out/report.json").read_text(encoding="utf-8"))
    metrics = {
        name: {key: report["metrics"][name][key] for key in ("value", "low", "high")}
        | {"untrained": report["baselines"]["untrained"][name]["value"]}
        for name in SHOWN
    }
    return {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "peak_mb": cost.peak_mb, "metrics": metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"0.1": [], "now": []}
    place = RESULTS / f"quickstart-{platform.machine()}"
    with base_tree() as base:
        for _ in range(asked.rounds):
            for way, tree in (("now", ROOT), ("0.1", base)):
                found[way].append(measure(tree))
                print(way, found[way][-1], flush=True)
                place.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# The quickstart, two shared cores, all processes",
        "",
        f"`python -m benchmarks.quickstart --rounds {asked.rounds}`, by turns; median CPU-s, smallest clock.",
        "",
        "| code | CPU-s | clock, s | driver, MB | " + " | ".join(f"{name} (untrained)" for name in SHOWN) + " |",
        "|---|---:|---:|---:|" + "---|" * len(SHOWN),
    ]
    for way, rows in found.items():
        cells = [
            f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}] ({m['untrained']:.3f})"
            for m in rows[0]["metrics"].values()
        ]
        cpu_s, wall_s = median(row["cpu_s"] for row in rows), min(row["wall_s"] for row in rows)
        peak = max(row["peak_mb"] for row in rows)
        lines.append(f"| {way} | {cpu_s:.0f} | {wall_s:.0f} | {peak:,.0f} | {' | '.join(cells)} |")
    place.with_suffix(".md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
