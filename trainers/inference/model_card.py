"""The model card of an exported encoder: what it is, what it was made from, how to load it, what it cannot do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.files.templates import render
from cluster.settings import UserError, to_tree
from trainers.augment.parameters import AugmentConfig
from trainers.config import ExperimentConfig
from trainers.inference.frozen import HEADS, EncoderFiles, FrozenEncoder
from trainers.inference.spaces import head_names
from trainers.inference.training_data import ATTRIBUTION, Training, as_tree

PROGRAM, ONNX = "encoder.pt2", "encoder.onnx"
"""Graphs of an exported folder."""
MAX_REPORT_BYTES = 64 << 20
FRONTENDS = {
    "wave": "none, the samples themselves",
    "mel": "log(1 + {compression:g} · mel power), {num_mels} bands ({scale}), window {window} of {n_fft}, hop {hop}",
    "mule": "resampled to 16 kHz, log(1 + {compression:g} · mel power), 96 HTK bands to 8 kHz, window 400, hop 160",
}


@dataclass(frozen=True)
class ReportedMetric:
    """A metric of an evaluation report, for the card."""

    metric: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    untrained: float | None
    """The same network at its first weights."""
    convention: str


def read_metrics(report: Path, hash: str) -> list[ReportedMetric]:
    """The metrics of a report.json. Raises UserError if it is no report, or one of another encoder."""
    try:
        if report.stat().st_size > MAX_REPORT_BYTES:
            raise UserError(f"{report}: {report.stat().st_size} bytes, more than a report's {MAX_REPORT_BYTES}")
        tree = json.loads(report.read_text(encoding="utf-8"))
        evaluated = str(tree["provenance"]["encoder"])
        untrained = tree.get("baselines", {}).get("untrained", {})
        metrics = [
            ReportedMetric(
                metric=name,
                value=float(row["value"]),
                low=row.get("low"),
                high=row.get("high"),
                n=row.get("n"),
                untrained=untrained.get(name, {}).get("value"),
                convention=str(row["convention"]),
            )
            for name, row in tree["metrics"].items()
            if row["value"] is not None
        ]
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{report}: not a report.json of counterpoint evaluate ({error!r})") from None
    if evaluated != hash:
        raise UserError(f"{report}: evaluates the encoder {evaluated[:12]}, this one is {hash[:12]}; evaluate it first")
    return metrics


def model_card(
    found: EncoderFiles,
    encoder: FrozenEncoder,
    *,
    training: Sequence[Training],
    files: Mapping[str, str],
    left_out: Mapping[str, str],
    metrics: Sequence[ReportedMetric],
) -> str:
    """The card as Markdown."""
    config, front, own = found.experiment, found.experiment.frontend, found.own_parts(texts=bool(found.towers))
    constants = {**to_tree(front), "window": front.window or front.n_fft, "compression": front.compression}
    programs = {
        PROGRAM: f'`torch.export.load("{PROGRAM}").module()(wave_NT)`',
        ONNX: f"`{ONNX}` in any ONNX runtime with the input `wave`",
    }
    return render(
        Path(__file__).parent / "assets/card.md",
        found=found,
        encoder=encoder,
        config=config,
        parameters=f"{sum(p.numel() for p in encoder.parameters()):,}",
        seconds=f"{encoder.samples / encoder.rate:.2f}",
        frontend=FRONTENDS.get(front.kind, front.kind).format(**constants),
        heads=head_names(config),
        heads_file=HEADS,
        own={key: {**part, "settings": _settings(part["settings"])} for key, part in own.items()},
        without=[text for name, text in programs.items() if name in files],
        training=_training(found, config, training, has_attribution=ATTRIBUTION in files),
        effects=_effects(config.augment),
        metrics=[_row(metric) for metric in metrics],
        limits=_limits(encoder, config),
        files=files,
        left_out=left_out,
    )


def _settings(settings: Mapping[str, Any]) -> str:
    return f"settings `{json.dumps(settings, sort_keys=True)}`" if settings else "its default settings"


def card_facts(
    found: EncoderFiles, encoder: FrozenEncoder, training: Sequence[Training], metrics: Sequence[ReportedMetric]
) -> dict[str, Any]:
    """The card as a plain tree."""
    config = found.experiment
    return {
        "encoder": config.encoder.name,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "width": encoder.width,
        "input": {"rate_hz": encoder.rate, "samples": encoder.samples, "frontend": config.frontend.kind},
        "text_tower": config.text.encoder if found.towers else None,
        "snapshot": found.hash,
        "training": as_tree(training),
        "metrics": [asdict(metric) for metric in metrics],
        "limits": _limits(encoder, config),
    }


def _training(
    found: EncoderFiles, config: ExperimentConfig, training: Sequence[Training], *, has_attribution: bool
) -> list[str]:
    loss = {name: value for name, value in to_tree(config.loss).items() if name not in ("tile", "exchange")}
    first, *before = training
    lines = [
        *first.lines(),
        f"batches: {config.data.batch} clips, {config.views.count} views each, b_s = {config.data.b_s:g}, "
        f"p_s = {config.data.p_s:g}",
        f"steps: {found.step:,} of {config.optim.steps:,}, learning rate {config.optim.learning_rate:g}",
        f"loss: {', '.join(f'{name} {value}' for name, value in loss.items())}",
        f"seed {config.seed}; git {found.provenance.get('git_revision', 'unknown')}",
    ]
    for one in before:
        start = f"started from `{one.run}`, step {one.steps:,}, objective {one.objective}, trained on:"
        lines.append("\n  - ".join([start, *one.lines()]))
    if has_attribution:
        lines.append(f"attribution of the music: `{ATTRIBUTION}`")
    return lines


def _effects(augment: AugmentConfig) -> list[str]:
    """A line an effect that can occur: its probability and every other setting."""
    lines = []
    for name, settings in to_tree(augment).items():
        if isinstance(settings, Mapping) and settings.get("p", 0) > 0 and augment.p > 0:
            rest = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "p" and value is not None)
            lines.append(f"{name} (p = {settings['p'] * augment.p:g}){': ' + rest if rest else ''}")
    own = [one for one in augment.extra if one.p > 0]
    lines += [f"{one.effect} (p = {one.p:g}): own code `{one.name}`, {_settings(one.settings)}" for one in own]
    return lines or ["none"]


def _row(one: ReportedMetric) -> list[str]:
    """A metric's cells; a bar would end one."""
    interval = "–" if one.low is None or one.high is None else f"{one.low:.4g}…{one.high:.4g}"
    untrained = "–" if one.untrained is None else f"{one.untrained:.4g}"
    return [one.metric, f"{one.value:.4g}", interval, untrained, str(one.n or "–"), one.convention.replace("|", "\\|")]


def _limits(encoder: FrozenEncoder, config: ExperimentConfig) -> str:
    ignored = ", ".join(line.partition(" (")[0] for line in _effects(config.augment))
    return f"""For frozen features of recorded music: probes, retrieval, clustering, duplicates. It reads
{encoder.samples / encoder.rate:.2f} s at a time, mono, up to {encoder.rate // 2:,} Hz.
What training varied ({ignored}) may be missing from
the embedding: do not expect key from an encoder trained to ignore pitch shifts, nor tempo after time-stretch.
It was not tested on music unlike its training data, and was not made for speech or for identifying persons.
The licences of the training data are listed above as far as they are known; check whether they allow your use of the
weights."""
