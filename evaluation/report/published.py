"""Published values beside one's own: shown for a task that names a protocol, marked where the protocols differ.

A protocol is a dataset's variant: clips of the three splits, number of classes, length of a chunk, and what is stated
of the probe: head, optimiser, patience, dropout. It is the same when all of them are, the clips by the hash of their
ids where the lists are known (`evaluation.targets.splits`), and when the publication followed it (MARBLE has
its own splits and heads and never does).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.settings import ROOT, read_yaml
from evaluation.config import EvaluationConfig, Task
from evaluation.encoders.encoder import SUBJECT
from evaluation.probes.probe import HeadEpochs

VALUES = ROOT / "conf" / "evaluation" / "published" / "values.yaml"
STATED = ("head", "hidden", "patience", "dropout", "weight_decay", "learning_rate", "batch", "standardise")
"""Settings of a task that a protocol states. The epochs at most are none: it stops by patience."""


@dataclass(frozen=True)
class Published:
    """One value beside one of ours."""

    metric: str
    """``task/metric`` of the report."""
    value: float
    who: str
    where: str
    differs: tuple[str, ...]
    """Why the two cannot be compared; empty where they can."""


def protocols() -> tuple[str, ...]:
    """Names that ``published`` may have."""
    return tuple(read_yaml(VALUES)["protocols"])


def beside(tree: Mapping[str, Any], config: EvaluationConfig, *, seconds: float) -> list[dict[str, Any]]:
    """Published values of the report's metrics, in its order."""
    named = {name: task for name, task in config.tasks.items() if task.published and name in tree["tasks"]}
    if not named:
        return []
    known = read_yaml(VALUES)
    rows = []
    for name, task in named.items():
        protocol = known["probe"] | known["protocols"][task.published]
        ours = differences(protocol, task, tree["tasks"][name], config, seconds=seconds)
        for source in known["sources"].values():
            why = ours + tuple(source.get("differs", ()))
            for who, values in source["values"].get(task.published, {}).items():
                for metric, value in values.items():
                    if f"{name}/{metric}" in tree["metrics"]:
                        rows.append(Published(f"{name}/{metric}", value / 100, who, source["where"], why))
    return [{**vars(row), "differs": list(row.differs)} for row in rows]


def differences(
    protocol: Mapping[str, Any], task: Task, found: Mapping[str, Any], config: EvaluationConfig, *, seconds: float
) -> tuple[str, ...]:
    """How a task's protocol differs from a published one; nothing where it does not."""
    counts = [found[f"num_{split}"] for split in ("train", "valid", "test")]
    reasons = []
    if counts != protocol["clips"]:
        reasons.append(f"clips {_slashed(counts)}, published {_slashed(protocol['clips'])}")
    elif not found.get("published_split", {"same": True})["same"]:
        reasons.append(f"split {found['published_split']['words']}")
    if protocol.get("classes") and len(found["classes"]) != protocol["classes"]:
        reasons.append(f"{len(found['classes'])} classes, published {protocol['classes']}")
    reasons += _of_the_probe(protocol, task, found)
    if abs(seconds - protocol["seconds"]) > 0.05:
        reasons.append(f"chunks of {seconds:.2g} s, published {protocol['seconds']} s")
    if config.chunking.aggregate != "embeddings":
        reasons.append(f"{config.chunking.aggregate} averaged, published embeddings")
    return tuple(reasons)


def _of_the_probe(protocol: Mapping[str, Any], task: Task, found: Mapping[str, Any]) -> Iterator[str]:
    """Settings of the head that differ, and heads of the reported model that never came to the early stop."""
    for name in STATED:
        ours, theirs = getattr(task, name), protocol.get(name)
        if theirs is not None and ours != theirs and not (name == "hidden" and task.head == "linear"):
            yield f"{name.replace('_', ' ')} {_plain(ours)}, published {_plain(theirs)}"
    capped = HeadEpochs(**found["epochs"][SUBJECT]).capped(task) if found["epochs"] else 0
    if capped:
        yield f"max_epochs stopped {capped} heads, published early stop alone"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _slashed(counts: list[int]) -> str:
    return "/".join(f"{count:,}" for count in counts)
