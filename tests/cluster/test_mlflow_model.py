"""Laws of the logged model: MLflow loads it without a pickle, and it computes what the encoder does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.tracking import Tracker, store
from cluster.tracking.config import TrackingConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
SAMPLES, WIDTH = 64, 3


class Mean(torch.nn.Module):
    """Means of parts of the wave, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.arange(1.0, WIDTH + 1))

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return wave.mean(1, keepdim=True) * self.scale


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("program") / "encoder.pt2"
    shapes = {"wave": {0: torch.export.Dim("batch", min=1)}}
    made = torch.export.export(Mean(), (torch.zeros(2, SAMPLES),), dynamic_shapes=shapes)
    torch.export.save(made, file)
    return file


def test_a_model_that_cannot_be_written_holds_up_nothing(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise KeyError("MLflow has moved")

    monkeypatch.setattr(store, "write_model", refuse)
    tracker = Tracker(TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}", system_metrics_s=0.0), tmp_path / "run")
    tracker.model(program, samples=SAMPLES, width=WIDTH, step=40)
    tracker.metrics({"1 train/loss": 1.0}, 40)
    assert tracker.close()
    assert "MLflow refuses model" in caplog.text
    assert "MLflow has moved" in caplog.text


def test_an_encoder_is_a_model_of_its_run_that_loads_without_a_pickle(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):  # told again, as after a resume: still one model
        with Tracker(TrackingConfig(uri=uri, system_metrics_s=0.0), tmp_path / "run") as tracker:
            tracker.model(program, samples=SAMPLES, width=WIDTH, step=40)
    client: Any = mlflow.MlflowClient(tracking_uri=uri)
    run_id = json.loads((tmp_path / "run/tracking/state.json").read_text())["run_id"]
    run = client.get_run(run_id)
    (output,) = run.outputs.model_outputs
    assert output.step == 40
    made = client.get_logged_model(output.model_id)
    assert (made.name, made.source_run_id, str(made.status)) == ("encoder", run_id, "READY")

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    place = made.artifact_location
    wave = np.random.default_rng(1).normal(size=(5, SAMPLES)).astype(np.float32)
    wanted = Mean()(torch.from_numpy(wave)).detach().numpy()
    with torch.no_grad():
        np.testing.assert_allclose(mlflow.pytorch.load_model(place)(torch.from_numpy(wave)).numpy(), wanted, rtol=1e-6)
    served = mlflow.pyfunc.load_model(place)
    np.testing.assert_allclose(served.predict(wave), wanted, rtol=1e-6)
    assert served.metadata.signature.inputs.inputs[0].shape == (-1, SAMPLES)
    assert served.metadata.signature.outputs.inputs[0].shape == (-1, WIDTH)
    assert served.predict(served.input_example).shape == (2, WIDTH)
    assert not list((tmp_path / "run/tracking/files").glob("*"))
