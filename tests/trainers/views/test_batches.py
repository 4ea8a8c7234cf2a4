"""Batches for a GPU are read into page-locked memory, those of a CPU run are not: that would open a CUDA context."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainers import loop
from trainers.config import ExperimentConfig
from trainers.loop import World
from trainers.views import batches

MakeConfig = Callable[..., ExperimentConfig]


class Quiet:
    def report(self, metrics: Any) -> None:
        pass


def test_a_cpu_run_on_a_machine_with_a_gpu_pins_no_memory(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # pinning would now ask CUDA, which is not here
    with batches.open_batches(make_config(), device=torch.device("cpu")) as loader:
        (batch,) = loader.batches(0, 1)
    assert batch.wave_BT.shape[0] == 8


@pytest.mark.parametrize(
    ("device", "pool", "pinned"), [("cuda", False, True), ("cpu", False, False), ("cuda", True, False)]
)
def test_only_batches_that_go_to_a_gpu_are_pinned(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, device: str, pool: bool, pinned: bool
) -> None:
    given: dict[str, Any] = {}

    class Seen(Exception):
        pass

    def loader(*_: Any, **options: Any) -> None:
        given.update(options)
        raise Seen

    monkeypatch.setattr(batches, "BatchLoader", loader)
    config = make_config(**({"views__placement": "pool", "resources__num_workers": 1} if pool else {}))
    with pytest.raises(Seen):
        loop.train(config, World(device=torch.device(device)), Quiet())
    assert given["pin_memory"] is pinned
