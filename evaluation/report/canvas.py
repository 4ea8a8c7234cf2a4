"""Colours and axes that the report's figures share."""

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours on one background."""

    ink: str
    grid: str
    models: Mapping[str, str]
    """Of the models that every report has."""
    others: tuple[str, ...]
    """Of the snapshots it is compared with, in turn."""

    def colour(self, model: str, place: int) -> str:
        """A model's colour; ``place`` is its number among the models drawn."""
        return self.models.get(model, self.others[place % len(self.others)])


LIGHT = Theme(
    "#1f2430",
    "#d9dce3",
    {"trained": "#2257c4", "untrained": "#c2611f", "constant": "#7b8290"},
    ("#2a8c57", "#8a3fa8", "#b02c55"),
)
DARK = Theme(
    "#e6e8ee",
    "#3a4050",
    {"trained": "#7fa8ff", "untrained": "#f0a26b", "constant": "#9aa1b0"},
    ("#6fd39f", "#c99be0", "#ff8fae"),
)


def canvas(height_in: float, theme: Theme, panels: int = 1, *, across: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width with bare axes side by side."""
    columns = min(panels, across or panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(7.6, max(2.0, height_in) * rows), layout="constrained")
    row = [figure.add_subplot(rows, columns, 1 + place) for place in range(panels)]
    for axes in row:
        axes.patch.set_alpha(0)
        axes.grid(color=theme.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=theme.ink, length=0)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(theme.ink)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure, row


def in_dark(light_svg: bytes) -> bytes:
    """The same picture in the dark theme's colours; text is drawn as paths, so that no word can look like a colour."""
    pairs = {LIGHT.ink: DARK.ink, LIGHT.grid: DARK.grid}
    pairs |= {colour: DARK.models[model] for model, colour in LIGHT.models.items()}
    pairs |= dict(zip(LIGHT.others, DARK.others, strict=True))
    dark = {light.encode(): colour.encode() for light, colour in pairs.items()}
    return re.sub(b"|".join(dark), lambda found: dark[found[0]], light_svg)


def legend(axes: Axes, theme: Theme) -> None:
    """The models' names above the axes."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, labelcolor=theme.ink)


def png(figure: Figure, dpi: int = 120) -> bytes:
    """A figure as a file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, facecolor="white")
    return out.getvalue()


def plain(text: str) -> str:
    """A user's words as a label: a dollar sign would start mathematics."""
    return text.replace("$", r"\$")[:40]
