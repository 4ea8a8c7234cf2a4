"""Load of the driver's machine, sampled beside the run with MLflow's own monitors so that its page knows the names."""

import logging
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

_log = logging.getLogger(__name__)
_MONITORS = {
    "cpu_monitor": "CPUMonitor",
    "disk_monitor": "DiskMonitor",
    "network_monitor": "NetworkMonitor",
    "gpu_monitor": "GPUMonitor",
}


class SystemMetrics(threading.Thread):
    """Calls ``sink`` with ``system/…`` values every ``interval_s`` seconds until stopped."""

    def __init__(self, interval_s: float, sink: Callable[[Mapping[str, float]], None]) -> None:
        super().__init__(name="system-metrics", daemon=True)
        self._interval_s, self._sink = interval_s, sink
        self._monitors = _monitors()  # imported here, not in the thread: see store.py
        self._stopping = threading.Event()
        self.start()

    def run(self) -> None:
        """Sample until stopped."""
        failed = False
        while not self._stopping.wait(self._interval_s):
            try:
                self._sink(self._sample())
            except Exception as error:  # of psutil or a driver, each with its own; the next sample may succeed
                if not failed:
                    _log.warning("a sample of the machine's load is missing (%s)", error)
                failed = True

    def _sample(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= {f"system/{key}": float(value) for key, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return values

    def stop(self) -> None:
        """Return once the last sample is given away."""
        self._stopping.set()
        self.join()


def _monitors() -> list[Any]:
    monitors: list[Any] = []
    for module, name in _MONITORS.items():
        try:
            monitors.append(getattr(import_module(f"mlflow.system_metrics.metrics.{module}"), name)())
        except (ImportError, RuntimeError):  # no GPU, or nvidia-ml-py is not installed
            continue
    return monitors
