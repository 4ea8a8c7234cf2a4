"""The report's figures, each as PNG for a tracker and as SVG for a page, in light colours and in dark ones."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.analyses.robustness import CLEAN, SEVERITY
from evaluation.report.canvas import LIGHT, Theme, canvas, in_dark, legend, plain
from evaluation.report.rows import intervals

PANELS_ACROSS = 3
"""Models of a projection side by side; the spaces of an encoder fill further rows."""
MAX_COLOURS = 12
"""Classes with a colour of their own; the rest share the grid's."""
LEFT_OUT = "random"
"""Only in tables; in a figure it would lie on the constant's."""
MAX_TAGS = 40
PAIRED = "percentiles of the paired clustered bootstrap"
OVER_TRACKS = "percentiles of the bootstrap over tracks"
MARKERS = {"trained": "o", "untrained": "s", "constant": "|"}


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


@dataclass(frozen=True)
class Drawn:
    """One figure in its three forms."""

    title: str
    png: bytes
    light_svg: bytes
    dark_svg: bytes


def draw_figures(tree: Mapping[str, Any]) -> dict[str, Drawn]:
    """Figures by name: ``metrics`` always, ``TASK_ap`` of tags, ``TASK_accuracy`` of swaps, and what was asked for."""
    drawn = {
        "metrics": _in_all_forms(
            f"Metrics beside their baselines; {intervals(tree)}{_corrected_mark(tree)}", partial(_metrics, tree)
        )
    }
    for name, task in tree["tasks"].items():
        metric = "ap" if "ap" in task["by_tag"] else next(iter(task["by_tag"]), None)
        if metric is not None:
            title = "Average precision by tag" if metric == "ap" else f"{plain(metric).capitalize()} by category"
            drawn[f"{name}_{metric}"] = _in_all_forms(f"{title}, {name}", partial(_tags, task["by_tag"][metric]))
    if "robustness" in tree:
        title = f"Change under corruption, of the clean value; bars: {tree['level']:.0%} intervals, {PAIRED}"
        drawn["robustness"] = _in_all_forms(title, partial(robustness_figure, tree["robustness"]))
    if "equivariance" in tree:
        title = f"Cosine distance from the same music unmoved; bands: {tree['level']:.0%} intervals, {OVER_TRACKS}"
        drawn["equivariance"] = _in_all_forms(title, partial(equivariance_figure, tree["equivariance"]))
    if "projection" in tree:
        notes = max(tree["projection"]["octave"]) >= 0
        title = f"Test clips by t-SNE, {tree['projection']['task']}" + (
            ": the pitch class is the colour, the octave the size" if notes else ""
        )
        drawn["projection"] = _in_all_forms(title, partial(projection_figure, tree["projection"]))
    return drawn


def _in_all_forms(title: str, draw: Callable[[Theme], Figure]) -> Drawn:
    light = draw(LIGHT)
    svg = _render(light, "svg", "none")
    return Drawn(title, _render(light, "png", "white"), svg, in_dark(svg))


def _render(figure: Figure, form: str, background: str) -> bytes:
    out = io.BytesIO()
    # Text as paths, so that no label is markup; a fixed salt and no date, so that equal numbers give equal files.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "counterpoint"}):
        metadata: dict[str, Any] = {"Date": None} if form == "svg" else {}
        figure.savefig(out, format=form, dpi=120, facecolor=background, metadata=metadata)
    return out.getvalue()


def _corrected_mark(tree: Mapping[str, Any]) -> str:
    return " (open)" if any("corrected" in row for row in tree["metrics"].values()) else ""


def _metrics(tree: Mapping[str, Any], theme: Theme) -> Figure:
    """A dot and an interval for every metric and model; an open circle is the bias-corrected value."""
    tables = {"trained": tree["metrics"], **tree["baselines"]}
    models = [model for model in tables if model != LEFT_OUT]
    names = list(tree["metrics"])
    figure, (axes,) = canvas(0.36 * len(names) + 1.1, theme)
    for number, model in enumerate(models):
        shift = 0.5 * (number / max(1, len(models) - 1) - 0.5)
        rows = [(place, tables[model][name]) for place, name in enumerate(names)]
        rows = [(place, row) for place, row in rows if row["value"] is not None and row["low"] is not None]
        marked = [(row["corrected"], place + shift) for place, row in rows if "corrected" in row]
        if marked:
            axes.plot(
                *zip(*marked, strict=True), "o", color=theme.colour(model, number), fillstyle="none", markersize=8
            )
        y, x = [place + shift for place, _ in rows], [row["value"] for _, row in rows]
        # A percentile interval of a skewed metric can leave its value just outside.
        below = [max(0.0, row["value"] - row["low"]) for _, row in rows]
        above = [max(0.0, row["high"] - row["value"]) for _, row in rows]
        axes.errorbar(
            x, y, xerr=[below, above], fmt=MARKERS.get(model, "D"), color=theme.colour(model, number), label=model,
            markersize=5, elinewidth=1.6, markeredgewidth=1.6,
        )  # fmt: skip
    _label_rows(axes, names)
    legend(axes, theme)
    return figure


def _tags(by_model: Mapping[str, Mapping[str, float]], theme: Theme) -> Figure:
    """Average precision of every tag, best first, the models joined to show the gain."""
    names = sorted(by_model["trained"], key=lambda tag: -by_model["trained"][tag])[:MAX_TAGS]
    figure, (axes,) = canvas(0.24 * len(names) + 1.1, theme)
    for place, name in enumerate(names):
        ends = [by_model[model][name] for model in ("untrained", "trained") if model in by_model]
        axes.plot(ends, [place] * len(ends), color=theme.grid, linewidth=3, solid_capstyle="round", zorder=1)
    for number, model in enumerate(model for model in by_model if model != LEFT_OUT):
        x, colour = [by_model[model][name] for name in names], theme.colour(model, number)
        axes.plot(x, range(len(names)), MARKERS.get(model, "D"), color=colour, label=model, markersize=5)
    _label_rows(axes, names)
    legend(axes, theme)
    return figure


def _label_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(min(0.0, low), max(1.0, high))
