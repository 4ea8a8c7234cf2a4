"""An exported encoder as a logged model of MLflow: signature, input example, and a program instead of a pickle.

MLflow's own `mlflow.pytorch.save_model` would trace the network, for seconds to minutes, in the thread that sends.
So the folder that `mlflow.pytorch.load_model` and `mlflow.pyfunc.load_model` read is written here. What is private
about it is the place of the program and `_save_example`; tests/cluster/test_mlflow_model.py shows what broke when
MLflow moves.
"""

import shutil
from pathlib import Path
from typing import Any

NAME = "encoder"
PROGRAM = "data/model.pt2"
EXAMPLE_VIEWS = 2


def log_model(client: Any, run_id: str, folder: Path, step: int) -> None:
    """Give a run its encoder; one that it has already at this step stays."""
    from mlflow.entities import LoggedModelOutput

    experiment_id = client.get_run(run_id).info.experiment_id
    known = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}' AND name = '{NAME}'")
    if any(model.tags.get("step") == str(step) and str(model.status) == "READY" for model in known):
        return
    made = client.create_logged_model(experiment_id, NAME, run_id, tags={"step": str(step)}, model_type=NAME)
    client.log_model_artifacts(made.model_id, str(folder))
    client.finalize_logged_model(made.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step)])


def write_model(folder: Path, program: Path, *, samples: int, width: int, torch_version: str) -> None:
    """Write what MLflow loads: MLmodel, program, signature, input example, requirements.

    Args:
        folder: is there, and empty.
        program: a torch.export program from waves (N, ``samples``) to embeddings (N, ``width``).
        samples: T, of a view.
        width: E, of an embedding.
        torch_version: of the torch that made the program; importing it here would take seconds.
    """
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.models.utils import _save_example
    from mlflow.types import Schema, TensorSpec

    (folder / PROGRAM).parent.mkdir(parents=True)
    shutil.copyfile(program, folder / PROGRAM)
    single = np.dtype("float32")
    model = Model()
    model.signature = ModelSignature(
        Schema([TensorSpec(single, (-1, samples))]), Schema([TensorSpec(single, (-1, width))])
    )
    noise_NT = np.random.default_rng(0).normal(0, 0.1, (EXAMPLE_VIEWS, samples))
    _save_example(model, noise_NT.round(2).astype(single), str(folder))  # as text: two decimals keep it small
    model.add_flavor("pytorch", model_data="data", pytorch_version=torch_version, code=None)
    mlflow.pyfunc.add_to_model(
        model,
        loader_module="mlflow.pytorch",
        data="data",
        pickle_module_name="mlflow.pytorch.pickle_module",  # looked up, and not used by a program
        model_config={"device": None},
    )
    model.save(str(folder / "MLmodel"))
    (folder / "requirements.txt").write_text(f"mlflow=={mlflow.__version__}\ntorch=={torch_version}\n", "utf-8")
