"""The model card of an exported encoder: what it is, what it was made from, how to load it, what it cannot do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    config = found.experiment
    head = f"# {config.encoder.name}, {encoder.width}-dimensional embeddings of music\n"
    parts = [
        head + _about(found, encoder, config),
        *([_spaces(encoder, config)] if config.head.variant else []),
        _loading(found, encoder, files),
        _training(found, config, training, has_attribution=ATTRIBUTION in files),
        _evaluation(metrics),
        _limits(encoder, config),
        "## Files\n\n" + "\n".join(f"- `{name}`: {what}" for name, what in files.items()),
    ]
    if left_out:
        parts.append("Left out: " + "; ".join(f"`{name}` ({why})" for name, why in left_out.items()) + ".")
    return "\n\n".join(parts) + "\n"


def _about(found: EncoderFiles, encoder: FrozenEncoder, config: ExperimentConfig) -> str:
    count = sum(p.numel() for p in encoder.parameters())
    front = config.frontend
    shape = FRONTENDS.get(front.kind, front.kind).format(
        **{**to_tree(front), "window": front.window or front.n_fft, "compression": front.compression}
    )
    rows = {
        "encoder": f"{config.encoder.name}, {count:,} parameters, width {encoder.width}",
        "input": f"mono float32 in [-1, 1] at {encoder.rate:,} Hz, {encoder.samples:,} samples a view "
        f"({encoder.samples / encoder.rate:.2f} s)",
        "front-end": f"{front.kind}: {shape}; part of every exported file",
        "output": f"float32 ({encoder.width},) a view, not normalised; the projection head is dropped",
        "snapshot": f"`{found.hash}`, step {found.step:,}",
    }
    return "\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in rows.items())


def _spaces(encoder: FrozenEncoder, config: ExperimentConfig) -> str:
    """The columns by name, and what the spaces of an encoder with variant heads are for."""
    effects = ", ".join(config.head.variant)
    rows = [f"| {name} | {place.start}…{place.stop - 1} |" for name, place in encoder.spaces.items()]
    lines = ["## Spaces", "", "| space | columns of the embedding |", "|---|---|", *rows, ""]
    lines.append(
        f"`invariant` is trained to ignore every augmentation, each other space all but the one it is called after "
        f"({effects}; LOEV, arXiv:2412.18955): key is to be looked for in `pitch`, tempo in `stretch`."
    )
    if head_names(config):
        names = ", ".join(f"`{name}`" for name in head_names(config))
        lines.append(
            f"The outputs of the heads are the spaces {names}, in `{HEADS}`: "
            f"`load_encoder(…).with_heads()` gives them behind the embedding. The programs give the embedding alone."
        )
    else:
        lines.append(
            "Bring a space to unit norm before you compare it. The spaces differ in norm, so the cosine of the whole "
            "vector is ruled by the longest; `counterpoint search --by all` takes the mean of the spaces' cosines "
            "instead."
        )
    return "\n".join(lines)


def _loading(found: EncoderFiles, encoder: FrozenEncoder, files: Mapping[str, str]) -> str:
    parts = found.own_parts()
    towers = ""
    if found.towers:
        trusted = ", trust_code=True" if found.own_parts(texts=True) else ""
        towers = f"""from trainers.inference.two_towers import load_two_towers
towers = load_two_towers("this folder"{trusted})
cosine_Nk = towers.embed_audio(wave_NT) @ towers.embed_text(["a slow piece", "drums"]).T
"""
    programs = {
        PROGRAM: f'`torch.export.load("{PROGRAM}").module()(wave_NT)`',
        ONNX: f"`{ONNX}` in any ONNX runtime with the input `wave`",
    }
    without = ", or ".join(text for name, text in programs.items() if name in files)
    return f"""## Loading

```python
from trainers.inference.frozen import load_encoder
encoder = load_encoder("this folder"{", trust_code=True" if parts else ""})  # verified by checksums; reads no pickle
h_NE = encoder(wave_NT)  # (N, {encoder.samples}) float32 to (N, {encoder.width})
{towers}```
{_own_code(found.own_parts(texts=bool(found.towers)))}
{f"Without Counterpoint: {without}." if without else "It loads with Counterpoint alone."}
The number of views N is free, their length is not: cut longer audio and average."""


def _own_code(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """What a person who loads the encoder must bring along; empty for a built-in one."""
    if not parts:
        return ""
    lines = [f"- `{key}`: `{part['entry_point']}`, {_settings(part['settings'])}" for key, part in parts.items()]
    return (
        "\nLoading imports code that is not part of Counterpoint and is **not included** in this folder; put\n"
        "the module in the working directory or on `PYTHONPATH`:\n\n" + "\n".join(lines) + "\n"
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
        "limits": _limits(encoder, config).partition("\n\n")[2],
    }


def _training(
    found: EncoderFiles, config: ExperimentConfig, training: Sequence[Training], *, has_attribution: bool
) -> str:
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
    return (
        "## Training\n\n"
        + "\n".join(f"- {line}" for line in lines)
        + "\n\nAugmentation, what two views of a clip may differ in and the embedding is trained to ignore:\n\n"
        + "\n".join(f"- {line}" for line in _effects(config.augment))
    )


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


def _evaluation(metrics: Sequence[ReportedMetric]) -> str:
    if not metrics:
        return "## Metrics\n\nNone: it was exported without an evaluation report (`--report FILE`)."
    rows = []
    for f in metrics:
        interval = "–" if f.low is None or f.high is None else f"{f.low:.4g}…{f.high:.4g}"
        untrained = "–" if f.untrained is None else f"{f.untrained:.4g}"
        convention = f.convention.replace("|", "\\|")
        rows.append(f"| {f.metric} | {f.value:.4g} | {interval} | {untrained} | {f.n or '–'} | {convention} |")
    head = "| metric | value | interval | untrained | n | convention |\n|---|---|---|---|---|---|\n"
    return "## Metrics\n\n" + head + "\n".join(rows)


def _limits(encoder: FrozenEncoder, config: ExperimentConfig) -> str:
    ignored = ", ".join(line.partition(" (")[0] for line in _effects(config.augment))
    return f"""## Intended use and limits

For frozen features of recorded music: probes, retrieval, clustering, duplicates. It reads
{encoder.samples / encoder.rate:.2f} s at a time, mono, up to {encoder.rate // 2:,} Hz.
What training varied ({ignored}) may be missing from
the embedding: do not expect key from an encoder trained to ignore pitch shifts, nor tempo after time-stretch.
It was not tested on music unlike its training data, and was not made for speech or for identifying persons.
The licences of the training data are listed above as far as they are known; check whether they allow your use of the
weights."""
