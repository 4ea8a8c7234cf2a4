from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.config import Chunking, ConfidenceConfig, EvaluationConfig, Task
from evaluation.embeddings.embed import EmbeddingTable
from evaluation.metrics.confidence import interval
from evaluation.runnable import why_not
from evaluation.scores.score import Scored, TaskInputs, score_task
from evaluation.targets.target import Target

MakeTarget = Callable[..., Target]
MakeTable = Callable[..., EmbeddingTable]
CONFIG = EvaluationConfig(confidence=ConfidenceConfig(resamples=200), seeds=2, ks=(1, 3))
COUNT = 400


def quick(kind: Any, **changes: Any) -> Task:
    settings: dict[str, Any] = {"column": kind, "kind": kind, "probe": True, "head": "linear", "dropout": 0.0}
    return Task(**(settings | {"learning_rate": 0.05, "patience": 20, "max_epochs": 150} | changes))


def onehot(codes: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    return np.eye(count, dtype=np.float32)[codes]


def value(scored: Scored, metric: str, model: str = "trained") -> tuple[float, float, float]:
    return interval(scored.metrics[metric][model].values_R, 0.95)


@pytest.fixture
def known(make_target: MakeTarget, keys: tuple[str, ...]) -> dict[str, tuple[Target, NDArray[np.float32]]]:
    """Targets, and embeddings that hold the answer and nothing else."""
    rng = np.random.default_rng(0)
    tags = rng.random((COUNT, 5)) < 0.3
    tags[np.arange(COUNT), rng.integers(5, size=COUNT)] = True
    one_tag = np.eye(5, dtype=np.bool_)[rng.integers(5, size=COUNT)]
    codes, notes = rng.integers(6, size=COUNT), np.arange(COUNT) // 4 % 24  # no key is alone among the test clips
    bpm = rng.choice([70.0, 95.0, 130.0, 175.0], COUNT)
    octave = np.log2(bpm)[:, None]
    return {
        "tags": (make_target(tags, tuple("abcde")), tags.astype(np.float32)),
        "one_tag": (make_target(one_tag, tuple("abcde")), one_tag.astype(np.float32)),
        "class": (make_target(codes, tuple("uvwxyz")), onehot(codes, 6)),
        "key": (make_target(notes, keys), onehot(notes, 24)),
        "tempo": (make_target(bpm), np.concatenate([octave, np.ones_like(octave)], 1).astype(np.float32)),
        "number": (make_target(bpm), np.stack([bpm / 100, np.ones(COUNT)], 1).astype(np.float32)),
    }


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        ("tags", ("auroc", "ap")),
        ("class", ("accuracy",)),
        ("key", ("weighted",)),
        ("tempo", ("acc1", "acc2")),
        ("number", ("r2",)),
    ],
)
def test_a_probe_on_embeddings_that_hold_the_answer_scores_one(
    known: dict[str, Any], make_table: MakeTable, kind: str, metrics: tuple[str, ...]
) -> None:
    target, answer = known[kind]
    task = quick(kind, patience=50, max_epochs=400, standardise=kind == "tempo")
    scored = score_task(TaskInputs(kind, task, target, {"trained": make_table(answer)}, CONFIG))
    assert tuple(scored.metrics) == metrics
    for metric in metrics:
        assert value(scored, metric)[0] == pytest.approx(1.0, abs=0.002 if kind == "number" else 1e-12)


@pytest.mark.parametrize(
    ("name", "kind", "metric"),
    [("one_tag", "tags", "p"), ("class", "class", "p"), ("key", "key", "weighted"), ("tempo", "tempo", "acc1")],
)
def test_neighbours_by_embeddings_that_hold_the_answer_score_one(
    known: dict[str, Any], make_table: MakeTable, name: str, kind: str, metric: str
) -> None:
    target, answer = known[name]
    task = quick(kind, probe=False, retrieval=True)
    scored = score_task(TaskInputs(name, task, target, {"trained": make_table(answer)}, EvaluationConfig(ks=(1,))))
    assert value(scored, f"{metric}@1") == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("kind", ["tags", "class", "key", "tempo"])
def test_random_embeddings_score_chance_within_their_interval(
    known: dict[str, Any], make_table: MakeTable, kind: str
) -> None:
    target, _ = known[kind]
    table = make_table(np.random.default_rng(11).normal(size=(COUNT, 6)))
    # A regression of noise answers the mean, which is not chance: tempo is only retrieved.
    task = quick(kind, probe=kind != "tempo", retrieval=kind != "tags")
    scored = score_task(TaskInputs(kind, task, target, {"trained": table}, CONFIG))
    for metric, samples in scored.metrics.items():
        gap = samples["trained"].values_R - samples["random"].values_R
        assert abs(gap[0]) < min(0.15, 4 * gap[1:].std()), metric


def test_a_constant_has_half_auroc_and_the_prevalence_as_ap(known: dict[str, Any], make_table: MakeTable) -> None:
    target, answer = known["tags"]
    scored = score_task(TaskInputs("tags", quick("tags"), target, {"trained": make_table(answer)}, CONFIG))
    assert value(scored, "auroc", "constant") == (0.5, 0.5, 0.5)
    prevalence = target.only("test").values.mean()
    assert value(scored, "ap", "constant")[0] == pytest.approx(prevalence, abs=1e-12)


def test_the_constant_key_is_the_best_one_of_train_and_is_scored_on_test(
    known: dict[str, Any], make_table: MakeTable, keys: tuple[str, ...]
) -> None:
    from mir_eval.key import weighted_score

    target, answer = known["key"]
    scored = score_task(
        TaskInputs("key", quick("key", retrieval=True), target, {"trained": make_table(answer)}, CONFIG)
    )

    def mean(split: str, estimate: str) -> float:
        return float(np.mean([weighted_score(keys[code], estimate) for code in target.only(split).values]))

    best = max(keys, key=lambda key: mean("train", key))
    assert value(scored, "weighted", "constant")[0] == pytest.approx(mean("test", best))
    assert value(scored, "weighted@3", "constant")[0] == pytest.approx(mean("test", best))


def test_a_tag_without_positives_is_masked_and_named(make_target: MakeTarget, make_table: MakeTable) -> None:
    tags = np.random.default_rng(2).random((COUNT, 4)) < 0.4
    tags[:, 0] = True  # known everywhere, and a tag that all have
    tags[np.arange(COUNT) % 4 == 3, 2] = False
    target = make_target(tags, ("all", "some", "none", "more"))
    scored = score_task(TaskInputs("tags", quick("tags"), target, {"trained": make_table(tags)}, CONFIG))
    assert scored.masked == ("all", "none")
    assert set(scored.metrics["ap"]["trained"].by_tag) == {"some", "more"}
    assert value(scored, "ap")[0] == pytest.approx(1.0)
    assert "2 of 4 tags" in scored.conventions["ap"]


def test_clips_of_the_querys_track_or_artist_are_no_neighbours(make_target: MakeTarget, make_table: MakeTable) -> None:
    """Every clip's nearest is a clip of its own artist; without them nothing is left that agrees."""
    artists = np.arange(COUNT) // 5
    target = make_target(artists.astype(np.int64), tuple(f"a{i}" for i in range(COUNT // 5)))
    table = make_table(onehot(artists, COUNT // 5) + 0.01 * np.eye(COUNT, COUNT // 5, dtype=np.float32))
    task = quick("class", probe=False, retrieval=True)
    everyone = score_task(TaskInputs("artist", task, target, {"trained": table}, EvaluationConfig(ks=(1,))))
    others = score_task(
        TaskInputs("artist", task, target, {"trained": table}, EvaluationConfig(ks=(1,), exclude="artist"))
    )
    assert value(everyone, "p@1")[0] > 0.3  # one or two test clips an artist, each a track of its own
    assert value(others, "p@1") == (0.0, 0.0, 0.0)


def test_a_query_with_too_few_neighbours_is_noted(make_target: MakeTarget, make_table: MakeTable) -> None:
    codes = np.arange(16) % 2
    target = make_target(codes, ("a", "b"))
    task = quick("class", probe=False, retrieval=True)
    scored = score_task(
        TaskInputs("few", task, target, {"trained": make_table(onehot(codes, 2))}, EvaluationConfig(ks=(1, 10)))
    )
    assert any("4 queries have fewer than 10 neighbours" in note for note in scored.notes)
    assert any("rest on 4 artists only" in note for note in scored.notes)


def in_chunks(h_KE: NDArray[np.float32], counts_K: NDArray[np.int64], name: str) -> EmbeddingTable:
    """Chunks of which the first says nothing of its clip and all others do, so that no clip is scored by another's."""
    pairs = zip(h_KE, counts_K, strict=True)
    chunks = [np.concatenate([np.zeros((1, len(h_E))), np.tile(h_E, (n - 1, 1))]) for h_E, n in pairs]
    chunks_PE = np.concatenate(chunks).astype(np.float32)
    return EmbeddingTable(h_KE, tuple(map(str, range(len(h_KE)))), chunks_PE, counts_K, name, "m")


@pytest.mark.parametrize("aggregate", ["probabilities", "logits"])
def test_chunks_are_averaged_behind_the_head_clip_by_clip(known: dict[str, Any], aggregate: Any) -> None:
    """Encoders of one width, whose clips have other numbers of chunks, are each scored by their own."""
    target, answer = known["class"]
    rng = np.random.default_rng(3)
    tables = {
        "trained": in_chunks(answer, np.full(COUNT, 3), "t"),
        "longer": in_chunks(answer, np.full(COUNT, 2), "l"),
        "uneven": in_chunks(answer, rng.integers(2, 6, COUNT), "u"),
    }
    config = EvaluationConfig(chunking=Chunking(aggregate=aggregate), seeds=2)
    scored = score_task(TaskInputs("class", quick("class"), target, tables, config))
    for model in tables:
        assert value(scored, "accuracy", model) == (1.0, 1.0, 1.0), model


def test_the_mean_of_probabilities_is_not_that_of_logits(make_target: MakeTarget) -> None:
    """One chunk shouts for the wrong class, two say the right one: shouting counts among logits, not among votes."""
    codes = np.arange(COUNT) // 4 % 2
    right, wrong = onehot(codes, 2), onehot(1 - codes, 2)
    chunks_PE = np.stack([2 * right, 2 * right, 30 * wrong], 1).reshape(-1, 2)
    table = EmbeddingTable(2 * right, tuple(map(str, range(COUNT))), chunks_PE, np.full(COUNT, 3), "t", "m")
    target, found = make_target(codes, ("a", "b")), {}
    for aggregate in ("probabilities", "logits"):
        config = EvaluationConfig(chunking=Chunking(aggregate=aggregate), seeds=1)
        found[aggregate] = value(
            score_task(TaskInputs("x", quick("class"), target, {"trained": table}, config)), "accuracy"
        )[0]
    assert found == {"probabilities": 1.0, "logits": 0.0}


def test_a_head_that_the_cap_stopped_is_named(known: dict[str, Any], make_table: MakeTable) -> None:
    target, answer = known["class"]
    noisy = make_table(answer + np.random.default_rng(0).normal(size=answer.shape))
    capped = score_task(TaskInputs("x", quick("class", max_epochs=3), target, {"trained": noisy}, CONFIG))
    assert "x: 2 of 2 heads of trained still had patience when max_epochs=3 stopped them" in " ".join(capped.notes)
    free = score_task(TaskInputs("x", quick("class", max_epochs=10_000), target, {"trained": noisy}, CONFIG))
    assert not free.notes
    epochs = free.probes[0].epochs()["trained"]
    assert [last - best for best, last in zip(epochs.best, epochs.last, strict=True)] == [20, 20]


def test_standardising_makes_the_scale_of_an_embedding_irrelevant(known: dict[str, Any], make_table: MakeTable) -> None:
    target, answer = known["class"]
    noisy = answer + 0.5 * np.random.default_rng(0).normal(size=answer.shape)
    tables = {"trained": make_table(noisy), "untrained": make_table(1000 * noisy + 7)}
    scored = score_task(TaskInputs("class", quick("class", standardise=True), target, tables, CONFIG))
    samples = scored.metrics["accuracy"]
    assert samples["trained"].values_R[0] == pytest.approx(samples["untrained"].values_R[0], abs=0.02)


def test_models_of_different_width_are_scored_on_the_same_resamples(
    known: dict[str, Any], make_table: MakeTable
) -> None:
    target, answer = known["class"]
    wide = np.concatenate([answer, np.zeros((COUNT, 3))], 1)
    scored = score_task(
        TaskInputs("class", quick("class"), target, {"trained": make_table(answer), "wide": make_table(wide)}, CONFIG)
    )
    assert list(scored.metrics["accuracy"]) == ["trained", "wide", "random", "constant"]


def test_a_split_without_labels_is_named(make_target: MakeTarget) -> None:
    codes = np.zeros(8, np.int64)
    target = make_target(codes, ("a",))
    no_valid = Target(
        target.rows_K, np.array(["train"] * 4 + ["test"] * 4), target.track_K, target.artist_K, codes, ("a",)
    )
    reason = why_not("x", quick("class"), no_valid, CONFIG)
    assert reason is not None
    assert reason.startswith("task x: no clip of split valid has a value in column class")
    assert why_not("x", quick("class", probe=False, retrieval=True), no_valid, CONFIG) is None


def test_scores_do_not_depend_on_which_tasks_ran_before(known: dict[str, Any], make_table: MakeTable) -> None:
    target, answer = known["class"]
    table = make_table(answer + np.random.default_rng(0).normal(size=answer.shape))
    first = score_task(TaskInputs("x", quick("class"), target, {"trained": table}, CONFIG))
    score_task(TaskInputs("y", quick("class", retrieval=True), target, {"trained": table}, CONFIG))
    again = score_task(TaskInputs("x", quick("class"), target, {"trained": table}, CONFIG))
    np.testing.assert_array_equal(
        first.metrics["accuracy"]["trained"].values_R, again.metrics["accuracy"]["trained"].values_R
    )
