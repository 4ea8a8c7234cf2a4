"""What a run may use: workers, cores and GPUs, how often it may fail, and how long it may wait."""

import os
from dataclasses import dataclass
from typing import Any, Literal

from cluster.machine.process import PASSIVE, WAIT_POLICY, num_cores
from cluster.settings import Config, UserError, first_line


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig(Config):
    """Keys ``resources.*``; all may differ when a run is resumed."""

    num_workers: int = 1
    """Training processes over all nodes, ≥ 0; 0 = in this process, without Ray. Every number sees the same batches."""
    min_workers: int | None = None
    """Fewest workers the run goes on with where nodes are lost, ≥ 1; None = num_workers, no fewer. Ray takes the most
    that are there and divide data.batch, and looks for more every ``resize_every_s``."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """A GPU for every worker: yes, no, or auto = where there are at least as many as the workers need."""
    cpus_per_worker: float = 1.0
    """Cores Ray reserves for a worker, > 0."""
    gpus_per_worker: float = 1.0
    """GPUs Ray reserves for a worker that uses one, in (0, 1] for shared GPUs or a whole number; > 0."""
    threads_per_worker: int = 0
    """Threads of a worker's matrix products, ≥ 0; 0 = the machine's cores divided by its workers."""
    max_failures: int = 3
    """Restarts from the last snapshot after a worker or node was lost, ≥ 0."""
    collective_timeout_s: float = 300.0
    """Longest wait for another rank in a collective, seconds, > 0; then an error that names the rank."""
    health_timeout_s: float = 120.0
    """Longest silence of a worker before it counts as lost, seconds, > 0."""
    start_timeout_s: float = 30.0
    """Longest wait for a node that shall take a worker, seconds, > 0; then Ray looks again at who is there."""
    resize_every_s: float = 60.0
    """Time between looks for more nodes where ``min_workers`` lets the number change, seconds, > 0."""
    autoscaling: bool = False
    """The cluster adds machines on demand: what does not fit those that are there is waited for, not refused. Set
    ``use_gpu`` to yes or no then; auto takes none."""
    network_interface: str = ""
    """Interface of gloo and NCCL between nodes, such as eth0; empty = they choose."""

    def __post_init__(self) -> None:
        self.require(">= 0", "num_workers", "max_failures", "threads_per_worker")
        self.require("> 0", "cpus_per_worker", "gpus_per_worker", "collective_timeout_s", "health_timeout_s")
        self.require("> 0", "start_timeout_s", "resize_every_s")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(f"min_workers must be from 1 to num_workers={self.num_workers}, got {self.min_workers}")
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise ValueError(f"gpus_per_worker must be a whole number above 1, got {self.gpus_per_worker}")

    @property
    def fewest_workers(self) -> int:
        """The number the run cannot do without."""
        return self.num_workers if self.min_workers is None else self.min_workers


def torch_device(name: Any) -> Any:
    """The torch device of a name. Where this machine lacks it the UserError names those that it has."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{place}" for place in range(num_gpus()))]
        raise UserError(
            f"device={name!r}: there is none here ({first_line(error)}); take {', '.join(there)}"
        ) from error
    return device


def num_gpus() -> int:
    """GPUs that torch can use here."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def multiplies_bfloat16() -> bool:
    """Whether this CPU has products of bfloat16 as far as torch can detect (2.11 cannot, nor for other than x86); where
    it has none, they are emulated many times slower.
    """
    import torch

    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return known.get("architecture") != "x86_64" or bool(known["avx512_bf16"] or known["amx_bf16"])


def uses_gpu(config: ResourcesConfig, gpus: int) -> bool:
    """Whether every worker gets a GPU where the cluster has ``gpus``.
    Raises UserError if GPUs are required and there are too few.

    >>> uses_gpu(ResourcesConfig(num_workers=2), gpus=1), uses_gpu(ResourcesConfig(num_workers=2), gpus=2)
    (False, True)
    """
    needed = max(1, config.fewest_workers) * config.gpus_per_worker
    if config.use_gpu == "yes" and gpus < needed:
        raise UserError(
            f"resources.use_gpu=yes needs {needed:g} GPUs for {config.fewest_workers} workers, the cluster has {gpus}; "
            "lower resources.num_workers or resources.gpus_per_worker, or set resources.use_gpu=no"
        )
    return config.use_gpu != "no" and gpus >= needed


def threads_per_worker(config: ResourcesConfig, cores: int | None = None, nodes: int = 1) -> int:
    """Threads for a worker's kernels, so that all workers of a node use each of its ``cores`` once.

    ``cores`` are those of this machine unless given; the workers are spread over ``nodes`` ≥ 1 machines.

    >>> threads_per_worker(ResourcesConfig(num_workers=2), cores=8)
    4
    """
    here = max(1, -(-config.num_workers // nodes))
    return config.threads_per_worker or max(1, (cores or num_cores()) // here)


def worker_environment(config: ResourcesConfig, cores: int | None = None, nodes: int = 1) -> dict[str, str]:
    """Environment of a training worker, for ``RunConfig(worker_runtime_env={"env_vars": …})``.

    Ray alone would give every worker one thread.
    """
    threads = str(threads_per_worker(config, cores, nodes))
    waiting = os.environ.get(WAIT_POLICY, PASSIVE)
    variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, WAIT_POLICY: waiting}
    if config.network_interface:
        variables |= {"GLOO_SOCKET_IFNAME": config.network_interface, "NCCL_SOCKET_IFNAME": config.network_interface}
    return variables


def train_environment(config: ResourcesConfig) -> dict[str, str]:
    """Time-outs of Ray Train's controller, which it reads from the driver's environment."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": f"{config.health_timeout_s:g}",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{config.start_timeout_s:g}",
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": f"{config.collective_timeout_s:g}",
    }
