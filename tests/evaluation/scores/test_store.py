"""Scores that are written task by task: a killed evaluation goes on, and nothing is reused for another question."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluation.evaluate
import evaluation.scores.store
from cluster.settings import ROOT
from evaluation.config import ConfidenceConfig, EvaluationConfig, EvaluationData, RobustnessConfig, Task
from evaluation.embeddings.embed import EmbeddingTable
from evaluation.evaluate import evaluate_encoders
from evaluation.report.write import Report
from evaluation.scores.score import Scored, TaskInputs, score_task
from evaluation.scores.store import SCORES, load_scores, save_scores, score_key
from evaluation.targets.target import Target

TASKS = {
    "tags": Task(column="tags", kind="tags", probe=True, retrieval=True, max_epochs=3),
    "key": Task(column="key", kind="key", retrieval=True),
    "tempo": Task(column="bpm", kind="tempo", probe=True, head="linear", max_epochs=3),
}
CHILD = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
import numpy as np, torch
from evaluation.evaluate import evaluate_encoders
from tests.evaluation.scores.test_store import configure

class Encoder:
    width, rate, samples, hash = 6, 22_050, 1_000, "child"
    def __call__(self, wave):
        vectors = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
        return torch.from_numpy(vectors)[(wave.abs().amax(1) * 1000).round().long()]

class Killed:
    @contextmanager
    def stage(self, name, total):
        def bar(done, words):
            if name == "scoring" and done == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        yield bar

torch.set_num_threads(1)
evaluate_encoders({"trained": Encoder()}, configure(sys.argv[1]), Path(sys.argv[2]), about={}, progress=Killed())
"""


def configure(shards: str) -> EvaluationConfig:
    """The evaluation of the child and of its parent."""
    confidence = ConfidenceConfig(resamples=100)
    return EvaluationConfig(data=EvaluationData(shards=shards), tasks=TASKS, confidence=confidence, seeds=2, ks=(1, 3))


def run_child(shards: Path, out: Path) -> int:
    return subprocess.run([sys.executable, "-c", CHILD, str(shards), str(out)], cwd=ROOT, check=False).returncode


class Known:
    """The child's encoder, which must not be asked again."""

    width, rate, samples, hash = 6, 22_050, 1_000, "child"

    def __call__(self, _: Any, /) -> Any:
        raise AssertionError("something was embedded again")


@pytest.mark.timeout(900)
def test_an_evaluation_that_was_killed_between_tasks_goes_on_at_the_next(
    make_shards: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, out = make_shards(60), tmp_path / "out"
    assert run_child(shards, out) == -signal.SIGKILL
    assert [path.name for path in (out / SCORES).iterdir()] == ["tags.safetensors"]
    assert not (out / "report.json").exists()
    fitted: list[str] = []

    def counted(inputs: TaskInputs) -> Scored:
        fitted.append(inputs.name)
        return score_task(inputs)

    def unwritten(tree: dict[str, Any], folder: Path) -> Report:
        return Report(tree, folder, {})

    monkeypatch.setattr(evaluation.scores.store, "score_task", counted)
    monkeypatch.setattr(evaluation.evaluate, "write_report", unwritten)
    resumed = evaluate_encoders({"trained": Known()}, configure(str(shards)), out, about={}).tree
    assert fitted == ["key", "tempo"]
    whole = evaluate_encoders({"trained": Known()}, replace(configure(str(shards)), cache=str(out / "embeddings")),
                              tmp_path / "whole", about={}).tree  # fmt: skip
    assert fitted == ["key", "tempo", "tags", "key", "tempo"]
    for part in ("metrics", "baselines", "differences", "tasks", "notes"):
        assert resumed[part] == whole[part], part
    evaluate_encoders({"trained": Known()}, replace(configure(str(shards)), seed=1), out, about={})
    assert fitted[5:] == ["tags", "key", "tempo"]  # other draws are other scores


@pytest.fixture
def asked(
    make_target: Callable[..., Target], make_table: Callable[..., EmbeddingTable]
) -> tuple[Target, dict[str, EmbeddingTable]]:
    rng = np.random.default_rng(0)
    tags = rng.random((48, 3)) < 0.5
    tags[:4] = [[True, False, True]] * 4
    return make_target(tags, ("a", "b", "c")), {"trained": make_table(rng.normal(size=(48, 4)))}


CONFIG = EvaluationConfig(confidence=ConfidenceConfig(resamples=100), seeds=2, ks=(1,))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"seeds": 3},
        {"ks": (1, 2)},
        {"exclude": "artist"},
        {"device": "cuda"},
        {"split": "valid"},
        {"confidence": ConfidenceConfig(resamples=101)},
        {"confidence": ConfidenceConfig(resamples=100, cluster="track")},
        {"robustness": RobustnessConfig(corruptions=("reverb",))},
    ],
    ids=str,
)
def test_other_settings_have_another_key(asked: Any, change: dict[str, Any]) -> None:
    target, tables = asked
    before = score_key(TaskInputs("t", TASKS["tags"], target, tables, CONFIG))
    assert before == score_key(TaskInputs("t", TASKS["tags"], target, tables, CONFIG))
    assert before != score_key(TaskInputs("t", TASKS["tags"], target, tables, replace(CONFIG, **change)))


def test_another_task_target_embedding_or_code_has_another_key(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target, tables = asked
    (table,) = tables.values()
    task = TASKS["tags"]
    moved = target.split_K.copy()
    moved[0] = "test"
    values = target.values.copy()
    values[0, 0] ^= True
    other = table.h_KE.copy()
    other[0, 0] += 1
    keys = [
        score_key(TaskInputs("t", task, target, tables, CONFIG)),
        score_key(TaskInputs("u", task, target, tables, CONFIG)),
        score_key(TaskInputs("t", replace(task, learning_rate=1e-3), target, tables, CONFIG)),
        score_key(TaskInputs("t", task, replace(target, split_K=moved), tables, CONFIG)),
        score_key(TaskInputs("t", task, replace(target, values=values), tables, CONFIG)),
        score_key(TaskInputs("t", task, replace(target, classes=("a", "b", "d")), tables, CONFIG)),
        score_key(TaskInputs("t", task, target, {"trained": replace(table, h_KE=other)}, CONFIG)),
        score_key(TaskInputs("t", task, target, {"trained": replace(table, encoder="other")}, CONFIG)),
        score_key(TaskInputs("t", task, target, {"trained": replace(table, manifest="other")}, CONFIG)),
        score_key(TaskInputs("t", task, target, tables | {"untrained": table}, CONFIG)),
    ]
    monkeypatch.setattr(evaluation.scores.store, "_code", lambda _: "other")
    keys.append(score_key(TaskInputs("t", task, target, tables, CONFIG)))
    assert len(set(keys)) == len(keys)


def test_other_shards_and_caches_at_other_places_have_the_same_key(asked: Any) -> None:
    target, tables = asked
    moved = replace(CONFIG, data=EvaluationData(shards="elsewhere"), cache="elsewhere", against={"b": "c"})
    assert score_key(TaskInputs("t", TASKS["tags"], target, tables, CONFIG)) == score_key(
        TaskInputs("t", TASKS["tags"], target, tables, moved)
    )


@pytest.mark.parametrize("task", [TASKS["tags"], replace(TASKS["tags"], standardise=True)], ids=["plain", "scaled"])
def test_what_is_read_back_is_what_was_scored(asked: Any, task: Task, tmp_path: Path) -> None:
    target, tables = asked
    scored = score_task(TaskInputs("t", task, target, tables, CONFIG))
    for weights in (True, False):
        save_scores(scored, "key", tmp_path / "t.safetensors", weights=weights)
        back = load_scores(tmp_path / "t.safetensors", "key", task, "cpu")
        assert back is not None
        assert list(back.metrics) == list(scored.metrics)
        for metric, by_model in scored.metrics.items():
            for model, samples in by_model.items():
                found = back.metrics[metric][model]
                np.testing.assert_array_equal(found.values_R, samples.values_R)
                assert found.row(0.95) == samples.row(0.95)
                assert found.by_tag == samples.by_tag
        plain = ("conventions", "n", "clusters", "counts", "classes", "masked", "notes")
        assert all(getattr(back, name) == getattr(scored, name) for name in plain)
        assert back.probes[0].epochs() == scored.probes[0].epochs()
        if weights:
            rows = np.arange(5)
            for model, answer in scored.probes[0].answer(tables, rows).items():
                np.testing.assert_array_equal(back.probes[0].answer(tables, rows)[model], answer)
    assert load_scores(tmp_path / "t.safetensors", "other key", task, "cpu") is None


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_scored_again_with_a_warning(
    asked: Any, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target, tables = asked
    path = tmp_path / "t.safetensors"
    save_scores(score_task(TaskInputs("t", TASKS["tags"], target, tables, CONFIG)), "key", path, weights=True)
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(bytes({"cut": content[:-9], "flipped": content, "empty": b""}[how]))
    assert load_scores(path, "key", TASKS["tags"], "cpu") is None
    assert "are computed again" in caplog.text
