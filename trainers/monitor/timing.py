"""Where the time of a step goes, on the device's own time line and without waiting for it."""

import time

import torch


class PhaseClock:
    """Marks the ends of a step's phases: the host's clock on a CPU, events of the current stream on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks = [("", self._now())]

    def mark(self, phase: str) -> None:
        """End a part of ``phase``, which began at the last mark; the parts of a phase add up."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase; on a GPU read it only after the metrics of the step."""
        total: dict[str, float] = {}
        for (_, began), (phase, ended) in zip(self._marks, self._marks[1:], strict=False):
            total[phase] = total.get(phase, 0.0) + self._between(began, ended)
        return total

    def _now(self) -> "float | torch.cuda.Event":
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        event.record()
        return event

    def _between(self, began: "float | torch.cuda.Event", ended: "float | torch.cuda.Event") -> float:
        if isinstance(began, float) and isinstance(ended, float):
            return ended - began
        assert isinstance(began, torch.cuda.Event)
        assert isinstance(ended, torch.cuda.Event)
        return float(began.elapsed_time(ended)) / 1e3
