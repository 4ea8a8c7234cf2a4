"""Memory and time of a training step: small steps are measured in a process of their own, larger ones extrapolated.

A process's peak never goes down, and includes what its imports take; so a new process takes steps of ascending sizes,
notes its peak after each, and stops when the next would leave its time or half of the free memory. Peak and time are
lines in the number of clips: activations, views and windows are, and everything else does not depend on it.

Run as ``python -m trainers.checks.footprint`` it is that process: a request on stdin, a line of JSON for
every size on stdout.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.entry_points import described, own_failure
from cluster.settings import RunError, UserError, to_tree, validate
from trainers.config import ExperimentConfig

if TYPE_CHECKING:
    import torch

FIRST_STEPS = 3
"""Steps of the smallest size: the optimiser's state exists from the second on. A larger size takes one: the larger the
size that is reached, the better the line, since an allocator keeps small blocks and returns large ones."""
FIRST_CLIPS = 4
LEAST_SIZES = 2
"""Sizes that are measured whatever the budget: a line needs two points."""
MARGIN = 1.5
"""A size is measured where this many times its step fit into what is left of the budget."""
GRACE = 4.0
"""The process is killed when it takes this many times its budget, and `IMPORT_S`."""
IMPORT_S = 180.0
"""Importing torch takes seconds; on a machine whose cores are all busy, minutes."""
FREE_SHARE = 0.5
"""Share of the machine's free memory that a measured step may take."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step of so many clips takes on one rank."""

    clips: int
    seconds: float
    host_bytes: int
    """Peak of resident memory of the whole process."""
    gpu_bytes: int
    """Peak of what torch reserved; 0 on a CPU."""
    parameters: int
    norm_layers: int = 0
    """BatchNorm layers whose statistics are those of all ranks."""
    norm_features: int = 0
    """Their channels, together."""


def measure_steps(
    config: ExperimentConfig, *, clips: int, gpu: bool, threads: int, budget_s: float, watch: Callable[[Step], None]
) -> list[Step]:
    """Steps of ascending sizes up to ``clips``, as many as the budget allows, after the state before the first.
    Raises UserError if the data or the settings do not allow a step, RunError with the reason if not even the smallest
    could be measured.
    """
    request = {"config": to_tree(config), "clips": clips, "gpu": gpu, "threads": threads, "budget_s": budget_s}
    steps: list[Step] = []
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        command = [sys.executable, "-m", "trainers.checks.footprint"]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8"
        )
        timer = threading.Timer(GRACE * budget_s + IMPORT_S, process.kill)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with process.stdin as stdin:
                stdin.write(json.dumps(request))
            for line in process.stdout:
                row = json.loads(line)
                if "refused" in row:
                    raise UserError(row["refused"])
                steps.append(Step(**row))
                watch(steps[-1])
            process.wait()
        except BrokenPipeError:
            process.wait()  # its log says why it ended
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        if len(steps) < 2:
            log.seek(0)
            words = [line.strip() for line in log.read().splitlines() if line.strip()][-1:]
            raise RunError(
                f"a step of {smallest(config)} clips could not be measured: the process ended with "
                f"{process.returncode}{': ' + words[0] if words else ''}; lower data.batch, views.samples or "
                "optim.micro_batch, or start the run without --dry-run"
            )
    return steps


def extrapolate(steps: Sequence[Step], clips: int) -> Step:
    """A step of ``clips`` clips on the line through the two largest measured ones.

    >>> small = Step(clips=2, seconds=1.0, host_bytes=100, gpu_bytes=0, parameters=5)
    >>> extrapolate([small, replace(small, clips=4, seconds=1.5, host_bytes=120)], 8)
    Step(clips=8, seconds=2.5, host_bytes=160, gpu_bytes=0, parameters=5, norm_layers=0, norm_features=0)
    """
    *_, last = steps
    if last.clips >= clips:
        return replace(last, clips=clips)
    before = steps[-2]

    def on_line(name: str) -> float:
        low, high = getattr(before, name), getattr(last, name)
        return float(high + max(0.0, (high - low) / (last.clips - before.clips)) * (clips - last.clips))

    return replace(
        last,
        clips=clips,
        seconds=on_line("seconds"),
        host_bytes=round(on_line("host_bytes")),
        gpu_bytes=round(on_line("gpu_bytes")),
    )


def smallest(config: ExperimentConfig) -> int:
    """Clips of the smallest step that is measured: whole micro-batches, and `FIRST_CLIPS` where there are so many."""
    micro = config.optim.micro_batch or 1
    return min(config.data.batch, -(-FIRST_CLIPS // micro) * micro)


def of_size(config: ExperimentConfig, clips: int) -> ExperimentConfig:
    """The experiment with a batch of so many clips in this process, labelled and unlabelled as far as it can be."""
    data = config.data
    labelled = round(data.b_s * clips)
    if 0 < data.b_s < 1:
        labelled = min(max(labelled, 1), clips - 1) if clips > 1 else 1
    resources = replace(config.resources, num_workers=0, min_workers=None)
    return replace(
        config,
        data=replace(data, batch=clips, b_s=labelled / clips),
        views=replace(config.views, placement="trainer"),
        resources=resources,
    )


def _steps_taken(request: dict[str, Any]) -> Iterator[Step]:
    """Take the steps of a request in this process."""
    began = time.perf_counter()
    config = validate(ExperimentConfig, request["config"], "the dry run")
    import psutil
    import torch

    import trainers.pretrain  # what a run's process holds beside its step
    from cluster.machine.process import keep_freed_memory
    from trainers.step import StepTrainer
    from trainers.views.batches import open_batches
    from trainers.views.views import ViewMaker

    assert trainers.pretrain
    if config.resources.num_workers:
        import trainers.distributed.ray_train

    _save_something()
    torch.set_num_threads(request["threads"])
    device = torch.device("cuda" if request["gpu"] else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    micro, share = config.optim.micro_batch or 1, request["clips"]
    size, trainer, taken = min(smallest(config), share), None, list[Step]()
    while True:
        part = of_size(config, size)
        with open_batches(part, device=device) as loader:
            if trainer is None:
                trainer = StepTrainer(config, num_tags=len(loader.vocabulary), device=device)
                yield _so_far(taken, 0, 0.0, device, trainer.model)
            maker = ViewMaker(config.views, config.augment, config.frontend, device=device)
            seconds = []
            for step, batch in enumerate(loader.batches(0, 1 if len(taken) > 1 else FIRST_STEPS)):
                start = time.perf_counter()
                views = maker.make(batch, step=step, seed=config.seed)
                float(trainer.train_step(views, step, log_details=True).metrics["loss"])  # waits for a GPU
                seconds.append(time.perf_counter() - start)
            del batch, views
        yield _so_far(taken, size, min(seconds), device, trainer.model)
        size = min(share, 2 * size) if share % micro == 0 else 2 * size
        ahead = extrapolate(taken, size)
        free = psutil.virtual_memory().available * FREE_SHARE
        late = time.perf_counter() - began + MARGIN * ahead.seconds > request["budget_s"]
        if taken[-1].clips >= share or (late and len(taken) > LEAST_SIZES):
            return
        if ahead.host_bytes - taken[-1].host_bytes > free:
            return


def _save_something() -> None:
    """Load what a run loads when it saves its first snapshot; the libraries stay in memory."""
    from torch import nn, optim

    from cluster.provenance import provenance
    from trainers.state.snapshot import save_snapshot

    small = nn.Linear(1, 1)
    with tempfile.TemporaryDirectory() as folder:
        state = {"provenance": provenance()}
        save_snapshot(Path(folder), step=0, model=small, optimizer=optim.Adam(small.parameters()), state=state, keep=1)


def _so_far(taken: list[Step], clips: int, seconds: float, device: "torch.device", model: "torch.nn.Module") -> Step:
    """The peaks of this process after a size, added to what was taken."""
    from trainers.distributed.batch_norm import GlobalNorm

    norms = [layer for layer in model.modules() if isinstance(layer, GlobalNorm) and layer.global_statistics]
    gpu_bytes = 0
    if device.type == "cuda":
        import torch

        gpu_bytes = torch.cuda.max_memory_reserved(device)
    taken.append(
        Step(
            clips=clips,
            seconds=seconds,
            host_bytes=_peak_bytes(),
            gpu_bytes=gpu_bytes,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            norm_layers=len(norms),
            norm_features=sum(layer.num_features for layer in norms),
        )
    )
    return taken[-1]


def _peak_bytes() -> int:
    """Peak of this process's resident memory. Not ru_maxrss: that begins with the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def main() -> None:
    """Answer the request on stdin. What users' code prints goes to stderr: stdout is for the rows."""
    rows = sys.stdout
    with redirect_stdout(sys.stderr):
        try:
            for step in _steps_taken(json.load(sys.stdin)):
                print(json.dumps(asdict(step)), file=rows, flush=True)
        except (Exception, SystemExit) as error:
            if not isinstance(error, UserError) and not own_failure(error):
                raise
            why = str(error) if isinstance(error, UserError) else f"{described(error)}, in {own_failure(error)}"
            print(json.dumps({"refused": why}), file=rows, flush=True)


if __name__ == "__main__":
    main()
