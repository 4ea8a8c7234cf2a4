"""The report's figures, each as PNG for a tracker and as SVG for a page, in a light and a dark form."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.report.figures.canvas import DARK, LIGHT, Theme, canvas, legend, plain
from evaluation.report.figures.curves import equivariance_figure, projection_figure, robustness_figure
from evaluation.report.rows import intervals

LEFT_OUT = "random"
"""Only in tables; in a figure it would lie on the constant's."""
MAX_TAGS = 40
PAIRED = "percentiles of the paired clustered bootstrap"
OVER_TRACKS = "percentiles of the bootstrap over tracks"
MARKERS = {"trained": "o", "untrained": "s", "constant": "|"}


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
    light, dark = draw(LIGHT), draw(DARK)
    return Drawn(title, _render(light, "png", "white"), _render(light, "svg", "none"), _render(dark, "svg", "none"))


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
