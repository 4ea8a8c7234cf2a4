"""The report's figures, each as PNG for a tracker and as SVG for a page, in a light and a dark form."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MODELS = ("trained", "untrained", "constant")
MAX_TAGS = 40


@dataclass(frozen=True)
class Theme:
    """Colours on one background."""

    ink: str
    grid: str
    models: Mapping[str, str]


LIGHT = Theme("#1f2430", "#d9dce3", {"trained": "#2257c4", "untrained": "#c2611f", "constant": "#7b8290"})
DARK = Theme("#e6e8ee", "#3a4050", {"trained": "#7fa8ff", "untrained": "#f0a26b", "constant": "#9aa1b0"})
MARKERS = {"trained": "o", "untrained": "s", "constant": "|"}


@dataclass(frozen=True)
class Drawn:
    """One figure in its three forms."""

    title: str
    png: bytes
    light_svg: bytes
    dark_svg: bytes


def draw_figures(tree: Mapping[str, Any]) -> dict[str, Drawn]:
    """Figures by name: ``metrics`` always, ``TASK_ap`` for a probe of tags."""
    drawn = {"metrics": _in_all_forms("Metrics beside their baselines", partial(_metrics, tree))}
    tagged = {name: task["by_tag"]["ap"] for name, task in tree["tasks"].items() if task["by_tag"]}
    for name, by_model in tagged.items():
        title = f"Average precision by tag, {name}"
        drawn[f"{name}_ap"] = _in_all_forms(title, partial(_tags, by_model))
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


def _metrics(tree: Mapping[str, Any], theme: Theme) -> Figure:
    """A dot and an interval for every metric and model."""
    tables = {"trained": tree["metrics"], **tree["baselines"]}
    names = list(tree["metrics"])
    figure, axes = _canvas(0.36 * len(names) + 1.1, theme)
    for shift, model in zip((-0.18, 0.0, 0.18), MODELS, strict=True):
        rows = [(place, tables[model][name]) for place, name in enumerate(names) if model in tables]
        rows = [(place, row) for place, row in rows if row["value"] is not None and row["low"] is not None]
        y, x = [place + shift for place, _ in rows], [row["value"] for _, row in rows]
        # A percentile interval of a skewed metric can leave its value just outside.
        below = [max(0.0, row["value"] - row["low"]) for _, row in rows]
        above = [max(0.0, row["high"] - row["value"]) for _, row in rows]
        axes.errorbar(
            x, y, xerr=[below, above], fmt=MARKERS[model], color=theme.models[model], label=model, markersize=5,
            elinewidth=1.6, markeredgewidth=1.6,
        )  # fmt: skip
    _label_rows(axes, names)
    _legend(axes, theme)
    return figure


def _tags(by_model: Mapping[str, Mapping[str, float]], theme: Theme) -> Figure:
    """Average precision of every tag, best first, each model a dot, joined to show the gain."""
    names = sorted(by_model["trained"], key=lambda tag: -by_model["trained"][tag])[:MAX_TAGS]
    figure, axes = _canvas(0.24 * len(names) + 1.1, theme)
    for place, name in enumerate(names):
        ends = [by_model[model][name] for model in ("untrained", "trained") if model in by_model]
        axes.plot(ends, [place] * len(ends), color=theme.grid, linewidth=3, solid_capstyle="round", zorder=1)
    for model in (model for model in MODELS if model in by_model):
        x = [by_model[model][name] for name in names]
        axes.plot(x, range(len(names)), MARKERS[model], color=theme.models[model], label=model, markersize=5)
    _label_rows(axes, names)
    _legend(axes, theme)
    return figure


def _canvas(height_in: float, theme: Theme) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, max(2.0, height_in)), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.ink, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def _label_rows(axes: Axes, names: Sequence[str]) -> None:
    # A dollar sign in a tag would start mathematics.
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$")[:40] for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(min(0.0, low), max(1.0, high))


def _legend(axes: Axes, theme: Theme) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, labelcolor=theme.ink)
