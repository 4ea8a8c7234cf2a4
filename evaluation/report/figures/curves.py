"""Figures of what is measured on request: robustness, equivariance, projection."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.analyses.robustness import CLEAN, SEVERITY
from evaluation.report.figures.canvas import Theme, canvas, legend, plain

PANELS_ACROSS = 3
"""Models of a projection side by side; the spaces of an encoder fill further rows."""
MAX_COLOURS = 12
"""Classes with a colour of their own; the rest share the grid's."""


def robustness_figure(robustness: Mapping[str, Any], theme: Theme) -> Figure:
    """A panel a metric: the relative change of every model, a line over the severities and a dot a corruption."""
    figure, panels = canvas(3.6, theme, len(robustness))
    for axes, (metric, by_model) in zip(panels, robustness.items(), strict=True):
        for number, (model, found) in enumerate(by_model.items()):
            names = [name for name in found if name != CLEAN]  # its change is none
            ends = [[found[name]["change"][end] for name in names] for end in ("value", "low", "high")]
            change = np.array(ends, np.float64)  # None, undefined, becomes NaN and is not drawn
            spread = np.clip([change[0] - change[1], change[2] - change[0]], 0, None)
            colour, x = theme.colour(model, number), np.arange(len(names)) + 0.12 * number
            axes.errorbar(x, 100 * change[0], 100 * spread, fmt="o", color=colour, label=model, markersize=4)
            joined = [place for place, name in enumerate(names) if name.startswith(SEVERITY)]
            axes.plot(x[joined], 100 * change[0][joined], color=colour)
            axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=45, ha="right")
        axes.axhline(0, color=theme.ink, linewidth=0.8)
        axes.set_title(plain(metric))
    panels[0].set_ylabel("change, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, labelcolor=theme.ink)
    return figure


def equivariance_figure(curves: Mapping[str, Any], theme: Theme) -> Figure:
    """Distance against semitones and against rate; the dotted line is the distance between different clips."""
    shown = [axis for axis in ("semitones", "rate") if curves[axis]]
    figure, panels = canvas(3.4, theme, len(shown))
    for axes, axis in zip(panels, shown, strict=True):
        for number, (model, points) in enumerate(curves[axis].items()):
            colour = theme.colour(model, number)
            rows = [[point[name] for point in points] for name in ("x", "value", "low", "high")]
            x, value, low, high = np.array(rows, np.float64)  # None, undefined, becomes NaN and is not drawn
            axes.plot(x, value, "o-", color=colour, label=model, markersize=4)
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.axhline(curves["between_clips"][model], color=colour, linestyle=":", linewidth=1)
        axes.set_xlabel({"semitones": "semitones", "rate": "tempo ratio"}[axis])
    panels[0].set_ylabel("cosine distance")
    legend(panels[0], theme)
    return figure


def projection_figure(projection: Mapping[str, Any], theme: Theme) -> Figure:
    """A panel a model; of notes the pitch class is a hue of the circle, and the octave the size of a dot."""
    figure, panels = canvas(4.2, theme, len(projection["points"]), across=PANELS_ACROSS)
    colour, octave = np.array(projection["colour"]), np.array(projection["octave"])
    notes, size = bool((octave >= 0).any()), np.where(octave < 0, 14, _size(octave))
    codes, counts = np.unique(colour, return_counts=True)
    named = codes[np.argsort(-counts, kind="stable")][:MAX_COLOURS]
    for axes, (model, points) in zip(panels, projection["points"].items(), strict=True):
        xy = np.array(points)
        rest = ~np.isin(colour, named)
        axes.scatter(xy[rest, 0], xy[rest, 1], s=size[rest], color=theme.grid, linewidths=0)
        for number, code in enumerate(sorted(named.tolist())):
            here = colour == code
            label = plain(projection["names"][int(code)]) if projection["names"] else f"{code:g}"
            hue = colormaps["hsv"](code / 12) if notes else colormaps["tab20"](number)
            axes.scatter(xy[here, 0], xy[here, 1], s=size[here], color=hue, label=label, linewidths=0)
        axes.set_title(model)
        axes.set_xticks([])
        axes.set_yticks([])
    for one in np.unique(octave[[octave.argmin(), octave.argmax()]]) if notes else ():
        panels[-1].scatter([], [], s=_size(one), color=theme.ink, label=f"octave {one}", linewidths=0)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=theme.ink)
    return figure


def _size(octave: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Of a dot, in square points."""
    return 6 + 6 * np.clip(octave, 0, 8)
