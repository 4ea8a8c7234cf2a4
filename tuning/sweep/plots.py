"""Three pictures of a sweep: how the best grew, which trials went where, what mattered."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.report.canvas import LIGHT, canvas, plain
from tuning.sweep.space import Choice, Distribution, LogUniform, Space

Row = Mapping[str, Any]
MARKS = {"done": ("o", LIGHT.models["trained"]), "stopped": ("v", LIGHT.models["constant"]), "failed": ("x", "#b02c55")}


def history(rows: Sequence[Row], metric: str) -> Figure:
    """The objective of every trial by number, and the best so far; stopped and failed ones stand below."""
    figure, (axes,) = canvas(3.2, LIGHT)
    evaluated = [(row["number"], row[metric]) for row in rows if row[metric] is not None]
    low = min((value for _, value in evaluated), default=0.0)
    span = max((value for _, value in evaluated), default=1.0) - low or 1.0
    for state, (mark, colour) in MARKS.items():
        here = [row for row in rows if row["state"] == state]
        heights = [row[metric] if row[metric] is not None else low - 0.15 * span for row in here]
        if here:
            numbers = [row["number"] for row in here]
            axes.scatter(numbers, heights, marker=mark, color=colour, label=f"{state} ({len(here)})")
    if len(evaluated) < len(rows):
        axes.axhline(low - 0.15 * span, color=LIGHT.grid, linewidth=6, zorder=0)
        axes.text(-0.5, low - 0.09 * span, "not evaluated", va="center", ha="left", fontsize=8, color=LIGHT.ink)
        axes.set_xlim(-0.7, len(rows) - 0.3)
    if evaluated:
        best = np.maximum.accumulate([value for _, value in evaluated])
        ends, heights = [*(n for n, _ in evaluated), len(rows) - 1], [*best, best[-1]]
        axes.step(ends, heights, where="post", color=LIGHT.models["untrained"], label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{plain(metric)}, validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, labelcolor=LIGHT.ink)
    return figure


def parallel(rows: Sequence[Row], space: Space, metric: str) -> Figure:
    """A line a trial through every path's axis; evaluated ones coloured by the objective, stopped ones grey."""
    figure, (axes,) = canvas(4.2, LIGHT)
    paths = list(space)
    evaluated = [row for row in rows if row[metric] is not None]
    scale = Normalize(*_ends([row[metric] for row in evaluated]))
    colours = ScalarMappable(scale, "viridis")
    lines: dict[bool, list[list[tuple[int, float]]]] = {True: [], False: []}
    for row in sorted(rows, key=lambda row: -1.0 if row[metric] is None else row[metric]):
        heights = [_height(space[path], row[path]) for path in paths]
        heights += [] if row[metric] is None else [scale(row[metric])]
        lines[row[metric] is not None].append(list(enumerate(heights)))
    axes.add_collection(LineCollection(lines[False], colors=LIGHT.models["constant"], linewidths=0.6, alpha=0.6))
    inks = colours.to_rgba(np.sort([row[metric] for row in evaluated]))
    axes.add_collection(LineCollection(lines[True], colors=inks, linewidths=1.6, zorder=2.5))
    _scales(axes, space, paths)
    names = [plain(path.replace(".", ".\n", 1)) for path in paths]
    axes.set_xticks(range(len(paths) + 1), [*names, plain(metric)], fontsize=7 if len(paths) < 9 else 5)
    axes.tick_params(axis="x", rotation=0 if len(paths) < 9 else 60)
    axes.set_yticks([])
    axes.set_ylim(-0.12, 1.12)
    axes.set_xlim(-0.3, len(paths) + 0.3)
    bar = figure.colorbar(colours, ax=axes, pad=0.01, fraction=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=LIGHT.ink, length=0)
    return figure


def importance(shares: Mapping[str, float], metric: str, evaluated: int) -> Figure:
    """A bar a path."""
    figure, (axes,) = canvas(1.2 + 0.3 * len(shares), LIGHT)
    paths = list(shares)[::-1]
    axes.barh(paths, [shares[path] for path in paths], color=LIGHT.models["trained"], height=0.6)
    axes.set_xlabel(f"share of the variance of {plain(metric)} over {evaluated} evaluated trials (fANOVA)")
    axes.set_xlim(0, 1)
    return figure


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _height(distribution: Distribution, value: Any) -> float:
    """Where a value stands between the ends of its distribution, in [0, 1]."""
    if isinstance(distribution, Choice):
        return distribution.values.index(value) / (len(distribution.values) - 1)
    low, high, here = float(distribution.low), float(distribution.high), float(value)
    if isinstance(distribution, LogUniform):
        low, high, here = np.log(low), np.log(high), np.log(here)
    return (here - low) / (high - low)


def _scales(axes: Axes, space: Space, paths: Sequence[str]) -> None:
    """The ends of every axis, or each value of a choice, beside it."""
    for place, path in enumerate(paths):
        distribution = space[path]
        axes.plot([place, place], [0, 1], color=LIGHT.ink, linewidth=0.8)
        values = distribution.values if isinstance(distribution, Choice) else (distribution.low, distribution.high)
        for value in values:
            height = _height(distribution, value)
            text = f"{value:g}" if isinstance(value, float) else str(value)
            inside = 0 < height < 1
            side = "center" if inside else "bottom" if height == 1 else "top"
            shift = 0.0 if inside else 0.02 if height == 1 else -0.02
            align = "left" if inside else "center"
            axes.text(place, height + shift, f" {plain(text)}", va=side, ha=align, fontsize=7, color=LIGHT.ink)
