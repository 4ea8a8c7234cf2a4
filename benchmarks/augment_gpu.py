"""The augmentation chain on one GPU: torch's operations, the same compiled, and the kernels, against the roofline.

    python -m benchmarks.augment --gpu [--seconds 100]

Each of the three runs in a process of its own, fused first, and is given the time that is left: what it has measured is
kept when it is stopped. Clips a second are those of `AugmentChain.apply` by CUDA events over batches with different
draws, and of the view worker from int16 windows, its draws on the host included. The roofline is a device copy in the
same process; bytes are those of `benchmarks.traffic`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks import traffic
from benchmarks.apart import rows_apart
from benchmarks.windows import make_batch
from trainers.augment import chain as chain_module
from trainers.augment.chain import AugmentChain
from trainers.augment.parameters import PRESETS, AugmentConfig
from trainers.frontend_config import FrontendConfig
from trainers.views import ViewMaker
from trainers.views_config import ViewsConfig

RATE, SAMPLES = 22_050, 59_049
RESULTS = Path(__file__).parent / "results"
EFFECTS = ("gain", "polarity", "noise", "filter", "pitch", "stretch", "delay")
WAYS = ("fused", "eager", "compiled")
BATCHES = (3_072, 192)
DRAWS, REPEATS = 4, 12
GOAL = 250_000
COPY_BYTES = 1 << 30
Row = dict[str, Any]


def alone(effect: str) -> AugmentConfig:
    """One effect for every row, at its ranges of Table 1."""
    none = PRESETS["none"]
    return replace(none, **{effect: replace(getattr(none, effect), p=1.0)})


def cases() -> Iterator[tuple[str, AugmentConfig]]:
    yield "chain", PRESETS["paper"]
    for effect in EFFECTS:
        yield effect, alone(effect)


def seconds_a_call(work: Callable[[int], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Median over ``repeats``, each with its own number, after every draw was met once and every kernel compiled."""
    for draw in range(DRAWS):
        work(draw)
    seconds = []
    for number in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            work(number)
            end.record()
            end.synchronize()
            seconds.append(float(start.elapsed_time(end)) / 1e3)
        else:
            began = time.perf_counter()
            work(number)
            seconds.append(time.perf_counter() - began)
    return median(seconds)


def copy_rate(device: torch.device, size: int = COPY_BYTES) -> float:
    """Bytes a second that a copy on the device reads and writes."""
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    return float(2 * source.nbytes) / seconds_a_call(lambda _: target.copy_(source), device)


@contextmanager
def effects_of(way: str) -> Iterator[None]:
    """The chain's effects as torch runs them or as torch.compile makes them."""
    with ExitStack() as stack:
        if way == "compiled":
            for name in ("pitch_time", "shape_spectrum", "echo"):
                compiled = torch.compile(getattr(chain_module, name), dynamic=True)
                stack.enter_context(mock.patch.object(chain_module, name, compiled))
        yield


def measure(way: str, batches: tuple[int, ...], device: torch.device, samples: int, copy_bytes: int) -> Iterator[Row]:
    """Rows of one way as they are found; the copy first."""
    rate = copy_rate(device, copy_bytes)
    yield {"case": "copy", "who": way, "bytes_a_s": rate}
    with effects_of(way), torch.no_grad():
        for batch in batches:
            # The published chain at both sizes comes first: it is what the goal is about.
            wave = 0.1 * torch.randn(batch, samples, device=device)
            for name, config in cases():
                yield chain_row(way, name, config, wave) | {"copy_bytes_a_s": rate}
            yield views_row(way, batch, device, samples) | {"copy_bytes_a_s": rate}
    if way == "fused" and device.type == "cuda":
        yield {"case": "kernels", "who": way, "kernels": kernel_times(batches[0], device, samples)}


def chain_row(way: str, name: str, config: AugmentConfig, wave: Tensor) -> Row:
    batch, samples = wave.shape
    chain = AugmentChain(config, RATE, fused=way == "fused")
    draws = [chain.draw(torch.arange(batch), step=step, seed=0, view=0) for step in range(DRAWS)]
    seconds = seconds_a_call(lambda k: chain.apply(wave, draws[k % DRAWS]), wave.device)
    if way == "fused":
        size = sum(traffic.fused_bytes(config, drawn, samples) for drawn in draws) / DRAWS
    else:
        size = traffic.eager_bytes(config, draws[0], samples, RATE)
    memory = torch.cuda.max_memory_allocated() if wave.is_cuda else 0
    return {"case": name, "batch": batch, "who": way, "clips_a_s": batch / seconds, "bytes": size, "peak": memory}


def views_row(way: str, batch: int, device: torch.device, samples: int) -> Row:
    """Two views a clip from int16 windows on the device, with their draws."""
    views = ViewsConfig(samples=samples, chunk=512)
    maker = ViewMaker(views, PRESETS["paper"], FrontendConfig(), device=device)
    maker.chain.fused = way == "fused"
    clips = make_batch(batch // 2, 2 * samples)
    clips = clips._replace(wave_BT=clips.wave_BT.to(device))
    seconds = seconds_a_call(lambda step: maker.make(clips, step=step % DRAWS, seed=0), device)
    return {"case": "views", "batch": batch, "who": way, "clips_a_s": batch / seconds}


def kernel_times(batch: int, device: torch.device, samples: int) -> list[dict[str, Any]]:
    """Microseconds a clip of each kernel of the fused chain, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    chain = AugmentChain(PRESETS["paper"], RATE, fused=True)
    wave = 0.1 * torch.randn(batch, samples, device=device)
    drawn = chain.draw(torch.arange(batch), step=0, seed=0, view=0)
    chain.apply(wave, drawn)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        chain.apply(wave, drawn)
        torch.cuda.synchronize()
    times = [(e.key, e.self_device_time_total, e.count) for e in found.key_averages() if e.self_device_time_total > 0]
    times.sort(key=lambda row: -row[1])
    return [{"kernel": name[:60], "us_a_clip": us / batch, "launches": count} for name, us, count in times[:24]]


def as_markdown(report: dict[str, Any]) -> str:
    rows = report["rows"]
    copies = {row["who"]: row["bytes_a_s"] for row in rows if row["case"] == "copy"}
    lines = [f"# augment on a GPU ({report['machine']})", "", report["what"], ""]
    lines += [f"Device copy: {', '.join(f'{rate / 1e12:.2f} TB/s ({who})' for who, rate in copies.items())}.", ""]
    lines += [
        "| effect | rows | who | clips/s | MB a clip (counted) | TB/s | share of the copy |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "clips_a_s" not in row:
            continue
        moved = row["bytes"] * row["clips_a_s"] if "bytes" in row else None
        cells = [row["case"], f"{row['batch']:,}", row["who"], f"{row['clips_a_s']:,.0f}"]
        cells += ["–"] * 3 if moved is None else [
            f"{row['bytes'] / 1e6:.2f}", f"{moved / 1e12:.2f}", f"{moved / row['copy_bytes_a_s']:.0%}"
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for row in rows:
        if row["case"] == "kernels":
            lines += ["", "| kernel of the fused chain | µs a clip | launches |", "|---|---|---|"]
            lines += [f"| {k['kernel']} | {k['us_a_clip']:.3f} | {k['launches']} |" for k in row["kernels"]]
    lines += [f"\n{row['who']} did not end: {row['why']}" for row in rows if row["case"] == "failed"]
    best = [r for r in rows if r["case"] == "chain" and r.get("who") == "fused"]
    lines += [
        f"\nGoal: the fused chain at {GOAL:,} clips/s; "
        + ", ".join(f"{r['clips_a_s']:,.0f} at {r['batch']:,} rows" for r in best)
        + "."
    ]
    return "\n".join(lines) + "\n"


def counted(samples: int = SAMPLES) -> str:
    """The prediction: MB a clip of both chains, effect by effect."""
    lines = ["| effect | eager MB a clip | fused MB a clip | ratio |", "|---|---|---|---|"]
    for name, config in cases():
        drawn = AugmentChain(config, RATE).draw(torch.arange(512), step=0, seed=0, view=0)
        eager = traffic.eager_bytes(config, drawn, samples, RATE) / 1e6
        fused = traffic.fused_bytes(config, drawn, samples) / 1e6
        lines.append(f"| {name} | {eager:.2f} | {fused:.2f} | {eager / fused:.1f} |")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``--gpu``."""
    parser.add_argument("--gpu", action="store_true", help="the chain in kernels on one GPU")
    parser.add_argument("--seconds", type=float, default=110.0, help="of a whole run with --gpu")
    parser.add_argument("--device", default="cuda", help="cpu: a dry run of --gpu, in which Triton interprets")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), help="rows, with --gpu")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of a row, with --gpu")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)


def main(asked: argparse.Namespace) -> None:
    """One way in this process, or all ways within their time, the tables written after each."""
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--gpu: torch finds no GPU here; --device cpu is a dry run")
    if asked.measure:
        copy_bytes = COPY_BYTES if asked.device == "cuda" else 1 << 20
        batches = tuple(asked.batches)
        for row in measure(asked.measure, batches, torch.device(asked.device), asked.samples, copy_bytes):
            print(json.dumps(row), flush=True)
        return
    print(counted(), flush=True)
    ends = time.monotonic() + asked.seconds
    machine = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU, a dry run"
    what = f"Table 1's chain, and each effect on all rows; {asked.samples:,} samples, chunks of 512."
    report: dict[str, Any] = {"machine": machine, "torch": torch.__version__, "what": what, "rows": []}
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"augment-gpu-{machine.lower().replace(', ', '-').replace(' ', '-')}"
    given = ["--batches", *map(str, asked.batches), "--samples", str(asked.samples)]
    for way in WAYS:
        arguments = ["--gpu", "--measure", way, "--device", asked.device, *given]
        found, ended = rows_apart("benchmarks.augment", arguments, ends - time.monotonic())
        report["rows"] += [*found, {"case": "failed", "who": way, "why": ended}] if ended else found
        stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        stem.with_suffix(".md").write_text(f"{as_markdown(report)}\n## Counted beforehand\n\n{counted()}\n")
    print(as_markdown(report))
