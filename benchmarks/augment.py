"""The augmentation chain against its peers: clips a CPU-second on one thread, effect by effect and the whole chain.

    python -m benchmarks.augment [--batch 96] [--repeats 5]
    python -m benchmarks.augment --gpu                       the chain in kernels, see benchmarks/augment_gpu.py

The peers are torch-audiomentations (each example its own parameters), audiomentations and pedalboard (clip by clip),
from the optional extra ``bench``. The authors' chain is Table 1 out of torch-audiomentations, with our echo. It and
ours take turns, and the ratio is the median over the rounds: a shared machine changes its pace within seconds.
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import augment_gpu
from benchmarks.augment_gpu import EFFECTS, RATE, alone
from benchmarks.pitch_quality import struck_notes
from trainers.augment.chain import AugmentChain
from trainers.augment.dsp.delay import echo
from trainers.augment.parameters import PRESETS, AugmentConfig

RESULTS = Path(__file__).parent / "results"
GOAL = 15.0
Apply = Callable[[Tensor], Any]


def ours(config: AugmentConfig, batch: int) -> Apply:
    chain = AugmentChain(config, RATE)
    steps = iter(range(1_000_000))

    def apply(wave_NT: Tensor) -> Tensor:
        return chain.apply(wave_NT, chain.draw(torch.arange(batch), step=next(steps), seed=0, view=0))

    return apply


def torch_audiomentations(p_of: Callable[[str], float]) -> dict[str, Apply]:
    import torch_audiomentations as ta

    def make(kind: Any, p: float, **settings: Any) -> Any:
        return kind(p=p, sample_rate=RATE, output_type="dict", **settings)

    bank = [make(kind, 1.0) for kind in (ta.LowPassFilter, ta.HighPassFilter, ta.BandPassFilter, ta.BandStopFilter)]
    transforms = {
        "gain": make(ta.Gain, p_of("gain"), min_gain_in_db=-15.0, max_gain_in_db=5.0),
        "polarity": make(ta.PolarityInversion, p_of("polarity")),
        "noise": make(ta.AddColoredNoise, p_of("noise")),
        "filter": ta.OneOf(bank, p=p_of("filter"), output_type="dict"),
        "pitch": make(ta.PitchShift, p_of("pitch")),
    }

    def batched(transform: Any) -> Apply:
        return lambda wave_NT: transform(wave_NT[:, None], sample_rate=RATE).samples[:, 0]

    return {name: batched(transform) for name, transform in transforms.items()}


def authors_chain(batch: int) -> Apply:
    effects = torch_audiomentations(lambda name: getattr(AugmentConfig(), name).p)
    chain = AugmentChain(PRESETS["as_released"], RATE)

    def apply(wave_NT: Tensor) -> Tensor:
        for effect in effects.values():
            wave_NT = effect(wave_NT)
        drawn = chain.draw(torch.arange(batch), step=0, seed=0, view=0)
        return echo(wave_NT, drawn.delay, drawn.reflections, drawn.attenuation, drawn.wet)

    return apply


def clip_by_clip(transform: Callable[[Any], Any]) -> Apply:
    return lambda wave_NT: [transform(row) for row in wave_NT.numpy()]


def one_by_one_peers() -> dict[tuple[str, str], Apply]:
    import audiomentations as am
    import pedalboard

    generator = np.random.default_rng(0)

    def shift(row: Any) -> Any:
        return pedalboard.time_stretch(row, RATE, 1.0, float(generator.uniform(-4, 4)))

    def stretch(row: Any) -> Any:
        return pedalboard.time_stretch(row, RATE, float(generator.uniform(0.7, 1.3)))

    transforms = {
        ("pedalboard", "pitch"): shift,
        ("pedalboard", "stretch"): stretch,
        ("pedalboard", "delay"): lambda row: pedalboard.Delay(0.3, 0.5, 0.5)(row, RATE, reset=True),
        ("pedalboard", "filter"): lambda row: pedalboard.LowpassFilter(1000)(row, RATE, reset=True),
    }
    alike = {"gain": am.Gain, "polarity": am.PolarityInversion, "noise": am.AddColorNoise}
    for name, kind in (alike | {"filter": am.LowPassFilter, "pitch": am.PitchShift}).items():
        transforms["audiomentations", name] = partial(kind(p=1.0), sample_rate=RATE)
    return {key: clip_by_clip(transform) for key, transform in transforms.items()}


def clips_a_cpu_second(apply: Apply, wave_NT: Tensor, repeats: int) -> float:
    """Median over repeats after one warm-up; a slow peer gets a smaller batch."""
    apply(wave_NT)
    return len(wave_NT) / median(cpu_seconds(apply, wave_NT) for _ in range(repeats))


def cpu_seconds(apply: Apply, wave_NT: Tensor) -> float:
    start = time.process_time()
    apply(wave_NT)
    return time.process_time() - start


def measure_chains(wave_NT: Tensor, rounds: int) -> tuple[list[dict[str, Any]], float]:
    """The authors' chain and ours by turns; and the median ratio, ours being the mean of two calls around theirs."""
    theirs, mine = authors_chain(len(wave_NT)), ours(AugmentConfig(), len(wave_NT))
    mine(wave_NT)
    theirs(wave_NT)
    seconds = []
    for _ in range(rounds):
        before, authors, after = (cpu_seconds(apply, wave_NT) for apply in (mine, theirs, mine))
        seconds.append((authors, (before + after) / 2))
    rates = [len(wave_NT) / median(column) for column in zip(*seconds, strict=True)]
    rows = [row("chain", who, rate) for who, rate in zip(("authors", "counterpoint"), rates, strict=True)]
    return rows, median(authors / own for authors, own in seconds)


def measure_effects(wave_NT: Tensor, repeats: int) -> list[dict[str, Any]]:
    few = wave_NT[:12]
    jobs: list[tuple[str, str, Apply, Tensor]] = []
    jobs += [("counterpoint", effect, ours(alone(effect), len(wave_NT)), wave_NT) for effect in EFFECTS]
    theirs = torch_audiomentations(lambda _: 1.0)
    jobs += [("torch-audiomentations", effect, apply, few) for effect, apply in theirs.items()]
    jobs += [(peer, effect, apply, few) for (peer, effect), apply in one_by_one_peers().items()]
    return [
        row(effect, peer, clips_a_cpu_second(apply, clips, repeats if peer == "counterpoint" else max(2, repeats // 2)))
        for peer, effect, apply, clips in jobs
    ]


def row(effect: str, who: str, rate: float) -> dict[str, Any]:
    print(f"{effect:10s} {who:24s} {rate:10.1f}", flush=True)
    return {"effect": effect, "who": who, "clips_per_cpu_s": round(rate, 1)}


def as_markdown(report: dict[str, Any]) -> str:
    head = (
        f"# augment ({report['machine']})\n\n{report['what']}\n\n| effect | who | clips a CPU-second |\n|---|---|---|\n"
    )
    lines = (f"| {row['effect']} | {row['who']} | {row['clips_per_cpu_s']} |\n" for row in report["rows"])
    return head + "".join(lines) + f"\nChain over the authors': {report['chain_ratio']}× (goal {GOAL:g}×).\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    augment_gpu.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.gpu:
        augment_gpu.main(arguments)
        return
    warnings.simplefilter("ignore")  # the peers' own deprecations
    torch.set_num_threads(1)
    batch = arguments.batch
    wave = struck_notes(1, 1, num_clips=12).repeat(-(-batch // 12), 1)[:batch] + 1e-4 * torch.randn(batch, 59_049)
    with torch.no_grad():
        rows, ratio = measure_chains(wave, arguments.repeats)
        rows += measure_effects(wave, arguments.repeats)
    report = {
        "machine": f"cpu, {platform.machine()}, one thread, shared",
        "torch": torch.__version__,
        "what": f"59,049 samples, B = {arguments.batch}, median of {arguments.repeats}; an effect alone: on all rows.",
        "rows": rows,
        "chain_ratio": round(ratio, 1),
    }
    RESULTS.mkdir(exist_ok=True)
    name = f"augment-cpu-2core{'' if arguments.batch == 96 else f'-b{arguments.batch}'}"
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(as_markdown(report))
    print(f"chain over the authors': {report['chain_ratio']}x, goal {GOAL:g}x\n{RESULTS / name}.md")


if __name__ == "__main__":
    main()
