"""The double dissociation of docs/loev.md as a picture, from what ``counterpoint study evidence_loev`` measured.

python -m benchmarks.loev_figure DIR/study.json docs/images/loev.png
"""

import argparse
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from evaluation.report.canvas import LIGHT, canvas

PANELS = {"neighbours in the same or a related key": "key@10", "neighbours at the same tempo": "tempo acc1@10"}
"""What a panel shows, and its column of the study."""
BARS = {
    "all-invariant": ("both", ""),
    "sound\n(invariant)": ("LOEV++", " in invariant"),
    "key\n(pitch)": ("LOEV++", " in pitch"),
    "tempo\n(stretch)": ("LOEV++", " in stretch"),
}
"""A bar's name; its row, and what its column ends in."""


def draw(tree: Mapping[str, Any]) -> bytes:
    """A panel for key and one for tempo: one network without spaces, and the three spaces of another; a PNG."""
    rows = {row["name"]: row for row in tree["rows"]}
    figure, panels = canvas(3.2, LIGHT, len(PANELS))
    for axes, (title, column) in zip(panels, PANELS.items(), strict=True):
        _panel(axes, rows, column)
        axes.set_title(title, fontsize=10, color=LIGHT.ink)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150, facecolor="white")
    return out.getvalue()


def _panel(axes: Axes, rows: Mapping[str, Any], column: str) -> None:
    found = [rows[row]["values"][column + ending] for row, ending in BARS.values()]
    colours = [LIGHT.models["constant"], *([LIGHT.models["trained"]] * (len(BARS) - 1))]
    values = [one["value"] for one in found]
    ends = [[one["value"] - one["low"] for one in found], [one["high"] - one["value"] for one in found]]
    axes.bar(range(len(found)), values, color=colours, width=0.65)
    axes.errorbar(range(len(found)), values, ends, fmt="none", ecolor=LIGHT.ink, capsize=3, linewidth=1)
    axes.set_xticks(range(len(found)), list(BARS), fontsize=8)
    if "untrained" in rows:
        chance = rows["untrained"]["values"][column]["value"]
        axes.axhline(chance, color=LIGHT.models["untrained"], linestyle="--", linewidth=1)
        axes.text(
            *(len(found) - 0.5, chance, "untrained"),
            ha="right",
            va="center",
            fontsize=8,
            color=LIGHT.models["untrained"],
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


def main() -> None:
    """Read a study and write the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("picture", type=Path)
    asked = parser.parse_args()
    asked.picture.write_bytes(draw(json.loads(asked.study.read_text())))


if __name__ == "__main__":
    main()
