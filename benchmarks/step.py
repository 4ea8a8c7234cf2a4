"""One optimisation step of 96 clips with two views, phase by phase, against the authors' own.

    python -m benchmarks.step                     SampleCNN and Mel-CNN on one CPU thread
    python -m benchmarks.step --only mel_cnn
    python -m benchmarks.step --gpu               one GPU, see benchmarks/step_gpu.py

Each line comes from a process of its own: CPU-seconds of one step after a warm-up with eight clips, and the rise of
resident memory. The peer is the authors' way measured in the same run, on a
quarter of the batch and times four: the same encoder under plain automatic differentiation, BatchNorm of the batch,
their loss, and their augmentation chain out of torch-audiomentations where it is installed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import step_gpu
from benchmarks.loss import Rows, authors, resident_bytes
from benchmarks.windows import TAGS, make_batch
from cluster.machine.process import keep_freed_memory
from cluster.machine.resources import multiplies_bfloat16
from data_shards.sampling.config import DataConfig
from trainers.config import ExperimentConfig
from trainers.encoders.config import EncoderConfig
from trainers.encoders.sample_cnn import SampleCnn
from trainers.frontends.config import FrontendConfig
from trainers.monitor.metrics import PhaseClock
from trainers.state.optim_config import OptimConfig
from trainers.step import StepTrainer
from trainers.views.views import ViewMaker, window_frames

CLIPS, WARM, QUARTER = 96, 8, 24
QUOTED = {"seconds": 62.0, "memory_gib": 13.2}
"""The authors' step as measured once, extrapolated from 48 clips with two views."""
RESULTS = Path(__file__).parent / "results"
GIB = 1 << 30
PHASES = ("read", "views", "encoder", "loss", "optimiser", "metrics")

PLAIN, HALF = OptimConfig(), OptimConfig(precision="bfloat16")
VARIANTS: dict[str, tuple[str, OptimConfig]] = {
    "sample_cnn float32": ("sample_cnn", PLAIN),
    "sample_cnn bfloat16": ("sample_cnn", HALF),
    "mel_cnn float32": ("mel_cnn", PLAIN),
    "mel_cnn float32, channels last": ("mel_cnn", replace(PLAIN, channels_last=True)),
    "mel_cnn bfloat16, channels last": ("mel_cnn", replace(HALF, channels_last=True)),
    "mel_cnn float32, 8 clips at once": ("mel_cnn", replace(PLAIN, micro_batch=8)),
    "sample_cnn bfloat16, 8 clips at once": ("sample_cnn", replace(HALF, micro_batch=8)),
    "sample_cnn float32, 8 clips at once": ("sample_cnn", replace(PLAIN, micro_batch=8)),
}


def experiment(variant: str, clips: int = CLIPS) -> ExperimentConfig:
    """The paper's step: half the clips labelled, two views, Table 1's chain."""
    name, optim = VARIANTS[variant]
    return ExperimentConfig(
        data=DataConfig(batch=clips, b_s=0.5),
        encoder=EncoderConfig(
            name="mel_cnn" if name == "mel_cnn" else "sample_cnn",
            batch_norm="sync" if optim.micro_batch is None else "micro",
        ),
        frontend=FrontendConfig(kind="mel" if name == "mel_cnn" else "wave"),
        optim=optim,
    )


@contextmanager
def batches(config: ExperimentConfig) -> Iterator[Any]:
    """A function from step to batch, out of shards."""
    frames = window_frames(config.views, config.augment)
    from data_shards.build.build import BuildConfig, build
    from data_shards.read.loader import BatchLoader
    from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus

    with tempfile.TemporaryDirectory() as folder:
        for k, name in enumerate(("labelled", "unlabelled")):
            clips = list(corpus(SyntheticConfig(tracks=16, seconds=8.0, valid_share=0.0, test_share=0.0, seed=k)))
            bare = [replace(clip, key=f"u-{clip.key}", multilabel={}, categorical={}, numeric={}) for clip in clips]
            build(bare if k else clips, Path(folder) / name, BuildConfig(workers=1))
        data = replace(config.data, labelled=f"{folder}/labelled", unlabelled=f"{folder}/unlabelled")
        with BatchLoader(data, frames=frames, seed=0, num_threads=1, prefetch=1) as loader:
            yield lambda step: next(loader.batches(step, step + 1))


def measure(variant: str, clips: int, repeats: int) -> dict[str, Any]:
    """Phases and memory of one variant; meant for a process of its own, set up as `trainers.loop.train` does."""
    keep_freed_memory()
    config, device = experiment(variant, clips), torch.device("cpu")
    maker = ViewMaker(config.views, config.augment, config.frontend, device=device)
    trainer = StepTrainer(config, num_tags=TAGS, device=device)
    warm = make_batch(WARM, window_frames(config.views, config.augment))
    with batches(config) as batch_of:
        trainer.train_step(maker.make(warm, step=0, seed=0), 0, log_details=True)
        before = _reset_memory()
        found = []
        for step in range(1, 1 + repeats):
            clock = PhaseClock(device)
            batch = batch_of(step)
            clock.mark("read")
            views = maker.make(batch, step=step, seed=0)
            clock.mark("views")
            result = trainer.train_step(views, step, log_details=True)
            float(result.metrics["loss"])
            found.append(clock.seconds() | result.clock.seconds())
        memory = resident_bytes("VmHWM") - before
    best = min(found, key=lambda phases: sum(phases.values()))
    return {"seconds": sum(best.values()), "memory_gib": memory / GIB, **{name: best[name] for name in PHASES}}


def measure_authors() -> dict[str, Any]:
    """Their step on a quarter of the batch, times four (CPU only)."""
    try:
        from benchmarks.augment import authors_chain

        chain = authors_chain(2 * QUARTER)
        how = "chain, encoder and loss measured"
    except ImportError:
        chain, how = None, "torch-audiomentations is not installed: encoder and loss alone"
    encoder = SampleCnn()  # as torch writes it out: its own BatchNorm does not use our CPU kernels
    head = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 128))
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-4)
    batch = make_batch(QUARTER, 59_049)
    wave_NT = batch.wave_BT.float().div(32_768).repeat(2, 1)
    torch.autograd.backward(encoder(wave_NT[:4]).sum())
    before = _reset_memory()
    clock = PhaseClock(torch.device("cpu"))
    if chain:
        with torch.no_grad():
            wave_NT = chain(wave_NT)
    clock.mark("views")
    optimizer.zero_grad()
    z_ND = head(encoder(wave_NT))
    loss = authors(Rows(z_ND, batch.clip_id_B.repeat(2), batch.labels_BC.repeat(2, 1)))
    torch.autograd.backward(loss)
    clock.mark("encoder")
    optimizer.step()
    clock.mark("optimiser")
    memory = resident_bytes("VmHWM") - before
    phases = {name: 4 * seconds for name, seconds in clock.seconds().items()}
    return {"seconds": sum(phases.values()), "memory_gib": 4 * memory / GIB, **phases, "how": how}


def _reset_memory() -> int:
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    return before


def measured_apart(what: str, repeats: int) -> dict[str, Any]:
    """`measure` in a fresh process with one thread."""
    command = [sys.executable, "-m", "benchmarks.step", "--measure", what, "--repeats", str(repeats)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    metrics: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return metrics


def as_markdown(report: dict[str, Any]) -> str:
    """The table with ratios to the peer measured beside it."""
    lines = [
        f"# step ({report['machine']})\n\n{report['what']}\n",
        "| step of 96 clips × 2 views | CPU-s | over the authors' | memory GiB | over the authors' | "
        + " | ".join(PHASES)
        + " |",
        "|---|" + "---|" * (4 + len(PHASES)),
    ]
    base = report.get("authors")
    for row in [*([{"name": "the authors' way", **base}] if base else []), *report["rows"]]:
        ratios = [
            f"{row[key] / base[key]:.2f}" if base and "mel" not in row["name"] else "–"
            for key in ("seconds", "memory_gib")
        ]
        phases = " | ".join(f"{row[name]:.2f}" if name in row else "–" for name in PHASES)
        lines.append(
            f"| {row['name']} | {row['seconds']:.2f} | {ratios[0]} | {row['memory_gib']:.2f} | {ratios[1]} | {phases} |"
        )
    notes = (
        [f"\nPeer: {base['how']}. Measured before: {QUOTED['seconds']:g} CPU-s and {QUOTED['memory_gib']} GiB."]
        if base
        else []
    )
    notes += [f"\n{report['left_out']}"] if "left_out" in report else []
    return "\n".join(lines + notes) + "\n"


def write(report: dict[str, Any], name: str) -> None:
    """Both forms of the results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(as_markdown(report))


def run(only: str, name: str) -> dict[str, Any]:
    """All variants whose name begins with ``only``, and the peer; written row by row, for a run is long."""
    report: dict[str, Any] = {
        "machine": f"cpu, {platform.machine()}, one thread, shared",
        "torch": torch.__version__,
        "what": "Table 1's chain, two views of 59,049 samples, half the clips labelled. Encoder: forward and backward; "
        "loss: value and gradient; metrics: alignment, uniformity and effective rank.",
        "rows": [],
    }
    if "sample_cnn".startswith(only[:6]):
        report["authors"] = measured_apart("authors", 1)
        print("authors", report["authors"], flush=True)
    for variant, (_, optim) in VARIANTS.items():
        if optim.precision == "bfloat16" and not multiplies_bfloat16():
            report["left_out"] = "This CPU has no products of bfloat16: those rows were not run."
        elif variant.startswith(only):
            report["rows"].append({"name": variant, **measured_apart(variant, 3 if variant.startswith("mel") else 1)})
            print(report["rows"][-1], flush=True)
            write(report, name)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="variants whose name begins so")
    parser.add_argument("--repeats", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    step_gpu.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.gpu:
        step_gpu.main(arguments)
        return
    if arguments.measure:
        torch.set_num_threads(1)
        # Machines are shared: the phases count processor time instead of the clock on the wall.
        with mock.patch.object(time, "perf_counter", time.process_time):
            if arguments.measure == "authors":
                print(json.dumps(measure_authors()))
            else:
                print(json.dumps(measure(arguments.measure, CLIPS, arguments.repeats)))
        return
    name = f"step-cpu-2core{'-' if arguments.only else ''}{arguments.only}"
    report = run(arguments.only, name)
    write(report, name)
    print(as_markdown(report))


if __name__ == "__main__":
    main()
