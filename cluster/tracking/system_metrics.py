"""Load of the driver's machine, sampled beside the run with MLflow's own monitors so that its page knows the names."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from cluster.processes.repeat import repeated

_log = logging.getLogger(__name__)
_MONITORS = {
    "cpu_monitor": "CPUMonitor",
    "disk_monitor": "DiskMonitor",
    "network_monitor": "NetworkMonitor",
    "gpu_monitor": "GPUMonitor",
}


@contextmanager
def sampled_load(interval_s: float, sink: Callable[[Mapping[str, float]], None]) -> Iterator[None]:
    """Call ``sink`` with ``system/…`` values every ``interval_s`` seconds, in a thread."""
    monitors = _monitors()  # imported here, not in the thread: see store.py
    failed = False

    def sample() -> None:
        nonlocal failed
        values: dict[str, float] = {}
        try:
            for monitor in monitors:
                monitor.collect_metrics()
                values |= {f"system/{key}": float(value) for key, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            sink(values)
        except Exception as error:  # of psutil or a driver, each with its own; the next sample may succeed
            if not failed:
                _log.warning("a sample of the machine's load is missing (%s)", error)
            failed = True

    with repeated(sample, interval_s, "system-metrics"):
        yield


def _monitors() -> list[Any]:
    monitors: list[Any] = []
    for module, name in _MONITORS.items():
        try:
            monitors.append(getattr(import_module(f"mlflow.system_metrics.metrics.{module}"), name)())
        except (ImportError, RuntimeError):  # no GPU, or nvidia-ml-py is not installed
            continue
    return monitors
