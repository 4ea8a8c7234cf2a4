"""What it costs to embed a chunk of 2.7 s: this code, that of release 0.1, and onnxruntime on the exported model.

    python -m benchmarks.embedding [--rounds 3] [--threads 1] [--only tune_plus]

Every way runs in a process of its own, by turns; a row is the median over rounds. Work is what `counterpoint embed`
gives an encoder: 64 chunks of noise at once, front-end included. Milliseconds are of processor time, so that they can
be compared on a shared machine; with several threads they are of the clock. Memory is the rise of the peak over what
the process held with its encoder. The numbers are those of the plain layers to 1e-5
(`tests/trainers/inference/cpu/test_folded.py`).
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.base import ROOT, base_tree, measured

RESULTS = Path(__file__).parent / "results"
ENCODERS = {"sample_cnn": "wave", "tune_plus": "wave", "mel_cnn": "mel"}
WAYS = ("0.1", "now", "onnxruntime")
CHUNKS, SAMPLES = 64, 59_049
REPEATS = 3


def measure(way: str, name: str, threads: int, onnx: str) -> None:
    """One way of one encoder in this process, printed as JSON; with 0.1 its modules come first on the path."""
    import torch

    torch.set_num_threads(threads)
    wave_NT = 0.3 * torch.randn(CHUNKS, SAMPLES, generator=torch.Generator().manual_seed(0))
    embed = _onnx(onnx, threads) if way == "onnxruntime" else _torch(way, name)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    embed(wave_NT)
    found = []
    for _ in range(REPEATS):
        cpu, clock = time.process_time(), time.perf_counter()
        embed(wave_NT)
        found.append((time.process_time() - cpu, time.perf_counter() - clock))
    cpu_s, clock_s = (1e3 / CHUNKS * min(times) for times in zip(*found, strict=True))
    print(json.dumps({"cpu_ms": cpu_s, "clock_ms": clock_s, "mb": (_status("VmHWM") - before) / 1e3}))


def _torch(way: str, name: str) -> Callable[[Any], Any]:
    from cluster.settings import load_config
    from trainers.config import ExperimentConfig

    keys = [f"encoder.name={name}", f"frontend.kind={ENCODERS[name]}"]
    if way == "0.1":
        from evaluation.embed import run_encoder  # type: ignore[import-not-found]
        from trainers.frozen import FrozenEncoder  # type: ignore[import-not-found]
    else:
        from cluster.machine.process import keep_freed_memory
        from evaluation.embeddings.embed import run_encoder
        from trainers.inference.frozen import FrozenEncoder

        keep_freed_memory()  # as the pool of encoders does
    encoder = FrozenEncoder(load_config(ExperimentConfig, None, keys), None, hash="", provenance={})
    return lambda wave_NT: run_encoder(encoder, wave_NT)


def _onnx(file: str, threads: int) -> Callable[[Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    # As many chunks at once as it is fastest with: 4 and 64 were tried.
    return lambda wave_NT: [session.run(None, {"wave": part.numpy()}) for part in wave_NT.split(4)]


def export(name: str, folder: Path) -> Path:
    """The encoder as ONNX, as `counterpoint export` writes it."""
    import torch

    from cluster.settings import load_config
    from trainers.config import ExperimentConfig
    from trainers.inference.frozen import FrozenEncoder

    keys = [f"encoder.name={name}", f"frontend.kind={ENCODERS[name]}"]
    encoder = FrozenEncoder(load_config(ExperimentConfig, None, keys), None, hash="", provenance={})
    file = folder / f"{name}.onnx"
    torch.onnx.export(
        encoder,
        (torch.zeros(2, SAMPLES),),
        file,
        dynamo=True,
        input_names=["wave"],
        dynamic_shapes=({0: torch.export.Dim("chunks")},),
        verbose=False,
    )
    return file


def _status(field: str) -> int:
    """A line of this process's status, kB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", choices=ENCODERS, nargs="+", default=list(ENCODERS), help="other rows stay as they are"
    )
    asked = parser.parse_args()
    rows: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder, base_tree() as base:
        files = {name: str(export(name, Path(folder))) for name in asked.only}
        for _ in range(asked.rounds):
            for name in asked.only:
                for way in WAYS:
                    call = f"measure({way!r}, {name!r}, {asked.threads}, {files[name]!r})"
                    tree, environment = base if way == "0.1" else ROOT, {"OMP_NUM_THREADS": str(asked.threads)}
                    found = measured(call, "benchmarks.embedding", tree, environment)
                    rows.setdefault(name, {}).setdefault(way, []).append(found)
    key = "cpu_ms" if asked.threads == 1 else "clock_ms"
    place = RESULTS / f"embedding-{platform.machine()}-{asked.threads}threads"
    if len(rows) < len(ENCODERS) and (before := place.with_suffix(".json")).exists():
        rows = json.loads(before.read_text(encoding="utf-8")) | rows
    text = table(rows, key, asked.threads)
    place.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    place.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def table(rows: dict[str, dict[str, list[dict[str, float]]]], key: str, threads: int) -> str:
    """The medians as Markdown."""
    lines = [
        f"# Milliseconds to embed a chunk of 2.7 s, {threads} thread(s), 2 shared cores",
        "",
        f"`python -m benchmarks.embedding --threads {threads}`; by turns, medians of rounds; MB is the peak's rise.",
        "",
        "| encoder | 0.1 | now | onnxruntime | 0.1 / now | onnxruntime / now | MB: 0.1 | now | onnxruntime |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, ways in rows.items():
        ms = {way: median(row[key] for row in found) for way, found in ways.items()}
        mb = {way: median(row["mb"] for row in found) for way, found in ways.items()}
        times = " | ".join(f"{ms[way]:.1f}" for way in WAYS)
        ratios = f"{ms['0.1'] / ms['now']:.2f} | {ms['onnxruntime'] / ms['now']:.2f}"
        lines.append(f"| {name} | {times} | {ratios} | {' | '.join(f'{mb[way]:.0f}' for way in WAYS)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
