"""Figures of what is measured on request: robustness, equivariance, projection."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from evaluation.canvas import Theme, canvas, legend, plain

MAX_COLOURS = 12
"""Classes with a colour of their own; the rest share the grid's."""


def robustness_figure(robustness: Mapping[str, Any], theme: Theme) -> Figure:
    """A panel a metric: the relative change of every model under every condition."""
    figure, panels = canvas(3.6, theme, len(robustness))
    for axes, (metric, by_model) in zip(panels, robustness.items(), strict=True):
        for number, (model, found) in enumerate(by_model.items()):
            names = list(found)
            ends = [[found[name]["change"][end] for name in names] for end in ("value", "low", "high")]
            change = np.array(ends, np.float64)  # None, undefined, becomes NaN and is not drawn
            spread = np.clip([change[0] - change[1], change[2] - change[0]], 0, None)
            colour = theme.colour(model, number)
            axes.errorbar(range(len(names)), 100 * change[0], 100 * spread, fmt="o-", color=colour, label=model)
            axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_title(metric)
    panels[0].set_ylabel("change, %")
    legend(panels[0], theme)
    panels[0].set_title(panels[0].get_title(), y=1.12)
    return figure


def equivariance_figure(curves: Mapping[str, Any], theme: Theme) -> Figure:
    """Distance against semitones and against rate; the dotted line is the distance between different clips."""
    shown = [axis for axis in ("semitones", "rate") if curves[axis]]
    figure, panels = canvas(3.4, theme, len(shown))
    for axes, axis in zip(panels, shown, strict=True):
        for number, (model, points) in enumerate(curves[axis].items()):
            colour = theme.colour(model, number)
            x, value, low, high = ([point[name] for point in points] for name in ("x", "value", "low", "high"))
            axes.plot(x, value, "o-", color=colour, label=model, markersize=4)
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.axhline(curves["between_clips"][model], color=colour, linestyle=":", linewidth=1)
        axes.set_xlabel({"semitones": "semitones", "rate": "tempo ratio"}[axis])
    panels[0].set_ylabel("cosine distance")
    legend(panels[0], theme)
    return figure


def projection_figure(projection: Mapping[str, Any], theme: Theme) -> Figure:
    """A panel a model; the octave is the size of a dot."""
    figure, panels = canvas(4.2, theme, len(projection["points"]))
    colour, octave = np.array(projection["colour"]), np.array(projection["octave"])
    size = np.where(octave < 0, 14, 6 + 6 * np.clip(octave, 0, 8))
    codes, counts = np.unique(colour, return_counts=True)
    named = codes[np.argsort(-counts, kind="stable")][:MAX_COLOURS]
    for axes, (model, points) in zip(panels, projection["points"].items(), strict=True):
        xy = np.array(points)
        rest = ~np.isin(colour, named)
        axes.scatter(xy[rest, 0], xy[rest, 1], s=size[rest], color=theme.grid, linewidths=0)
        for number, code in enumerate(sorted(named.tolist())):
            here = colour == code
            label = plain(projection["names"][int(code)]) if projection["names"] else f"{code:g}"
            axes.scatter(
                xy[here, 0], xy[here, 1], s=size[here], color=colormaps["tab20"](number), label=label, linewidths=0
            )
        axes.set_title(model)
        axes.set_xticks([])
        axes.set_yticks([])
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=theme.ink)
    return figure
