"""A training step on one GPU: its phases in line, the loop with views made one batch ahead, the largest batch.

    python -m benchmarks.step --gpu [--seconds 170]

Each line comes from a process of its own that is given the time left; what it printed before it was stopped is kept.
Windows lie in host memory as the loader leaves them; how fast it fills them is `benchmarks.loader`'s to say.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.apart import rows_apart
from benchmarks.windows import TAGS, make_batch
from data_shards.format.records import Batch
from data_shards.sampling.config import DataConfig
from trainers.config import ExperimentConfig
from trainers.encoders.config import EncoderConfig
from trainers.frontends.config import FrontendConfig
from trainers.monitor.metrics import PhaseClock
from trainers.state.optim_config import OptimConfig
from trainers.step import StepTrainer
from trainers.views.views import ViewMaker, Views, stream_views, window_frames

CLIPS, STEPS = 96, 10
MOST_CLIPS, SLOWEST_STEP_S = 24_576, 8.0
"""Where the search for the largest batch ends without running out of memory."""
GIB = 1 << 30
GOAL = 0.05
"""Of a step, everything but the encoder."""
RESULTS = Path(__file__).parent / "results"
PHASES = ("views", "encoder", "loss", "optimiser", "metrics")
PLAIN, HALF = OptimConfig(), OptimConfig(precision="bfloat16")
VARIANTS: dict[str, tuple[str, OptimConfig]] = {
    "sample_cnn float32": ("sample_cnn", PLAIN),
    "sample_cnn bfloat16": ("sample_cnn", HALF),
    "mel_cnn bfloat16, channels last": ("mel_cnn", replace(HALF, channels_last=True)),
    "mel_cnn float32": ("mel_cnn", PLAIN),
    "tune_plus bfloat16": ("tune_plus", HALF),
    "sample_cnn bfloat16, 96 clips at once": ("sample_cnn", replace(HALF, micro_batch=96)),
}
LARGEST = ("sample_cnn bfloat16", "sample_cnn bfloat16, 96 clips at once", "sample_cnn float32")
Row = dict[str, Any]


def experiment(variant: str, clips: int = CLIPS, samples: int | None = None) -> ExperimentConfig:
    """The paper's step: half the clips labelled, two views, Table 1's chain."""
    name, optim = VARIANTS[variant]
    if optim.micro_batch is not None:
        optim = replace(optim, micro_batch=min(optim.micro_batch, clips))
    config = ExperimentConfig(
        data=DataConfig(batch=clips, b_s=0.5),
        encoder=EncoderConfig(
            name=name,
            batch_norm="sync" if optim.micro_batch is None else "micro",
        ),
        frontend=FrontendConfig(kind="mel" if name == "mel_cnn" else "wave"),
        optim=optim,
    )
    return config if samples is None else replace(config, views=replace(config.views, samples=samples))


class Bench:
    """A trainer, its views and its windows."""

    def __init__(self, config: ExperimentConfig, device: torch.device) -> None:
        self.device = device
        self.maker = ViewMaker(config.views, config.augment, config.frontend, device=device)
        self.trainer = StepTrainer(config, num_tags=TAGS, device=device)
        frames = window_frames(config.views, config.augment)
        few = make_batch(min(CLIPS, config.data.batch), frames)
        times = config.data.batch // len(few.slot_B)
        ids = torch.arange(config.data.batch)
        wave_BT = few.wave_BT.repeat(times, 1)
        wave_BT = wave_BT.pin_memory() if device.type == "cuda" else wave_BT  # as the loader's are
        self.batch = Batch(wave_BT, few.frames_B.repeat(times), ids, few.labels_BC.repeat(times, 1), ids)

    def make(self, step: int) -> Views:
        """Views of the batch, in line."""
        return self.maker.make(self.batch, step=step, seed=0)

    def in_line(self, steps: int) -> dict[str, float]:
        """Median seconds of each phase, one after the other on the device's own time line."""
        found = []
        for step in range(steps):
            clock = PhaseClock(self.device)
            views = self.make(step)
            clock.mark("views")
            result = self.trainer.train_step(views, step)
            self.wait()
            found.append(clock.seconds() | result.clock.seconds())
        return {name: median(phases[name] for phases in found) for name in PHASES}

    def looped(self, views: Iterator[Views]) -> float:
        """Seconds a step of the loop; like training the host reads a step's metrics while the next one runs."""
        pending = self.trainer.train_step(next(views), 0)
        self.wait()
        began, steps = time.perf_counter(), 0
        for step, made in enumerate(views, 1):
            launched = self.trainer.train_step(made, step)
            float(pending.metrics["loss"])
            pending, steps = launched, steps + 1
        self.wait()
        return (time.perf_counter() - began) / steps

    def ahead(self, steps: int) -> Iterator[Views]:
        """Views as training gets them: on a GPU on their own stream, one batch ahead."""
        return stream_views(self.maker, ((step, self.batch) for step in range(steps)), seed=0)

    def wait(self) -> None:
        """Until the device has done all."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(variant: str, device: torch.device, steps: int, clips: int, samples: int | None) -> Row:
    """Phases in line, and a step of the loop with views in line, ahead, and made once."""
    bench = Bench(experiment(variant, clips, samples), device)
    for step in range(3):
        views = bench.make(step)
        bench.trainer.train_step(views, step)
    bench.wait()
    memory = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    phases = bench.in_line(steps)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    inline_s = bench.looped(bench.make(step) for step in range(steps + 1))
    ahead_s = bench.looped(bench.ahead(steps + 1))
    reused_s = bench.looped(views for _ in range(steps + 1))
    return {
        "name": variant,
        "clips": clips,
        **phases,
        "memory_gib": memory / GIB,
        "inline_s": inline_s,
        "ahead_s": ahead_s,
        "reused_s": reused_s,
        "but_encoder": max(0.0, 1 - phases["encoder"] / ahead_s),
        "views_seen": max(0.0, 1 - reused_s / ahead_s),
    }


def largest(variant: str, device: torch.device, most: int, samples: int | None) -> Iterator[Row]:
    """A row for each doubling of the batch that fits, and one for how the search ended."""
    clips, ended = CLIPS if most >= CLIPS else most // 2, f"stopped at {most:,} clips"
    while clips <= most:
        try:
            seconds, memory = _one_step(variant, clips, device, samples)
        except torch.OutOfMemoryError:
            ended = f"{clips:,} clips do not fit"
            break
        yield {"name": variant, "fits": clips, "seconds": seconds, "memory_gib": memory / GIB}
        if seconds > SLOWEST_STEP_S:
            ended = f"stopped: a step of {clips:,} clips takes {seconds:.1f} s"
            break
        clips *= 2
    yield {"name": variant, "largest_ended": ended}


def _one_step(variant: str, clips: int, device: torch.device, samples: int | None) -> tuple[float, int]:
    """The second of two steps; what the first held is freed whether it ends or not."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    bench = Bench(experiment(variant, clips, samples), device)
    seconds = 0.0
    for step in range(2):
        began = time.perf_counter()
        bench.trainer.train_step(bench.make(step), step)
        bench.wait()
        seconds = time.perf_counter() - began
    return seconds, torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def as_markdown(report: dict[str, Any]) -> str:
    rows = report["rows"]
    lines = [f"# step on a GPU ({report['machine']})", "", report["what"], ""]
    lines += [
        "| ms a step of 96 × 2 | "
        + " | ".join(PHASES)
        + " | loop, views in line | loop, views ahead | loop, no views | all but the encoder | memory GiB |"
    ]
    lines += ["|---|" + "---|" * (len(PHASES) + 5)]
    for row in rows:
        if "ahead_s" in row:
            cells = [f"{1e3 * row[name]:.2f}" for name in (*PHASES, "inline_s", "ahead_s", "reused_s")]
            lines.append(
                f"| {row['name']} | {' | '.join(cells)} | {row['but_encoder']:.1%} | {row['memory_gib']:.1f} |"
            )
    lines += ["", "| largest batch | clips that fit | s a step | memory GiB | then |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["name"] for row in rows if "fits" in row):
        best = [row for row in rows if row["name"] == name and "fits" in row][-1]
        then = [row["largest_ended"] for row in rows if row["name"] == name and "largest_ended" in row] or [
            "out of time"
        ]
        lines.append(f"| {name} | {best['fits']:,} | {best['seconds']:.2f} | {best['memory_gib']:.1f} | {then[0]} |")
    lines += [f"\n{row['name']} did not end: {row['failed']}" for row in rows if "failed" in row]
    return "\n".join(lines) + f"\n\nGoal: everything but the encoder at most {GOAL:.0%} of a step.\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``--gpu``."""
    parser.add_argument("--gpu", action="store_true", help="one GPU, see benchmarks/step_gpu.py")
    parser.add_argument("--seconds", type=float, default=170.0, help="of a whole run with --gpu")
    parser.add_argument("--device", default="cuda", help="cpu: a dry run of --gpu")
    parser.add_argument("--clips", type=int, default=CLIPS, help="of a step, with --gpu")
    parser.add_argument("--most", type=int, default=MOST_CLIPS, help="clips, with --gpu")
    parser.add_argument("--samples", type=int, help="of a view, with --gpu")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each loop, with --gpu")
    parser.add_argument("--largest", default="", help=argparse.SUPPRESS)


def main(asked: argparse.Namespace) -> None:
    """One part in this process, or all within their time, the tables written after each."""
    device = torch.device(asked.device)
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--gpu: torch finds no GPU here; --device cpu is a dry run")
    if asked.measure:
        print(json.dumps(measure(asked.measure, device, asked.steps, asked.clips, asked.samples)), flush=True)
        return
    if asked.largest:
        for row in largest(asked.largest, device, asked.most, asked.samples):
            print(json.dumps(row), flush=True)
        return
    ends = time.monotonic() + asked.seconds
    machine = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU, a dry run"
    what = f"Table 1's chain, two views of 59,049 samples, half the clips labelled; medians of {asked.steps} steps."
    report: dict[str, Any] = {"machine": machine, "torch": torch.__version__, "what": what, "rows": []}
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"step-gpu-{machine.lower().replace(', ', '-').replace(' ', '-')}"
    given = [
        "--device",
        asked.device,
        "--clips",
        str(asked.clips),
        "--most",
        str(asked.most),
        "--steps",
        str(asked.steps),
    ]
    given += [] if asked.samples is None else ["--samples", str(asked.samples)]
    # The numbers that goals are about come first: time may run out.
    parts = [["--measure", name] for name in list(VARIANTS)[:3]]
    parts += [["--largest", name] for name in LARGEST[:2]]
    parts += [["--measure", name] for name in list(VARIANTS)[3:] if "at once" not in name]
    parts += [["--largest", name] for name in LARGEST[2:]]
    for part in parts:
        found, ended = rows_apart("benchmarks.step", ["--gpu", *part, *given], min(ends - time.monotonic(), 60.0))
        report["rows"] += [*found, {"name": " ".join(part), "failed": ended}] if ended else found
        stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        stem.with_suffix(".md").write_text(as_markdown(report))
    print(as_markdown(report))
