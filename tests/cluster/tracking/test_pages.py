"""Laws of the pages in MLflow: training first, the loss first of it, descriptions and views that say which run.

What is private to MLflow is read from the installed package: where a test of it fails, MLflow has moved.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from cluster.tracking import Tracker, pages
from cluster.tracking.config import TrackingConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own
COLUMNS = (
    "loss", "quick/knn", "grad_norm", "learning_rate", "alignment", "uniformity", "effective_rank", "positives",
    "sparsity", "sparsity_labelled", "replaced", "hardness", "step_s", "views_s", "data_wait_s", "clips_per_s",
    "gpu_memory_gib", "share/encoder", "share/views",
)  # fmt: skip


@pytest.fixture(scope="module")
def scripts() -> str:
    """All scripts of MLflow's pages."""
    import mlflow

    folder = Path(mlflow.__file__).parent / "server/js/build/static/js"
    return "\n".join(file.read_text("utf-8", errors="replace") for file in sorted(folder.glob("*.js")))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("outputs")
    client: Any = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    client.create_experiment("of somebody else")
    return folder, client


def config(folder: Path, **options: Any) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", system_metrics_s=0.0, **options)


def run_id(folder: Path) -> str:
    found: str = json.loads((folder / "tracking" / "state.json").read_text())["run_id"]
    return found


@pytest.mark.parametrize("order", [str, str.casefold], ids=["code units", "as a browser's locale"])
def test_training_comes_first_and_the_loss_first_of_it(order: Any) -> None:
    curves = [pages.curve_name(column) for column in COLUMNS]
    curves += [pages.evaluation_name("tags/ap"), pages.evaluation_name("tags/ap", "mtat")]
    groups = sorted({curve.rpartition("/")[0] for curve in curves}, key=order)
    assert [group[2:] for group in groups] == [
        "train", "optim", "embeddings", "views", "time", "evaluation", "evaluation-mtat",
    ]  # fmt: skip
    assert min(curves, key=order) == "1 train/loss"
    assert order(pages.objective_name("tags/ap")) < order("1 train/loss")


def test_every_column_is_a_curve_of_its_own_with_a_name_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name

    curves = {pages.curve_name(column) for column in COLUMNS}
    assert len(curves) == len(COLUMNS)
    for curve in [*curves, pages.objective_name("tags/ap"), pages.evaluation_name("tags/ap", "mtat")]:
        _validate_metric_name(curve)  # type: ignore[no-untyped-call]


def test_an_experiment_that_was_there_before_opens_the_pages_for_training(store: tuple[Path, Any]) -> None:
    folder, client = store
    for name in ("of somebody else", "our own"):
        with Tracker(config(folder, experiment=name), folder / name):
            pass
        assert client.get_experiment_by_name(name).tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_description_and_a_view_name_the_run_that_mlflow_made(store: tuple[Path, Any]) -> None:
    folder, client = store
    with Tracker(config(folder), folder / "sweep") as tracker:
        tracker.view([pages.objective_name("key/weighted@10")], ["loss.temperature"])
        tracker.tags({pages.NOTE: pages.description(pages.trials_link("Trials"), pages.picture("figures/a b.png"))})
        tracker.tags({"{run}": "{run}"})
    run = client.get_run(run_id(folder / "sweep"))
    own, home = run.info.run_id, run.info.experiment_id
    assert run.data.tags[pages.NOTE] == (
        f"[Trials](#/experiments/{home}/runs?viewStateShareKey={own}&compareRunsMode=TABLE&{pages.TRAINING_PAGES})"
        f"\n\n![figures/a b.png](get-artifact?path=figures%2Fa%20b.png&run_uuid={own})"
    )
    assert run.data.tags["_run_"] == "{run}"
    view = json.loads(client.get_experiment(home).tags[f"mlflow.sharedViewState.{own}"])
    assert view["searchFilter"] == f"tags.`mlflow.parentRunId` = '{own}'"
    assert view["orderByKey"] == "metrics.`0 objective/key.weighted_at_10`"
    assert view["columnOrder"][1:3] == [view["orderByKey"], "params.`loss.temperature`"]


def test_a_link_holds_no_key_and_a_file_store_is_named_as_it_is() -> None:
    for page in (pages.run_page, pages.trials_page):
        assert page("https://ann:hunter2@mlflow.example/", "1", "abc").startswith("https://[redacted]@mlflow.example/#")
        assert page("https://mlflow.example", "1", "abc").endswith(pages.TRAINING_PAGES)
        assert page("sqlite:////home/ann/mlflow.db", "1", "abc") == "sqlite:////home/ann/mlflow.db"


class Answer:
    """Of a server that is asked for its experiments."""

    def __init__(self, status: int, tree: Any) -> None:
        self.status, self.tree = status, tree

    def raise_for_status(self) -> None:
        if self.status != 200:
            raise requests.HTTPError(str(self.status))

    def json(self) -> Any:
        return self.tree


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        (Answer(200, {"experiments": [{"experiment_id": "7"}]}), "/7/runs"),
        (Answer(200, {}), ""),
        (Answer(401, {"experiments": [{"experiment_id": "7"}]}), ""),
    ],
    ids=["an experiment", "none", "a password is asked for"],
)
def test_a_server_opens_on_the_runs_of_its_last_experiment(
    answer: Answer, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "post", lambda *_, **__: answer)
    page = pages.start_page("http://127.0.0.1:5000")
    assert page == f"http://127.0.0.1:5000/#/experiments{place}?workflowType=machine_learning"


def test_a_description_too_long_for_mlflow_ends_with_a_whole_line() -> None:
    long = pages.table(["setting", "here"], [[f"`key{i}`", "x" * 50] for i in range(400)])
    text = pages.description("first", long)
    assert len(text) <= 8000
    assert text.startswith("first\n\n| setting | here |")
    assert text.splitlines()[-3].endswith(" |")
    assert pages.description("", "short") == "short"


def test_settings_are_those_that_differ_and_a_bar_breaks_no_table() -> None:
    settings = {"a": 1, "b": "x|y", "c": None, "run.dir": "/here", "tracking.uri": "there"}
    shown = pages.settings_table(settings, {"a": 1, "b": "z", "c": 2})
    assert shown.splitlines()[2:] == ["| `b` | `x&#124;y` | `z` |", "| `c` | `null` | `2` |"]
    assert pages.settings_table({"a": 1}, {"a": 1}) == ""


@pytest.mark.parametrize(
    "word",
    [
        'MACHINE_LEARNING="machine_learning"',
        '"workflowType"',
        "mlflow.experimentKind",
        '"mlflow.sharedViewState."',
        '"viewStateShareKey"',
        '"searchFilter","orderByKey","orderByAsc"',
        '["selectedColumns","columnOrder"',
        '"compareRunCharts","compareRunSections"',
        "FIRST_20_RUNS",
        'PARALLEL="PARALLEL"',
        "this.selectedParams=[],this.selectedMetrics=[]",
        "compareRunsMode",
        "slice(0,-1).join(t)",
        'img:["src"',
        '"get-artifact"',
        '"mlflow.note.content"',
    ],
)
def test_mlflows_pages_still_know_the_word(scripts: str, word: str) -> None:
    assert word in scripts, f"MLflow's pages know {word} no more; cluster/tracking/pages.py relies on it"
