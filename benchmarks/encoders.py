"""What every encoder costs: parameters, activations that a view keeps for backward, CPU time a view on one thread.

    python -m benchmarks.encoders [--repeats 3]

Activations are the tensors that autograd saves, each storage once, in float32: what two more views add, so that weights
and what is made of them once a batch do not count.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from trainers.frontend import build_frontend
from trainers.frontend_config import FrontendConfig
from trainers.model import build_encoder
from trainers.model_config import EncoderConfig

RATE = 22_050
RESULTS = Path(__file__).parent / "results"
CASES: tuple[tuple[EncoderConfig, str, int], ...] = (
    (EncoderConfig(name="sample_cnn"), "wave", 59_049),
    (EncoderConfig(name="sample_cnn"), "wave", 59_535),
    (EncoderConfig(name="tune_plus"), "wave", 59_049),
    (EncoderConfig(name="tune_plus"), "wave", 59_535),
    (EncoderConfig(name="mel_cnn"), "mel", 59_049),
    (EncoderConfig(name="nfnet"), "mule", 66_000),
    (EncoderConfig(name="nfnet", channels=64), "mule", 66_000),
)
"""Encoder, its front-end, samples of a view."""


def activation_bytes(encoder: nn.Module, views: Tensor) -> int:
    """Bytes that one forward keeps for its backward."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held = encoder(views)  # alive, or storages would be counted twice
    assert held.requires_grad
    return sum(kept.values())


def seconds_a_view(act: Callable[[], Any], views: int, repeats: int) -> float:
    """Median CPU time of one view, after one run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        began = time.process_time()
        act()
        times.append((time.process_time() - began) / views)
    return median(times[1:])


def measure(config: EncoderConfig, kind: Any, samples: int, repeats: int) -> dict[str, Any]:
    """One row."""
    torch.manual_seed(0)
    frontend = build_frontend(FrontendConfig(kind=kind), RATE)
    encoder = build_encoder(config)
    wave_NT = 0.3 * torch.randn(2, samples)
    views = frontend(wave_NT)

    def step() -> None:
        encoder.zero_grad(set_to_none=True)
        encoder(views).square().mean().backward()

    once = activation_bytes(encoder, views)
    row = {
        "encoder": config.name,
        "channels": config.channels,
        "input": list(views.shape[1:]),
        "samples": samples,
        "width": encoder.width,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "activations_mb": (activation_bytes(encoder, views.repeat(2, *[1] * (views.ndim - 1))) - once) / 2e6,
        "step_s": seconds_a_view(step, len(views), repeats),
        "frontend_s": seconds_a_view(lambda: frontend(wave_NT), len(views), repeats),
    }
    encoder.eval()
    with torch.no_grad():
        row["forward_s"] = seconds_a_view(lambda: encoder(views), len(views), repeats)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| encoder | input | width | parameters | activations, MB a view | forward, CPU-s a view | with backward |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        name = row["encoder"] + (f", channels={row['channels']}" if row["channels"] else "")
        shape = " × ".join(f"{size:,}" for size in row["input"])
        lines.append(
            f"| {name} | {shape} | {row['width']:,} | {row['parameters']:,} | {row['activations_mb']:.1f} "
            f"| {row['forward_s']:.3f} | {row['step_s']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(*case, options.repeats) for case in CASES]
    about = {"torch": torch.__version__, "machine": platform.machine(), "threads": 1, "views": 2}
    name = f"encoders-{platform.machine()}"
    (RESULTS / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    text = table(rows)
    (RESULTS / f"{name}.md").write_text(
        f"# Encoders, float32, torch {torch.__version__}, {platform.machine()}, one thread, batches of 2 views\n\n"
        f"`python -m benchmarks.encoders`; CPU seconds (process time), median of {options.repeats}.\n\n{text}"
    )
    print(text)


if __name__ == "__main__":
    main()
