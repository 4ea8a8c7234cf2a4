"""What MLflow's pages show of a run, and where: groups of curves, links, the description, the table of trials.

Whatever is private to MLflow about its pages stands here: the query and the tag that choose the pages for model
training, the order of groups and charts, the saved state of the table of runs, the address of an artifact's picture.
tests/cluster/tracking/test_pages.py shows what broke when MLflow moves; docs/tracking.md shows the pages.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any
from urllib.parse import quote

from cluster.files.storage import without_credentials

TRAINING_PAGES = "workflowType=machine_learning"
"""Query of every link. Without it MLflow 3.17 opens the pages that the browser chose last, at first those for chats."""
EXPERIMENT_KIND = ("mlflow.experimentKind", "custom_model_development")
"""Tag of an experiment that holds trainings. MLflow 3.17 heeds it only where its switch between the pages is off."""
NOTE, PARENT = "mlflow.note.content", "mlflow.parentRunId"
SAVED_VIEW = "mlflow.sharedViewState."
"""Tag of an experiment that holds one state of its table and charts; a link names what follows the dot."""
ANSWER_TIMEOUT_S = 10.0
LONGEST_NOTE = 7900
"""Characters; MLflow cuts tags after 8,000 and gives no error."""

OBJECTIVE, EVALUATION, OTHER = "0 objective", "6 evaluation", "4 views"
# MLflow sorts groups by name, and the charts of a group by theirs: hence the digits, and hence nothing that sorts
# before "loss" stands in its group.
_GROUPS = {
    "1 train": ("loss", "quick/knn"),
    "2 optim": ("grad_norm", "learning_rate"),
    "3 embeddings": ("alignment", "effective_rank", "uniformity"),
    OTHER: ("positives", "replaced", "sparsity", "sparsity_labelled"),
    "5 time": ("clips_per_s", "data_wait_s", "gpu_memory_gib", "step_s", "views_s"),
}
_GROUP_OF = {column: group for group, columns in _GROUPS.items() for column in columns}
_ATTRIBUTES = ("attributes.`Source`", "attributes.`Models`", "attributes.`Dataset`")


def curve_name(column: str) -> str:
    """A column of metrics.jsonl as MLflow's curve; what an objective of one's own reports stands beside `positives`.

    >>> curve_name("loss"), curve_name("share/encoder"), curve_name("hardness"), curve_name("loss/pitch")
    ('1 train/loss', '5 time/share.encoder', '4 views/hardness', '1 train/loss.pitch')
    """
    family = column.partition("/")[0]  # a figure of one head stands beside that of the first
    group = "5 time" if family == "share" else _GROUP_OF.get(column, _GROUP_OF.get(family, OTHER))
    return f"{group}/{column.replace('/', '.')}"


def evaluation_name(metric: str, preset: str | None = None, *, against: str | None = None) -> str:
    """A report's metric as MLflow's curve, or its difference from that of the encoder or space ``against``.

    >>> evaluation_name("tags/ap"), evaluation_name("tags/ap", "mtat", against="trained/pitch")
    ('6 evaluation/tags.ap', '6 evaluation-mtat-against-trained.pitch/tags.ap')
    """
    other = ["against", against.replace("/", ".")] if against else []
    group = "-".join([EVALUATION, *([preset] if preset else []), *other])
    return f"{group}/{metric.replace('/', '.')}"


def objective_name(metric: str) -> str:
    """What a sweep maximises, as the first curve of a trial.

    >>> objective_name("tags/ap")
    '0 objective/tags.ap'
    """
    return f"{OBJECTIVE}/{metric.replace('/', '.')}"


def run_page(uri: str, experiment_id: str | None, run_id: str | None) -> str:
    """The page of a run where MLflow is a server, else the store; without credentials."""
    base = without_credentials(uri).rstrip("/")
    page = f"{base}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING_PAGES}"
    return page if run_id and base.startswith("http") else base


def start_page(base: str) -> str:
    """The page of the server at http://HOST:PORT to begin with: the runs of the experiment that changed last.

    The list of experiments drops the query, so MLflow's pages for chats would follow it.
    Where the server does not answer, as to one who gave no password, the page is the list.
    """
    requests = import_module("requests")
    kind, training = EXPERIMENT_KIND
    asked = {"max_results": 1, "order_by": ["last_update_time DESC"], "filter": f"tags.`{kind}` = '{training}'"}
    try:
        answer = requests.post(f"{base}/api/2.0/mlflow/experiments/search", json=asked, timeout=ANSWER_TIMEOUT_S)
        answer.raise_for_status()
        found = answer.json().get("experiments", [])
    except (requests.RequestException, ValueError):
        found = []
    place = f"/{found[0]['experiment_id']}/runs" if found else ""
    return f"{base}/#/experiments{place}?{TRAINING_PAGES}"


def trials_page(uri: str, experiment_id: str | None, run_id: str | None) -> str:
    """The table and charts of the runs below a run, as `trials_view` saved them; as `run_page` for other stores."""
    base = without_credentials(uri).rstrip("/")
    return f"{base}/{_trials(experiment_id, run_id)}" if run_id and base.startswith("http") else base


def _trials(experiment_id: str | None, run_id: str | None) -> str:
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={run_id}&compareRunsMode=TABLE&{TRAINING_PAGES}"


def trials_link(words: str) -> str:
    """A link to the trials in a description; `placed` fills in where they are."""
    return f"[{words}]({{trials}})"


def trials_view(parent: str, metrics: Sequence[str], keys: Sequence[str], *, ascending: bool = False) -> dict[str, Any]:
    """State of the page on which runs are compared: their metrics and keys are the first columns, ordered by the first.

    Args:
        parent: MLflow's id of the run above them.
        metrics: names of curves, the one that decides first.
        keys: names of parameters that differ between the runs.
        ascending: whether less of the first metric is better.
    """
    columns = [f"metrics.`{name}`" for name in metrics] + [f"params.`{name}`" for name in keys]
    section = f"{parent}-objective"
    return {
        "searchFilter": f"tags.`{PARENT}` = '{parent}'",
        "orderByKey": columns[0],
        "orderByAsc": ascending,
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns, *_ATTRIBUTES],
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunSections": [{"uuid": section, "name": OBJECTIVE, "display": True, "isReordered": False}],
        "compareRunCharts": [
            {
                "uuid": f"{parent}-parallel",
                "type": "PARALLEL",
                "metricSectionId": section,
                "deleted": False,
                "isGenerated": False,
                "selectedParams": list(keys),
                "selectedMetrics": list(metrics[:1]),
                "showAllRuns": True,
            }
        ],
    }


def saved_view(run_id: str, view: Mapping[str, Any]) -> tuple[str, str]:
    """Key and value of the experiment's tag that keeps the view of the runs below ``run_id``."""
    return f"{SAVED_VIEW}{run_id}", json.dumps(trials_view(run_id, **view))


def description(*parts: str) -> str:
    """Parts of a run's description, one below the other, as long as MLflow takes them."""
    lines = "\n\n".join(filter(None, parts)).split("\n")
    kept: list[str] = []
    left = LONGEST_NOTE
    for line in lines:
        left -= len(line) + 1
        if left < 0:
            kept.append("\n…")
            break
        kept.append(line)
    return "\n".join(kept)


def picture(artifact: str) -> str:
    """An artifact of the run as a picture of its description; `placed` fills in which run."""
    return f"![{artifact}](get-artifact?path={quote(artifact, safe='')}&run_uuid={{run}})"


def placed(key: str, value: str, *, experiment_id: str, run_id: str) -> str:
    """A tag's value; in a description the ids that are known only once MLflow has the run."""
    if key != NOTE:
        return value
    return value.replace("{trials}", _trials(experiment_id, run_id)).replace("{run}", run_id)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; empty where there are no rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def settings_table(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The settings of a run that differ from their defaults, in Markdown; where it lies and is tracked left out."""
    rows = [
        [f"`{key}`", _code(value), _code(defaults.get(key))]
        for key, value in settings.items()
        if value != defaults.get(key) and not key.startswith(("run.dir", "tracking."))
    ]
    return table(["setting", "here", "default"], rows)


def metrics_table(row: Mapping[str, Any]) -> str:
    """The last row of metrics.jsonl in short: the groups from the loss to the embeddings, and the speed."""
    shown = ["step", *(column for group in tuple(_GROUPS)[:3] for column in _GROUPS[group]), "clips_per_s"]
    names = [name for name in shown if name in row]
    return table(names, [[f"{row[name]:.4g}" for name in names]] if names else [])


def _code(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
