"""Learning curves on the open music set: what a tag probe finds in each snapshot of a run.

    python -m benchmarks.learning_curves --music DIR --out outputs/curves [--only mel_cnn]

DIR is the set with its labels.csv. For each encoder three runs of the same batches and steps: self-supervised, semi-
supervised, and the end-to-end supervised baseline. Every snapshot, and the untrained encoder, gets the tag probe of
conf/evaluation/open_music.yaml on the same resamples of the test tracks, so differences are paired. Training reads all
clips of split train; the evaluated clips are those with tags, their first five seconds, for embedding whole clips by
SampleCNN takes a CPU minutes a snapshot. Stopped, the same command goes on: runs resume, embeddings are kept.
"""

import argparse
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cluster.settings import ROOT, load_config, read_yaml, validate
from data_shards.build.build import BuildConfig, build
from data_shards.format.records import Audio, Clip
from data_shards.sources.folder import read_folder
from evaluation.config import EvaluationConfig
from evaluation.encoders.encoder import SUBJECT
from evaluation.evaluate import evaluate
from evaluation.metrics.confidence import as_row
from evaluation.metrics.samples import RESAMPLES, load_resamples
from evaluation.report.canvas import LIGHT, Theme, canvas
from evaluation.report.rows import REFERENCE
from trainers.config import ExperimentConfig
from trainers.pretrain import pretrain

RESULTS = Path(__file__).parent / "results"
PICTURE = ROOT / "docs/images/learning-curves.png"
PRESET, PROBE = ROOT / "conf/pretrain/open_music.yaml", ROOT / "conf/evaluation/open_music.yaml"
COLUMN = "tags"
EVALUATED_S = 5.4
"""Two views of 59,049 samples."""
LEVEL = 0.95
METRICS = ("tags/auroc", "tags/ap")


@dataclass(frozen=True)
class Course:
    """Steps of an encoder, and those whose snapshots are evaluated."""

    batch: int
    steps: int
    every: int
    overrides: dict[str, Any]

    @property
    def evaluated(self) -> list[int]:
        """Steps of the snapshots."""
        return list(range(self.every, self.steps + 1, self.every))


COURSES = {
    "mel_cnn": Course(48, 200, 50, {"encoder.name": "mel_cnn", "frontend.kind": "mel"}),
    "sample_cnn": Course(16, 60, 20, {"encoder.name": "sample_cnn", "frontend.kind": "wave"}),
}
METHODS: dict[str, dict[str, Any]] = {
    "semi-supervised": {"data.b_s": 0.5},
    "end to end": {"data.b_s": 1.0, "loss.objective": "bce"},
    "self-supervised": {"data.b_s": 0.0},
}
END_TO_END = "end to end"


@dataclass(frozen=True)
class Opening:
    """The first seconds of a clip."""

    audio: Audio

    @property
    def name(self) -> str:
        """That of the whole clip."""
        return self.audio.name

    def read(self) -> tuple[NDArray[np.float32], int]:
        """Samples (T, channels) and their rate in Hz."""
        wave, rate = self.audio.read()
        return wave[: round(EVALUATED_S * rate)], rate


def build_sets(music: Path, out: Path) -> tuple[Path, Path]:
    """Shards to train on and shards for evaluation; those that are there are kept."""
    clips = read_folder(music, music / "labels.csv").clips
    train_set, evaluation_set = out / "shards", out / "evaluation"
    build(clips, train_set, BuildConfig())
    build(_openings(clips), evaluation_set, BuildConfig())
    return train_set, evaluation_set


def _openings(clips: Iterable[Clip]) -> list[Clip]:
    return [replace(clip, audio=Opening(clip.audio)) for clip in clips if clip.multilabel.get(COLUMN)]


def train(encoder: str, method: str, shards: Path, out: Path) -> Path:
    """One run to its end; its folder."""
    course, folder = COURSES[encoder], out / encoder / method.replace(" ", "-")
    overrides = {
        "data.labelled": str(shards),
        "data.unlabelled": str(shards),
        "data.batch": course.batch,
        "optim.steps": course.steps,
        "resources.num_workers": 0,
        "resources.threads_per_worker": 1,
        "run.dir": str(folder),
        "run.snapshot_every": course.every,
        "run.keep": len(course.evaluated),
        "tracking.enabled": False,
    }
    config = load_config(ExperimentConfig, PRESET, overrides | course.overrides | METHODS[method])
    if pretrain(config):
        raise SystemExit("stopped; the same command goes on")
    return folder


def evaluate_runs(encoder: str, runs: dict[str, Path], shards: Path, out: Path) -> list[dict[str, Any]]:
    """The probe of every snapshot of an encoder's runs: a row each, the untrained encoder first."""
    places = {
        f"{method.replace(' ', '-')}_{step}": (method, step, folder / "snapshots" / f"step-{step}")
        for method, folder in runs.items()
        for step in COURSES[encoder].evaluated
    }
    subject, *others = places
    tree = read_yaml(PROBE)
    tree["tasks"] = {COLUMN: tree["tasks"][COLUMN] | {"retrieval": False}}
    tree |= {"data": {"shards": str(shards)}, "against": {name: str(places[name][2]) for name in others}}
    tree["batch"] = 8  # 64 views of SampleCNN are gigabytes, and no faster on a CPU
    report = evaluate(places[subject][2], validate(EvaluationConfig, tree, str(PROBE)), out / encoder / "evaluation")
    found = load_resamples(report.folder / RESAMPLES)
    values = {SUBJECT: report.tree["metrics"], **report.tree["baselines"]}
    rows = [_row(encoder, "untrained", 0, values[REFERENCE], {})]
    for name, (method, step, _) in places.items():
        model = SUBJECT if name == subject else name
        rivals = {REFERENCE: REFERENCE}
        if method != END_TO_END and END_TO_END in runs:
            rivals[END_TO_END] = f"{END_TO_END.replace(' ', '-')}_{step}"
        less = {
            f"{metric} over {rival}": as_row(found[metric][model].values_R - found[metric][of].values_R, LEVEL)
            for metric in METRICS
            for rival, of in rivals.items()
        }
        rows.append(_row(encoder, method, step, values[model], less))
    return rows


def _row(encoder: str, method: str, step: int, values: Any, less: dict[str, Any]) -> dict[str, Any]:
    scores = {metric: {end: values[metric][end] for end in ("value", "low", "high")} for metric in METRICS}
    clips = values[METRICS[0]]["n"]
    return {"encoder": encoder, "method": method, "step": step, "n": clips, **scores, **less}


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """One table an encoder."""
    rivals = (REFERENCE, END_TO_END)
    heads = [*METRICS, *(f"{METRICS[0]} over {rival}" for rival in rivals), f"{METRICS[1]} over {REFERENCE}"]
    lines = []
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        course = COURSES[encoder]
        lines += [f"\n## {encoder}: {course.batch} clips × 2 views a step\n"]
        lines += [f"| method | step | {' | '.join(heads)} |", "|---|---:|" + "---|" * len(heads)]
        for row in rows:
            if row["encoder"] == encoder:
                cells = " | ".join(_cell(row.get(head), signed=" over " in head) for head in heads)
                lines.append(f"| {row['method']} | {row['step']} | {cells} |")
    return "\n".join(lines)


def _cell(found: dict[str, float | None] | None, *, signed: bool) -> str:
    if found is None or found["value"] is None:
        return "–"
    sign = "+" if signed else ""
    ends = [found[end] for end in ("value", "low", "high")]
    value, low, high = (f"{x:{sign}.3f}" if x is not None else "–" for x in ends)
    return f"{value} [{low}, {high}]"


def draw(rows: list[dict[str, Any]], theme: Theme = LIGHT) -> bytes:
    """AUROC over steps, a panel an encoder, as PNG."""
    import io

    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    figure, panels = canvas(3.4, theme, len(encoders))
    for axes, encoder in zip(panels, encoders, strict=True):
        _panel(axes, [row for row in rows if row["encoder"] == encoder], theme)
        axes.set_title(encoder, color=theme.ink)
        axes.set_xlabel("step")
    panels[0].set_ylabel("AUROC of a tag probe")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120, facecolor="white")
    return out.getvalue()


def _panel(axes: Axes, rows: list[dict[str, Any]], theme: Theme) -> None:
    start = rows[0]
    last = max(row["step"] for row in rows)
    untrained, colour = start[METRICS[0]], theme.models["untrained"]
    axes.axhline(untrained["value"], color=colour, linestyle="--", label="untrained")
    axes.axhspan(untrained["low"], untrained["high"], color=colour, alpha=0.1, linewidth=0)
    for place, method in enumerate(METHODS):
        points = [row for row in rows if row["method"] == method]
        if not points:
            continue
        colour = theme.colour("trained" if place == 0 else method, place)
        shift = (place - 1) * last / 120  # beside each other, so that intervals can be told apart
        steps = [0.0, *(row["step"] + shift for row in points)]
        scores = [row[METRICS[0]] for row in (start, *points)]
        axes.plot(steps, [f["value"] for f in scores], "o-", color=colour, label=method, markersize=4)
        for step, f in list(zip(steps, scores, strict=True))[1:]:
            axes.plot([step, step], [f["low"], f["high"]], color=colour, linewidth=1.2, alpha=0.6)


def write(rows: list[dict[str, Any]], name: str) -> None:
    """The table in both forms, and the picture."""
    about = {"machine": platform.machine(), "evaluated_s": EVALUATED_S, "level": LEVEL, "seeds": 3}
    (RESULTS / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    head = (
        f"# Learning curves, open music set ({platform.machine()})\n\n"
        "`python -m benchmarks.learning_curves`. Probe of the tags, three heads, mean; intervals of 95 % over tracks; "
        f"differences are paired. {rows[0]['n']} test clips of {EVALUATED_S:g} s. One run each: the luck of training "
        "is in no interval.\n"
    )
    (RESULTS / f"{name}.md").write_text(head + as_markdown(rows) + "\n")
    PICTURE.write_bytes(draw(rows))


def main() -> None:
    """Train, evaluate, and write what there is after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--music", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("outputs/curves"))
    parser.add_argument("--only", default="", help="encoders whose name begins so")
    parser.add_argument("--name", default=f"learning_curves-{platform.machine()}")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    train_set, evaluation_set = build_sets(arguments.music, out)
    encoders = [encoder for encoder in COURSES if encoder.startswith(arguments.only)]
    runs: dict[str, dict[str, Path]] = {encoder: {} for encoder in encoders}
    rows: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        for encoder in encoders:
            runs[encoder][method] = train(encoder, method, train_set, out)
            rows[encoder] = evaluate_runs(encoder, runs[encoder], evaluation_set, out)
            write([row for found in rows.values() for row in found], arguments.name)
            print(as_markdown(rows[encoder]), flush=True)


if __name__ == "__main__":
    main()
