"""What a step of many ranks would cost: ``pretrain … --dry-run --world 1024 --gpu h200 --link 400Gb``.

Every line says where it comes from: *measured* on this machine in small steps, *counted* from sizes or from the
schedule that the loss runs (`losses/contrastive/schedule.py`), *published* by the maker of a device, or a *guess*.
"""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.settings import UserError
from data_shards.sampling.sampler import check_world
from trainers.checks.footprint import Step
from trainers.config import ExperimentConfig
from trainers.encoders.config import PROJECTION_WIDTH
from trainers.losses.contrastive.schedule import Cost, RowShape, gather_cost, ring_cost

GIB, GB = 1 << 30, 10**9
UTILISATION = 0.3
"""Guess: the share of a GPU's published rate that training reaches."""
LINK_SHARE, MESSAGE_S = 0.8, 10e-6
"""Guesses: the share of a link's rate that large messages reach, and the time that a message takes beside its bytes."""
FREE = 0.9
"""Guess: the share of a GPU's memory that can be filled before fragments and the runtime are in the way."""
FLOATS = 4


class Gpu(NamedTuple):
    """What the maker publishes."""

    memory_gb: float
    teraflops: float
    """Dense bfloat16."""
    source: str


GPUS = {
    "a100": Gpu(80, 312, "NVIDIA A100 80GB datasheet"),
    "h100": Gpu(80, 989, "NVIDIA H100 SXM datasheet, without sparsity"),
    "h200": Gpu(141, 989, "NVIDIA H200 SXM datasheet, without sparsity"),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A world that is not there."""

    world: int
    gpu: str = "h100"
    link: str = "400Gb"
    """Rate of the network a GPU has: Gb or GB a second."""

    def check(self, config: ExperimentConfig) -> None:
        """Refuse what no table can be made of. The UserError names the option and what it may be."""
        if self.gpu not in GPUS:
            raise UserError(f"--gpu {self.gpu}: known are {', '.join(GPUS)}")
        link_rate(self.link)
        check_world(config.data.batch, self.world)


def link_rate(text: str) -> float:
    """Bytes a second of a link. Raises UserError if it is none.

    >>> link_rate("400Gb"), link_rate("50GB")
    (50000000000.0, 50000000000.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*G(b|B)(?:/s|ps)?", text.strip())
    if not found or not float(found[1]):
        raise UserError(
            f"--link {text}: give the rate of a GPU's network, such as 400Gb (bits) or 50GB (bytes) a second"
        )
    return float(found[1]) * 1e9 / (8 if found[2] == "b" else 1)


def table(config: ExperimentConfig, asked: Asked, steps: Sequence[Step], num_tags: int) -> dict[str, Any]:
    """Costs of a step at several numbers of ranks, as JSON types: ``worlds``, a row for each, and ``assumptions``."""
    small, large = steps[0], steps[-1]
    clips = max(1, large.clips - small.clips)
    a_clip = Slope(
        bytes=max(0.0, (large.host_bytes - small.host_bytes) / clips),
        seconds=max(large.seconds - small.seconds, large.seconds / large.clips) / clips,
        parameters=large.parameters,
        norms=(large.norm_layers, large.norm_features),
    )
    here = product_rate()
    worlds = sorted({w for w in (1, 8, 64, 256, 1024, asked.world) if w <= asked.world and config.data.batch % w == 0})
    return {
        "worlds": [_row(config, asked, world, a_clip, here, num_tags) for world in worlds],
        "assumptions": _assumptions(asked, here, steps),
    }


class Slope(NamedTuple):
    """What one more clip takes on this machine."""

    bytes: float
    seconds: float
    parameters: int
    norms: tuple[int, int] = (0, 0)
    """BatchNorm layers over all ranks, and their channels together."""


def product_rate(size: int = 1024) -> float:
    """Floating-point operations a second of a large product here, in float32."""
    import torch

    one = torch.ones(size, size)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        one @ one
        best = min(best, time.perf_counter() - began)
    return float(2 * size**3 / best)


def loss_costs(config: ExperimentConfig, world: int, num_tags: int) -> dict[str, Cost]:
    """Of gather and of ring, for one rank."""
    shape = RowShape(
        rows=config.data.batch // world * config.views.count,
        width=config.head.width or PROJECTION_WIDTH,
        heads=1 + len(config.head.variant),
        tags=num_tags if config.data.b_s else 0,
        epsilon=config.loss.epsilon > 0,
    )
    return {"gather": gather_cost(shape, world), "ring": ring_cost(shape, 0, world)}


def _row(
    config: ExperimentConfig, asked: Asked, world: int, a_clip: Slope, here: float, num_tags: int
) -> dict[str, Any]:
    gpu, link = GPUS[asked.gpu], link_rate(asked.link) * LINK_SHARE
    clips, costs = config.data.batch // world, loss_costs(config, world, num_tags)
    rows, width = config.data.batch * config.views.count, config.head.width or PROJECTION_WIDTH
    rate = gpu.teraflops * 1e12 * UTILISATION
    states = FLOATS * a_clip.parameters * (4 + (world > 1))  # weights, gradients, two moments, DDP's buckets
    compute_s = clips * a_clip.seconds * here / rate
    products = {
        "gather": 6,
        "ring": 6 if world == 1 else 3 + 3 / world,
    }  # of 2·R·N·D operations each, halved by symmetry
    shared = reductions(world, a_clip)
    found: dict[str, Any] = {"world": world, "clips_a_rank": clips}
    seconds, memory = {}, {}
    for name, cost in costs.items():
        loss_s = products[name] * (rows // world) * rows * width / rate
        sent_s = (cost.bytes_sent + sum(one["bytes_sent"] for one in shared.values())) / link
        sent_s += (cost.messages + sum(one["messages"] for one in shared.values())) * MESSAGE_S
        seconds[name], memory[name] = compute_s + loss_s + sent_s, states + clips * a_clip.bytes + cost.memory
        found[name] = {
            "step_s": round(seconds[name], 6),
            "loss_s": round(loss_s, 6),
            "network_s": round(sent_s, 6),
            "loss_bytes_sent": cost.bytes_sent,
            "loss_messages": cost.messages,
            "hops": cost.hops,
            "loss_memory_gib": round(cost.memory / GIB, 4),
            "memory_gib": round(memory[name] / GIB, 3),
        }
    room = FREE * gpu.memory_gb * GB
    fitting = [name for name in costs if memory[name] <= room]
    better = min(fitting or costs, key=lambda name: seconds[name] if fitting else memory[name])
    most = int(max(0.0, room - states) / (a_clip.bytes + costs[better].memory / clips))
    return found | {
        "compute_s": round(compute_s, 6),
        "memory_gib": memory_parts(config, a_clip, world, clips),
        "all_reduce": shared,
        "take": better if fitting else f"none fits {gpu.memory_gb:g} GB",
        "largest_batch": most * world,
        "clips_per_s": round(config.data.batch / seconds[better]),
    }


def memory_parts(config: ExperimentConfig, a_clip: Slope, world: int, clips: int) -> dict[str, float]:
    """GiB of a rank by part, but for the loss."""
    one = FLOATS * a_clip.parameters
    views = min(clips * a_clip.bytes, FLOATS * clips * config.views.count * config.views.samples)
    parts = {
        "parameters": one,
        "gradients": one,
        "optimiser": 2 * one,
        "ddp_buckets": one * (world > 1),
        "views": views,
        "activations": clips * a_clip.bytes - views,
    }
    return {name: round(size / GIB, 4) for name, size in parts.items()}


def reductions(world: int, a_clip: Slope) -> dict[str, dict[str, int]]:
    """Bytes that a rank sends and messages that follow each other in the all-reduces of a step.

    Gradients: one all-reduce, as if in one bucket. BatchNorm: a layer's sums in float64 forward, in float32 backward.
    """
    layers, features = a_clip.norms
    sizes = {"gradients": FLOATS * a_clip.parameters, "batch_norm": 8 * (2 * features + layers) + FLOATS * 2 * features}
    depth = 2 * math.ceil(math.log2(world))
    calls = {"gradients": 1, "batch_norm": 2 * layers}
    return {
        name: {"bytes_sent": 2 * (world - 1) * size // world, "messages": calls[name] * depth}
        for name, size in sizes.items()
    }


def _assumptions(asked: Asked, here: float, steps: Sequence[Step]) -> list[Mapping[str, str]]:
    gpu = GPUS[asked.gpu]
    sizes = ", ".join(f"{step.clips}" for step in steps)
    rows = [
        ("memory of activations and views", f"growth of the process over steps of {sizes} clips", "measured, float32"),
        ("compute", f"seconds of these steps times {here / 1e9:.0f} GFLOP/s of a product here, over the GPU's rate",
         "measured"),
        ("rate of the GPU", f"{gpu.teraflops:g} TFLOP/s bfloat16, {gpu.memory_gb:g} GB", f"published: {gpu.source}"),
        ("share of that rate which training reaches", f"{UTILISATION:g}", "guess"),
        ("network", f"{asked.link} a second for every GPU", "given by --link"),
        ("share of it that messages reach", f"{LINK_SHARE:g}", "guess"),
        ("time of a message beside its bytes", f"{MESSAGE_S * 1e6:g} µs", "guess"),
        ("bytes and messages of the loss", "the schedule that the loss runs, for one rank", "counted"),
        ("bytes of an all-reduce", "2·(W−1)/W of the numbers; gradients are not hidden behind backward", "counted"),
        ("messages of an all-reduce that follow each other", "2·log2 W: a tree", "guess"),
        ("views", "float32 waveforms of all views of a rank; activations are what else was measured", "counted"),
        ("weights, gradients, Adam's moments, DDP's buckets", "4 bytes each a parameter", "counted"),
        ("memory that can be filled", f"{FREE:g} of the GPU's", "guess"),
        ("largest batch", "memory grows in step with the clips of a rank", "guess"),
        ("reading and snapshots", "hidden behind the step", "guess"),
    ]  # fmt: skip
    return [{"what": what, "value": value, "source": source} for what, value, source in rows]
