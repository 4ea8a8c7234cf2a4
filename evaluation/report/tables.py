"""The report's other tables as text, for every form of it: corruption, equivariance, published figures, splits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluation.encoders.encoder import SUBJECT
from evaluation.report.comparison import compared, differences_from, explained
from evaluation.report.rows import number


@dataclass(frozen=True)
class TextTable:
    """A table whose first column names its rows."""

    title: str
    head: list[str]
    rows: list[list[str]]
    caption: str = ""
    verdicts: list[str] = field(default_factory=list)
    """Of each row of a comparison: better, worse or unclear."""


def extra_tables(tree: Mapping[str, Any]) -> list[TextTable]:
    """All but the metrics, in the order of a report."""
    return [
        *comparisons(tree),
        *_corrupted(tree.get("robustness", {})),
        *_equivariance(tree.get("equivariance", {})),
        *_published(tree.get("published", [])),
        _splits(tree["tasks"]),
    ]


def comparisons(tree: Mapping[str, Any]) -> Iterator[TextTable]:
    """Paired differences from every encoder that the report compares with."""
    places = tree["provenance"].get("evaluation", {}).get("against", {})
    for name in compared(tree):
        found = differences_from(tree, name)
        rows = [
            [
                one.metric,
                number(one.own),
                number(one.other),
                number(one.value, sign=True),
                f"[{number(one.low, sign=True)}, {number(one.high, sign=True)}]",
                number(one.p),
                number(one.p_holm),
                one.verdict,
            ]
            for one in found
        ]
        head = ["metric", SUBJECT, name, "difference", "interval", "p", "p (Holm)", "verdict"]
        where = f", {places[name]}" if name in places else ""
        title = f"Difference from {name}{where}"
        yield TextTable(title, head, rows, explained(tree), [one.verdict for one in found])


def _corrupted(robustness: Mapping[str, Any]) -> Iterator[TextTable]:
    """Values under corruption, with their change from clean audio."""
    for metric, by_model in robustness.items():
        models, rows = list(by_model), []
        for condition in by_model[models[0]]:
            found = [by_model[model][condition] for model in models]
            changes = [f"{number(x['value'])} ({number(x['change']['value'], sign=True)})" for x in found]
            rows.append([condition, *changes])
        yield TextTable(f"{metric} under corruption", ["condition", *models], rows)


def _equivariance(found: Mapping[str, Any]) -> Iterator[TextTable]:
    for axis in ("semitones", "rate"):
        curves = found.get(axis)
        if curves:
            models = list(curves)
            steps = [point["x"] for point in curves[models[0]]]
            rows = [[f"{x:g}", *(number(curves[m][at]["value"]) for m in models)] for at, x in enumerate(steps)]
            yield TextTable(f"Cosine distance against {axis}", [axis, *models], rows)
    for axis, by_model in found.get("probe", {}).items():
        rows = []
        for model, row in by_model.items():
            span = f"[{number(row['low'])}, {number(row['high'])}]"
            rows.append([model, number(row["value"]), span, f"{row['error']:.2f} {row['unit']}"])
        title = f"Transformation read from two embeddings: {axis}"
        yield TextTable(title, ["model", "R²", "interval (percentiles over tracks)", "mean error"], rows)


def _published(found: list[Mapping[str, Any]]) -> Iterator[TextTable]:
    """Published figures, and why they may not be compared."""
    if found:
        rows = [
            [row["metric"], number(row["value"]), row["who"], row["where"], "; ".join(row["differs"]) or "the same"]
            for row in found
        ]
        yield TextTable("Published figures", ["metric", "published", "who", "where", "protocol"], rows)


def _splits(tasks: Mapping[str, Any]) -> TextTable:
    """What every task was judged on, by hash, and whether that is the published split where the task names one."""
    rows, told = [], any("published_split" in task for task in tasks.values())
    for name, task in tasks.items():
        counts = " / ".join(f"{task.get(f'num_{split}', 0):,}" for split in ("train", "valid", "test"))
        hashes = [task.get(which, "")[:12] or "–" for which in ("split_hash", "vocabulary_hash")]
        masked = f", {len(task['masked'])} masked" if task["masked"] else ""
        words = [task.get("published_split", {"words": "–"})["words"]] if told else []
        rows.append([name, counts, *hashes, f"{len(task['classes']) or '–'}{masked}", *words])
    head = ["task", "train / valid / test", "split", "vocabulary", "tags or classes", *["published split"] * told]
    return TextTable("Splits", head, rows)
