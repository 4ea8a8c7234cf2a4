"""The augmentation chain against its peers: clips a CPU-second on one thread, effect by effect and the whole chain.

    python -m benchmarks.augment [--batch 96] [--repeats 5]
    python -m benchmarks.augment --gpu                       the chain in kernels, see benchmarks/augment_gpu.py

The peers are torch-audiomentations (each example its own parameters), audiomentations and pedalboard (clip by clip),
from the optional extra ``bench``. The authors' chain is Table 1 out of torch-audiomentations, with our echo.
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
from trainers.augment.delay import echo
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
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        apply(wave_NT)
        seconds.append(time.process_time() - start)
    return len(wave_NT) / median(seconds)


def measure(batch: int, repeats: int) -> list[dict[str, Any]]:
    wave = struck_notes(1, 1, num_clips=12).repeat(-(-batch // 12), 1)[:batch] + 1e-4 * torch.randn(batch, 59_049)
    few = wave[:12]
    jobs: list[tuple[str, str, Apply, Tensor]] = [("authors", "chain", authors_chain(batch), wave)]
    jobs += [("counterpoint", "chain", ours(AugmentConfig(), batch), wave)]
    jobs += [("counterpoint", effect, ours(alone(effect), batch), wave) for effect in EFFECTS]
    theirs = torch_audiomentations(lambda _: 1.0)
    jobs += [("torch-audiomentations", effect, apply, few) for effect, apply in theirs.items()]
    jobs += [(peer, effect, apply, few) for (peer, effect), apply in one_by_one_peers().items()]
    rows = []
    for peer, effect, apply, clips in jobs:
        rate = clips_a_cpu_second(apply, clips, repeats if peer == "counterpoint" else max(2, repeats // 2))
        rows.append({"effect": effect, "who": peer, "clips_per_cpu_s": round(rate, 1)})
        print(f"{effect:10s} {peer:24s} {rate:10.1f}", flush=True)
    return rows


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
    with torch.no_grad():
        rows = measure(arguments.batch, arguments.repeats)
    rate = {(row["who"], row["effect"]): row["clips_per_cpu_s"] for row in rows}
    report = {
        "machine": f"cpu, {platform.machine()}, one thread, shared",
        "torch": torch.__version__,
        "what": f"59,049 samples, B = {arguments.batch}, median of {arguments.repeats}; an effect alone: on all rows.",
        "rows": rows,
        "chain_ratio": round(rate["counterpoint", "chain"] / rate["authors", "chain"], 1),
    }
    RESULTS.mkdir(exist_ok=True)
    name = f"augment-cpu-2core{'' if arguments.batch == 96 else f'-b{arguments.batch}'}"
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(as_markdown(report))
    print(f"chain over the authors': {report['chain_ratio']}x, goal {GOAL:g}x\n{RESULTS / name}.md")


if __name__ == "__main__":
    main()
