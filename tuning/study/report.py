"""A study as files: JSON, Markdown, CSV and a plot, with the paper's values beside ours."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.files.storage import write_atomic
from cluster.files.tables import csv_table, markdown_table
from evaluation.metrics.samples import JACKKNIFE
from evaluation.report.canvas import LIGHT, canvas, legend, plain, png
from evaluation.report.rows import number, span
from trainers.inference.spaces import WHOLE
from tuning.study.config import COLUMNS, SPACES, Plot

ASIDE = 0.08
"""Curves stand so far beside each other, in levels, that their intervals can be distinguished."""
MAX_TILTED = 12
"""Names of columns along the bottom that are tilted; more stand upright."""
PANELS_ACROSS = 4
"""Metrics side by side where the spaces stand along the bottom."""
MAX_SHOWN = 8
"""Names of a list that the table of reductions spells out."""


def write_study(tree: Mapping[str, Any], folder: Path, plot: Plot | None) -> dict[str, Path]:
    """Write every form of a study, the JSON last; returns the files by what they are."""
    files = {name: folder / f"study.{name}" for name in ("md", "csv", "png", "json")}
    write_atomic(files["md"], markdown(tree))
    write_atomic(files["csv"], csv_text(tree))
    files["png"].write_bytes(png(draw(tree, plot), dpi=150))
    write_atomic(files["json"], json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False))
    return files


def markdown(tree: Mapping[str, Any]) -> str:
    """The table, the claims, and what the scale reduces."""
    columns = tree["columns"]
    lines = [f"# {tree['title']}", "", f"{tree['source']}; scale `{tree['scale']}`: {tree['about']}", ""]
    published = [c for c in columns if any(c in row["published"] for row in tree["rows"])]
    head, rows = ["row"], [[row["name"]] for row in tree["rows"]]
    for column in columns:
        head += [column, "paper"] if column in published else [column]
        for cells, row in zip(rows, tree["rows"], strict=True):
            cells.append(_cell(row["values"].get(column)))
            cells += [_figure(row["published"].get(column))] if column in published else []
    seeds = [str(row["seeds"]) for row in tree["rows"]]
    lines += markdown_table([*head, "seeds"], ([*cells, own] for cells, own in zip(rows, seeds, strict=True)))
    lines += ["", _how_sure(tree)]
    lines += _claims(tree["claims"])
    lines += [f"\n**Failed** {name}: {reason}" for name, reason in tree["failed"].items()]
    if tree["missing"]:
        lines += ["", f"Not done yet: {', '.join(tree['missing'])}."]
    if tree["reduced"]:
        changes = ([key, _words(of["paper"]), _words(of["here"])] for key, of in tree["reduced"].items())
        lines += ["", "## What this scale reduces", "", *markdown_table(["", "paper", "here"], changes)]
    lines += _paper(tree)
    if tree["notes"]:
        lines += ["", "## Notes", "", *(f"- {note}" for note in tree["notes"])]
    if "projection" in tree:
        lines += ["", tree["projection"]["markdown"]]
    return "\n".join([*lines, ""])


def csv_text(tree: Mapping[str, Any]) -> str:
    """A line a row and column."""
    ends = ("value", "low", "high")
    lines = [["row", "column", *ends, "seeds", "published"]]
    for row in tree["rows"]:
        for column, found in row["values"].items():
            values = [found[end] for end in ends]
            lines.append([row["name"], column, *values, row["seeds"], row["published"].get(column, "")])
    return csv_table(lines)


def draw(tree: Mapping[str, Any], plot: Plot | None) -> Figure:
    """A panel a column: curves over an axis, or a dot a row; the paper's values are hollow."""
    columns, rows = tree["columns"], tree["rows"]
    if plot is not None and plot.x == COLUMNS:
        figure, panels = canvas(3.6, LIGHT)
        _profiles(panels[0], rows, columns)
        legend(panels[0], LIGHT)
        return figure
    if plot is not None and plot.x == SPACES:
        return _by_space(tree)
    if plot is None:
        figure, panels = canvas(1.0 + 0.28 * len(rows), LIGHT, len(columns))
        for axes, column in zip(panels, columns, strict=True):
            _dots(axes, rows, column)
        for axes in panels[1:]:
            axes.set_yticklabels([])
    else:
        figure, panels = canvas(3.6, LIGHT, len(columns))
        for axes, column in zip(panels, columns, strict=True):
            _curves(axes, rows, column, plot)
        if plot.lines:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    for axes, column in zip(panels, columns, strict=True):
        axes.set_xlabel(plain(column)) if plot is None else axes.set_ylabel(plain(column))
    return figure


def _dots(axes: Axes, rows: list[Mapping[str, Any]], column: str) -> None:
    names = [row["name"] for row in rows]
    for place, row in enumerate(rows):
        found = row["values"].get(column)
        if found and found["value"] is not None:
            colour = LIGHT.colour(row["name"], 0)
            if found["low"] is not None:
                axes.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2)
            axes.plot(found["value"], place, "o", color=colour)
        if column in row["published"]:
            axes.plot(row["published"][column], place, "D", color=LIGHT.ink, fillstyle="none", markersize=5)
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def _curves(axes: Axes, rows: list[Mapping[str, Any]], column: str, plot: Plot) -> None:
    placed = [row for row in rows if plot.x in row["place"]]
    levels = list(dict.fromkeys(row["place"][plot.x] for row in placed))
    lines = list(dict.fromkeys(row["place"].get(plot.lines or "", "") for row in placed))
    for place, line in enumerate(lines):
        colour = LIGHT.others[place % len(LIGHT.others)]
        aside = ASIDE * (place - (len(lines) - 1) / 2)
        mine = [row for row in placed if row["place"].get(plot.lines or "", "") == line]
        known = [(levels.index(r["place"][plot.x]), r["values"][column]) for r in mine if column in r["values"]]
        drawn = [(x, found) for x, found in known if found["value"] is not None]
        ends = [[f["value"] - f["low"], f["high"] - f["value"]] if f["low"] is not None else [0, 0] for _, f in drawn]
        axes.errorbar(
            [x + aside for x, _ in drawn],
            [found["value"] for _, found in drawn],
            [[max(0.0, end[side]) for end in ends] for side in (0, 1)],
            fmt="o-",
            color=colour,
            label=plain(line) or None,
            capsize=2,
        )
        paper = [(levels.index(r["place"][plot.x]), r["published"][column]) for r in mine if column in r["published"]]
        if paper:
            axes.plot(*zip(*paper, strict=True), "D--", color=colour, fillstyle="none", linewidth=1, markersize=5)
    axes.set_xticks(range(len(levels)), [plain(level) for level in levels], rotation=30, ha="right")
    axes.set_xlabel(plain(plot.x))


def _by_space(tree: Mapping[str, Any]) -> Figure:
    """A panel a metric, the whole embedding and the spaces along the bottom, a dot and an interval a row."""
    groups: dict[str, dict[str, str]] = {}
    for column in tree["columns"]:
        space = tree["spaces"].get(column, "")
        groups.setdefault(column.removesuffix(f" in {space}"), {})[space or WHOLE] = column
    figure, panels = canvas(3.0, LIGHT, len(groups), across=PANELS_ACROSS)
    for axes, (metric, by_space) in zip(panels, groups.items(), strict=True):
        for place, row in enumerate(tree["rows"]):
            aside = ASIDE * (place - (len(tree["rows"]) - 1) / 2)
            found = {x: row["values"].get(column) for x, column in enumerate(by_space.values())}
            drawn = {x: one for x, one in found.items() if one and one["value"] is not None}
            low, high = (
                [max(0.0, s * (one[e] - one["value"])) if one[e] is not None else 0.0 for one in drawn.values()]
                for s, e in ((-1, "low"), (1, "high"))
            )
            x, y = [at + aside for at in drawn], [one["value"] for one in drawn.values()]
            colour = LIGHT.colour(row["name"], place)
            axes.errorbar(x, y, [low, high], fmt="o", color=colour, label=plain(row["name"]), markersize=4)
        axes.set_xticks(range(len(by_space)), [plain(space) for space in by_space], rotation=30, ha="right")
        axes.set_title(plain(metric), fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, labelcolor=LIGHT.ink)
    return figure


def _profiles(axes: Axes, rows: list[Mapping[str, Any]], columns: list[str]) -> None:
    """A curve a row over the columns."""
    for place, row in enumerate(rows):
        found = [row["values"].get(column, {"value": None}) for column in columns]
        values = [one["value"] if one["value"] is not None else float("nan") for one in found]
        axes.plot(range(len(columns)), values, "o-", color=LIGHT.colour(row["name"], place), label=plain(row["name"]))
    many = len(columns) > MAX_TILTED
    turn: dict[str, Any] = {"rotation": 90, "fontsize": 7} if many else {"rotation": 30, "ha": "right"}
    axes.set_xticks(range(len(columns)), [plain(column) for column in columns], **turn)


def _paper(tree: Mapping[str, Any]) -> list[str]:
    """The published table, where this scale has other rows."""
    values = tree["published"]
    if not values or set(values) <= {row["name"] for row in tree["rows"]}:
        return []
    columns = list(dict.fromkeys(column for row in values.values() for column in row))
    rows = ([name, *(_figure(row.get(column)) for column in columns)] for name, row in values.items())
    return ["", "## The paper's values", "", *markdown_table(["row", *columns], rows)]


def _cell(found: Mapping[str, float | None] | None) -> str:
    if not found or found["value"] is None:
        return "–"
    if found["low"] is None:
        return _figure(found["value"])
    return f"{number(found['value'])} {span(found)}"


def _figure(value: float | None) -> str:
    """Scores as the report writes them, times and rates with their size."""
    if value is None:
        return "–"
    return number(value) if abs(value) < 1 else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _claims(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a claim; beside the verdict of one seed stands what more seeds gave, where that is known."""
    if not claims:
        return []
    seeds = min((claim["seeds"] for claim in claims if claim["seeds"]), default=0)
    known = seeds == 1 and any(claim["more_seeds"] for claim in claims)
    run = f"{seeds} seed{'s' * (seeds > 1)}" if seeds else ""
    head = ["claim", "difference", "p (Holm)", run, "data for 80 % power", *["more seeds gave"] * known]
    rows = (_claim(claim) + [claim["more_seeds"] or "–"] * known for claim in claims)
    return ["", *markdown_table(head, rows)]


def _claim(claim: Mapping[str, Any]) -> list[str]:
    verdict = {True: "holds", False: "not shown", None: "undecided: a row is missing"}[claim["holds"]]
    if claim["holds"] and claim["seeds"] == 1:
        verdict = "holds for one seed; other seeds were not run"
    if claim["holds"] is None:
        return [claim["statement"], "–", "–", verdict, "–"]
    span = f"[{number(claim['low'], sign=True)}, {number(claim['high'], sign=True)}]"
    difference = f"{number(claim['value'], sign=True)} {span}"
    return [claim["statement"], difference, f"{claim['p_holm']:.3f}", verdict, _needed(claim)]


def _needed(claim: Mapping[str, Any]) -> str:
    """How many times the tracks and seeds of this study would show a difference of this size."""
    times = claim.get("data_needed")
    if claim["holds"] or times is None:
        return "–"
    return f"× {times:.2g}" if times < 100 else f"× {times:,.0f}"


def _how_sure(tree: Mapping[str, Any]) -> str:
    seeds = max((row["seeds"] for row in tree["rows"]), default=0)
    if not any(found["low"] is not None for row in tree["rows"] for found in row["values"].values()):
        return "Medians over the second half of each run's steps."
    training = " and of training seeds" if seeds > 1 else "; one seed of training, whose variance they do not hold"
    jackknifed = [
        column
        for column in tree["columns"]
        if any(row["values"].get(column, {}).get("interval") == JACKKNIFE for row in tree["rows"])
    ]
    words = f"Intervals: 95 %, percentiles of a paired bootstrap of test tracks (artists where known){training}."
    if jackknifed:
        words += f" Of {' and '.join(jackknifed)} a row's own is the jackknife's around the bias-corrected value."
    return words


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        more = f" … {len(value)} in all" if len(value) > MAX_SHOWN else ""
        return "; ".join(map(str, value[:MAX_SHOWN])) + more or "none"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool) or value is None else str(value)
