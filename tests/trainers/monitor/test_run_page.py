"""Laws of a run's page in MLflow: it says what was set and what came of it, and its model is its encoder."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from cluster.tracking import Tracker
from trainers.config import ExperimentConfig
from trainers.inference import export
from trainers.inference.frozen import load_encoder
from trainers.monitor.run_page import log_encoder
from trainers.pretrain import pretrain

MakeConfig = Callable[..., ExperimentConfig]


class Told:
    """In place of a tracker: the programs that it was given, as modules."""

    def __init__(self) -> None:
        self.models: list[tuple[Any, dict[str, int]]] = []

    def model(self, program: Path, **about: int) -> None:
        self.models.append((torch.export.load(program).module(), about))


def test_a_run_describes_itself_and_its_model_is_its_encoder(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Tracker, "tags", lambda _, values: notes.append(values["mlflow.note.content"]))
    config = make_config(optim__steps=2, loss__temperature=0.25)
    assert pretrain(config) == 0
    first, last = notes
    assert "| `loss.temperature` | `0.25` | `0.1` |" in first
    assert "step" not in first.splitlines()[0]
    assert last.splitlines()[0].startswith("| step | loss |")
    assert last.splitlines()[2].startswith("| 2 |")
    assert last.endswith(first)

    folder, told = Path(config.run.dir), Told()
    log_encoder(cast(Tracker, told), folder)
    ((module, about),) = told.models
    encoder = load_encoder(folder)
    assert about == {"samples": encoder.samples, "width": encoder.width, "step": 2}
    wave = 0.1 * torch.randn(3, encoder.samples, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        torch.testing.assert_close(module(wave), encoder(wave), rtol=1e-4, atol=1e-5)

    def refuse(*_: Any) -> None:
        raise RuntimeError("an operator that cannot be traced")

    monkeypatch.setattr(export, "save_program", refuse)
    with caplog.at_level(logging.WARNING):
        log_encoder(cast(Tracker, told), folder)
    assert len(told.models) == 1
    assert "not shown as a model in MLflow (an operator that cannot be traced)" in caplog.text
